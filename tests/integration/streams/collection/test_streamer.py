"""The stream feed in a real worker on a real Kafka: complete recordings, both feeds, gaps of candles."""

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from decimal import Decimal
from heapq import merge
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from config import Settings
from exchanges.binance.klines import closed_minute_candles
from marketdata.codec import decode
from marketdata.markets import Market
from marketdata.records import Candle, DeadLetter, FeatureRow, Tick
from marketdata.times import MINUTE_MS, SECOND_MS, from_rfc3339
from marketdata.topics import TopicRole
from streams.kafka import topics
from tests.support.paths import SHARED_DATA
from tests.support.stack import ExchangeUnderTest, eventually_async
from tests.support.streams_worker import decoded, everything, fed, worker

SHARED = SHARED_DATA / "binance_ws"
START = "2024-08-05T00:00:00Z"
START_MS = from_rfc3339(START)


async def metrics(settings: Settings) -> str:
    """The worker's page; empty before the worker listens."""
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        try:
            return (await client.get(f"http://127.0.0.1:{settings.streams.web_port}/metrics")).text
        except httpx.ConnectError:
            return ""


def read_offline(lines: list[str]) -> dict[str, dict[str, Any]]:
    """Symbol to updates, trades, volume and last quote."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        data = json.loads(line.split(" ", 1)[1])["data"]
        one = found.setdefault(
            {"BTCUSDT": "BTC-USD", "ETHUSDT": "ETH-USD"}[data["s"]],
            {"updates": 0, "trades": 0, "volume": Decimal(0), "value": Decimal(0), "last": ()},
        )
        if data.get("e") == "trade":
            one["trades"] += 1
            one["volume"] += Decimal(data["q"])
            one["value"] += Decimal(data["q"]) * Decimal(data["p"])
        else:
            one["updates"] += 1
            one["last"] = tuple(float(data[name]) for name in "bBaA")
    return found


@pytest.mark.shared_data
async def test_the_recorded_stream_comes_out_complete(
    settings: Settings, start_exchange: Callable[..., ExchangeUnderTest], tmp_path: Path
) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data/binance_ws is not there: this test replays the real recording")
    files = [gzip.decompress(path.read_bytes()).decode().splitlines() for path in sorted(SHARED.glob("*.gz"))]
    wanted = ([line for line in file if '@bookTicker"' in line or '@trade"' in line] for file in files)
    lines = list(merge(*wanted, key=lambda line: int(line.split(" ", 1)[0])))
    recording = tmp_path / "recording.gz"
    recording.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), 1))
    expected = read_offline(lines)
    exchange = start_exchange(start=START, speed=60, ws_recording=recording)
    own = fed(settings, exchange, "stream").model_copy(update={"markets": ("BTC-USD", "ETH-USD")})
    await topics.ensure(own)
    with worker(own, tmp_path / "worker.log") as program:

        async def whole() -> bool:
            program.check_running()
            text = await metrics(own)
            return all(
                f'bitcoin_stream_events_total{{kind="{kind}",source="binance"}} {float(count)}' in text
                for kind, count in (
                    ("quote", sum(one["updates"] for one in expected.values())),
                    ("trade", sum(one["trades"] for one in expected.values())),
                )
            )

        await eventually_async(whole, 90, "all recorded events in ticks", every_s=0.5)

        async def cleaned() -> bool:
            return len(await everything(own, TopicRole.TICKS_CLEAN)) == len(await everything(own, TopicRole.TICKS))

        await eventually_async(cleaned, 30, "all ticks cleaned", every_s=0.5)
    assert program.process.returncode == 0
    assert "Traceback" not in program.output()
    ticks = await decoded(own, TopicRole.TICKS_CLEAN, Tick)
    assert await decoded(own, TopicRole.DEAD_LETTERS, DeadLetter) == []
    assert {tick.timestamp_ms % SECOND_MS for tick in ticks} == {0}
    for symbol, sums in expected.items():
        mine = [tick for tick in ticks if tick.symbol == symbol]
        assert all(one.timestamp_ms < later.timestamp_ms for one, later in pairwise(mine))
        assert sum(tick.n_updates or 0 for tick in mine) == sums["updates"]
        assert sum(tick.n_trades or 0 for tick in mine) == sums["trades"]
        volume = sum(tick.traded_volume or 0.0 for tick in mine)
        value = sum((tick.traded_volume or 0.0) * (tick.vwap or 0.0) for tick in mine)
        assert volume == pytest.approx(float(sums["volume"]), rel=1e-9)
        assert value == pytest.approx(float(sums["value"]), rel=1e-9)
        last = mine[-1]
        assert (last.bid_price, last.bid_qty, last.ask_price, last.ask_qty) == sums["last"]
    rows = {row.symbol: row for row in await decoded(own, TopicRole.FEATURES, FeatureRow)}
    for symbol, sums in expected.items():
        window = rows[symbol].windows["1h"]
        assert window.volume == pytest.approx(float(sums["volume"]), rel=1e-9)
        assert window.vwap == pytest.approx(float(sums["value"] / sums["volume"]), rel=1e-9)


async def candles_of(settings: Settings) -> dict[str, list[Candle]]:
    """By market, in the order of the topic."""
    found: defaultdict[str, list[Candle]] = defaultdict(list)
    for record in await everything(settings, TopicRole.CANDLES):
        candle = decode(Candle, record.value)
        found[candle.symbol].append(candle)
    return found


async def assert_each_minute_once(settings: Settings, exchange: ExchangeUnderTest) -> None:
    """Without gaps, and equal to the exchange's REST API."""
    by_symbol = await candles_of(settings)
    assert set(by_symbol) == set(settings.markets)
    for symbol, published in by_symbol.items():
        candles = sorted(published, key=lambda candle: candle.open_time_ms)
        opens = [candle.open_time_ms for candle in candles]
        assert opens == list(range(opens[0], opens[0] + len(opens) * MINUTE_MS, MINUTE_MS)), symbol
        query = {"symbol": Market.parse(symbol).binance, "interval": "1m", "startTime": opens[0], "limit": len(opens)}
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{exchange.binance}/api/v3/klines", params=query)
        assert candles == closed_minute_candles(symbol, answer.json(), opens[-1] + 2 * MINUTE_MS)


