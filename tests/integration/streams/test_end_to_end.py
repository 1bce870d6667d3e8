"""A real worker on a real Kafka collects from the simulated exchange: grid, both sources, candles, views, restart."""

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import httpx

from config import Settings
from exchanges.binance.klines import closed_minute_candles
from marketdata.markets import Market
from marketdata.records import Candle, DeadLetter, FeatureRow, Tick
from marketdata.times import MINUTE_MS
from marketdata.topics import TopicRole
from streams.kafka import topics
from tests.support.stack import ExchangeUnderTest, environment_of, eventually, eventually_async, running
from tests.support.streams_worker import FAUST, decoded, worker

SPEED = 20.0  # a poll may take half a minute of it, 1.5 s: enough on shared cores
POLLS = 6


def on(settings: Settings, exchange: ExchangeUnderTest) -> Settings:
    """The worker's settings with this exchange and its speed."""
    return settings.model_copy(
        update={
            "binance": settings.binance.model_copy(update={"base_url": exchange.binance}),
            "coingecko": settings.coingecko.model_copy(
                update={"base_url": exchange.coingecko, "calls_per_minute": 500, "calls_per_month": None}
            ),
            "clock": settings.clock.model_copy(update={"source": "exchange", "speed": SPEED}),
        }
    )


async def polled(settings: Settings, count: int, after: str = "") -> bool:
    """Whether every market has at least `count` clean ticks newer than `after`."""
    ticks = await decoded(settings, TopicRole.TICKS_CLEAN, Tick)
    seen = Counter(tick.symbol for tick in ticks if tick.timestamp > after)
    return all(seen[symbol] >= count for symbol in settings.markets)


async def test_a_worker_collects_and_cleans_across_a_restart(
    settings: Settings, start_exchange: Callable[..., ExchangeUnderTest], tmp_path: Path
) -> None:
    exchange = start_exchange(speed=SPEED)
    own = on(settings, exchange)
    await topics.ensure(own)
    pages = f"http://127.0.0.1:{own.streams.web_port}"
    with worker(own, tmp_path / "first.log") as program:

        async def some() -> bool:
            program.check_running()
            return await polled(own, POLLS)

        await eventually_async(some, 60, f"{POLLS} polls of every market", every_s=0.5)
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            ready = (await client.get(f"{pages}/health/ready")).json()
            live = (await client.get(f"{pages}/health/live")).json()
            assert ready == {"ready": True, "waiting_for": []}
            assert live == {"live": True, "stalled": {}}

            async def is_counted() -> bool:
                metrics = (await client.get(f"{pages}/metrics")).text
                wanted = ('bitcoin_source_up{source="binance"} 1.0', 'bitcoin_agent_events_total{agent="features"}')
                return all(line in metrics for line in wanted)

            await eventually_async(is_counted, 20, "a good poll and handled features in the metrics", every_s=0.5)
    assert program.process.returncode == 0
    assert "Traceback" not in program.output()

    ticks = await decoded(own, TopicRole.TICKS_CLEAN, Tick)
    last = max(tick.timestamp for tick in ticks)
    with worker(own, tmp_path / "second.log") as program:

        async def more() -> bool:
            program.check_running()
            return await polled(own, 2, after=last)

        await eventually_async(more, 60, "polls after the restart", every_s=0.5)

    ticks = await decoded(own, TopicRole.TICKS_CLEAN, Tick)
    assert [one for one, count in Counter(tick.tick_id for tick in ticks).items() if count > 1] == []
    assert {tick.timestamp_ms % MINUTE_MS for tick in ticks} == {0}
    first_seen = {tick.symbol: tick for tick in ticks}
    for symbol in own.markets:
        tick = first_seen[symbol]
        assert {source: state.status for source, state in tick.sources.items()} == {"binance": "ok", "coingecko": "ok"}
        assert None not in {tick.price, tick.bid_price, tick.ask_price, tick.market_cap, tick.trade_timestamp}
        assert tick.price_usd == (tick.price if tick.quote == "USD" else None)
    assert await decoded(own, TopicRole.DEAD_LETTERS, DeadLetter) == []
    rows = await decoded(own, TopicRole.FEATURES, FeatureRow)
    assert Counter((row.symbol, row.timestamp) for row in rows) >= Counter(
        (tick.symbol, tick.timestamp) for tick in ticks if tick.timestamp <= last
    )
    await assert_candles(own, exchange)


async def assert_candles(settings: Settings, exchange: ExchangeUnderTest) -> None:
    """Each minute once and in order, across the restart, and equal to the exchange's candles."""
    by_symbol: defaultdict[str, list[Candle]] = defaultdict(list)
    for candle in await decoded(settings, TopicRole.CANDLES, Candle):
        by_symbol[candle.symbol].append(candle)
    assert set(by_symbol) == set(settings.markets)
    for symbol, candles in by_symbol.items():
        opens = [candle.open_time_ms for candle in candles]
        assert opens == list(range(opens[0], opens[0] + len(opens) * MINUTE_MS, MINUTE_MS)), symbol
        query = {"symbol": Market.parse(symbol).binance, "interval": "1m", "startTime": opens[0], "limit": len(opens)}
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{exchange.binance}/api/v3/klines", params=query)
        assert candles == closed_minute_candles(symbol, answer.json(), opens[-1] + 2 * MINUTE_MS)


async def test_a_failing_source_leaves_nulls_and_the_other_continues(
    settings: Settings, start_exchange: Callable[..., ExchangeUnderTest], tmp_path: Path
) -> None:
    exchange = start_exchange(speed=SPEED)
    own = on(settings, exchange)
    await topics.ensure(own)
    exchange.control("POST", "faults", fault="500", match="/coingecko")
    with worker(own, tmp_path / "worker.log") as program:

        async def some() -> bool:
            program.check_running()
            return await polled(own, 2)

        await eventually_async(some, 60, "polls of every market", every_s=0.5)
        exchange.control("DELETE", "faults")
        last = max(tick.timestamp for tick in await decoded(own, TopicRole.TICKS_CLEAN, Tick))

        async def healed() -> bool:
            return await polled(own, 3, after=last)

        await eventually_async(healed, 60, "polls after the fault", every_s=0.5)
    ticks = sorted(await decoded(own, TopicRole.TICKS_CLEAN, Tick), key=lambda one: one.timestamp_ms)
    failed = [tick for tick in ticks if tick.sources["coingecko"].status == "server_error"]
    assert failed
    assert {tick.price for tick in failed} == {None}
    assert {tick.sources["binance"].status for tick in failed} == {"ok"}  # otherwise it is a dead letter
    assert None not in {tick.bid_price for tick in failed}
    assert ticks[-1].price is not None
    assert "coingecko quotes: server_error" in program.output()
    assert "coingecko quotes: responds again" in program.output()


async def test_a_worker_without_an_exchange_ends_with_an_error(settings: Settings, tmp_path: Path) -> None:
    own = settings.model_copy(
        update={
            "clock": settings.clock.model_copy(update={"source": "exchange"}),
            "binance": settings.binance.model_copy(update={"base_url": "http://127.0.0.1:9"}),
        }
    )
    with running([*FAUST, "worker", "-l", "info"], tmp_path / "w.log", environment_of(own), stop_s=10) as program:
        eventually(lambda: "waiting for the exchange's time" in program.output(), 30, "a word about the exchange")
        program.process.terminate()
        eventually(lambda: program.process.poll() is not None, 10, "the worker's end")
    assert program.process.returncode == 0
    assert "Traceback" not in program.output()


def test_a_worker_without_a_broker_ends_with_one_line(settings: Settings, tmp_path: Path) -> None:
    nobody = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"brokers": "127.0.0.1:9"})})
    with running([*FAUST, "worker", "-l", "info"], tmp_path / "w.log", environment_of(nobody)) as program:
        eventually(lambda: program.process.poll() is not None, 30, "the worker's end")
    assert program.process.returncode == 1
    assert "the worker cannot start: kafka.brokers: 127.0.0.1:9: no broker answers" in program.output()
    assert "Traceback" not in program.output()