async def test_both_feeds_across_a_broken_connection(
    settings: Settings, start_exchange: Callable[..., ExchangeUnderTest], tmp_path: Path
) -> None:
    exchange = start_exchange(start=START, speed=60)
    own = fed(settings, exchange, "both")
    await topics.ensure(own)

    async def counts() -> tuple[Counter[str], Counter[str]]:
        ticks = await decoded(own, TopicRole.TICKS_CLEAN, Tick)
        streamed = Counter(tick.symbol for tick in ticks if tick.n_updates is not None)
        return streamed, Counter(tick.symbol for tick in ticks if tick.n_updates is None)

    with worker(own, tmp_path / "worker.log") as program:

        async def some() -> bool:
            program.check_running()
            streamed, polled = await counts()
            return all(streamed[symbol] >= 8 and polled[symbol] >= 2 for symbol in own.markets)

        await eventually_async(some, 60, "ticks of both feeds", every_s=0.5)
        exchange.control("POST", "faults", fault="ws_close", match="/stream", count=1)

        async def again() -> bool:
            return 'connects_total{reason="lost",source="binance"} 1.0' in await metrics(own)

        await eventually_async(again, 30, "another connection", every_s=0.2)
        streamed_before, polled_before = await counts()

        async def more() -> bool:
            streamed, polled = await counts()
            return all(
                streamed[symbol] >= streamed_before[symbol] + 8 and polled[symbol] >= polled_before[symbol] + 3
                for symbol in own.markets
            )

        await eventually_async(more, 60, "ticks after it", every_s=0.5)
        requests = (await metrics(own)).splitlines()
    assert program.process.returncode == 0
    assert "Traceback" not in program.output()
    assert 'bitcoin_stream_connects_total{reason="start",source="binance"} 1.0' in requests
    assert await decoded(own, TopicRole.DEAD_LETTERS, DeadLetter) == []
    ticks = await decoded(own, TopicRole.TICKS, Tick)
    assert [one for one, count in Counter(tick.tick_id for tick in ticks).items() if count > 1] == []
    polled = [tick for tick in ticks if tick.n_updates is None]
    assert {tick.timestamp_ms % MINUTE_MS for tick in polled} == {0}
    assert any(tick.divergence_bps is not None for tick in polled)
    # A poll that exceeds its half second on a busy machine leaves nulls.
    assert all((tick.divergence_bps is None) == (None in (tick.price, tick.bid_price)) for tick in polled)
    bound = own.streams.divergence_bps
    assert all((abs(tick.divergence_bps or 0.0) > bound) == ("divergent" in tick.flags) for tick in polled)
    for tick in ticks:
        if tick.n_updates is not None:
            assert tick.timestamp_ms % MINUTE_MS
            assert (tick.price, tick.sources["coingecko"].status) == (None, "not_polled")
    await assert_each_minute_once(own, exchange)


async def test_late_candles_are_filled_while_running_and_after_a_restart(
    settings: Settings, start_exchange: Callable[..., ExchangeUnderTest], tmp_path: Path
) -> None:
    exchange = start_exchange(start=START, speed=60)
    own = fed(settings, exchange, "poll").model_copy(update={"markets": ("BTC-USD", "ETH-EUR")})
    await topics.ensure(own)

    async def held_back(first: int, last: int) -> bool:
        """Whether the minutes [first, last) are missing and a later one is on the topic."""
        by_symbol = await candles_of(own)
        for symbol in own.markets:
            minutes = {(candle.open_time_ms - START_MS) // MINUTE_MS for candle in by_symbol[symbol]}
            if not minutes or max(minutes) < last:
                return False
            assert not minutes & set(range(first, last))
        return True

    async def filled(first: int, last: int) -> bool:
        by_symbol = await candles_of(own)
        return all(
            {(candle.open_time_ms - START_MS) // MINUTE_MS for candle in by_symbol[symbol]} >= set(range(first, last))
            for symbol in own.markets
        )

    async def drop(first: int, last: int) -> None:
        span = {"from_ms": START_MS + first * MINUTE_MS, "to_ms": START_MS + last * MINUTE_MS}
        exchange.control("POST", "faults", fault="missing_candles", match="/klines", **span)

    await drop(3, 6)
    with worker(own, tmp_path / "first.log") as program:
        await eventually_async(lambda: held_back(3, 6), 60, "a hole", every_s=0.3)
        exchange.control("DELETE", "faults")
        await eventually_async(lambda: filled(0, 7), 60, "the hole filled", every_s=0.3)
        newest = max(candle.open_time_ms for published in (await candles_of(own)).values() for candle in published)
        first = (newest - START_MS) // MINUTE_MS + 10
        await drop(first, first + 4)
        await eventually_async(lambda: held_back(first, first + 4), 60, "another hole", every_s=0.3)
    exchange.control("DELETE", "faults")
    with worker(own, tmp_path / "second.log") as program:
        await eventually_async(lambda: filled(0, first + 5), 60, "the other hole filled after a start", every_s=0.3)
    assert "Traceback" not in program.output()
    await assert_each_minute_once(own, exchange)
