"""The stream feed against the real simulated exchange on loopback: completeness, faults, handovers, refusals."""

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from exchanges.binance.klines import closed_minute_candles
from exchanges.binance.symbols import TRADING, ExchangeInfo, Pair, Symbols
from marketdata.errors import FatalSourceError
from marketdata.markets import Market
from marketdata.times import MINUTE_MS
from simulator.candles import Candles
from simulator.history import MarketHistory
from simulator.recording import Recording
from tests.support.exchange_server import DAY, Exchange, running_exchange, walk
from tests.support.recorded_feed import Fed, ServerClock, feeding

BTC, ETH = Market("BTC", "USD"), Market("ETH", "USD")


def of(exchange: Exchange, *markets: Market, **changed: Any) -> Fed:
    return Fed(f"{exchange.address}/binance".replace("http", "ws"), ServerClock(exchange), markets or (BTC,), **changed)


def dollar_history() -> MarketHistory:
    """BTCUSDT about 60,000 and BTCUSD about 600."""
    prices = {"BTCUSDT": 60_000.0, "BTCUSD": 600.0}
    return MarketHistory(
        {name: (walk(DAY, 1440, MINUTE_MS, price), Candles.empty()) for name, price in prices.items()}, 7
    )


def recorded(path: Path, seconds: int = 6, per_second: int = 50) -> tuple[Recording, dict[str, Any]]:
    """A recording of both markets, and the result of reading it offline."""
    lines, sent = [], {"updates": Counter[str](), "volume": Counter[str](), "last": {}}
    for number in range(seconds * per_second):
        at_ns = number * 10**9 // per_second
        for market in (BTC, ETH):
            name = market.binance.lower()
            book = {
                "u": number + 1,
                "s": market.binance,
                "b": f"{100 + number}.5",
                "B": "1.0",
                "a": "999.5",
                "A": "2.0",
            }
            lines.append((at_ns, {"stream": f"{name}@bookTicker", "data": book}))
            trade = {"e": "trade", "E": 1, "s": market.binance, "t": number + 1, "p": "100.0", "q": "0.125", "T": 1}
            lines.append((at_ns, {"stream": f"{name}@trade", "data": trade}))
            sent["updates"][market.symbol] += 1
            sent["volume"][market.symbol] += 0.125
            sent["last"][market.symbol] = 100.5 + number
    text = "".join(f"{at_ns} {json.dumps(message, separators=(',', ':'))}\n" for at_ns, message in lines)
    path.write_bytes(gzip.compress(text.encode()))
    return Recording([path]), sent


def assert_complete(fed: Fed, sent: dict[str, Any]) -> None:
    updates, volume, last = Counter[str](), Counter[str](), {}
    for tick in fed.ticks:
        updates[tick.symbol] += tick.n_updates or 0
        volume[tick.symbol] += tick.traded_volume or 0.0
        last[tick.symbol] = tick.bid_price
    assert updates == sent["updates"]
    assert volume == sent["volume"]
    assert last == sent["last"]
    ids = [tick.tick_id for tick in fed.ticks]
    assert len(ids) == len(set(ids))


def all_of(fed: Fed, sent: dict[str, Any]) -> Callable[[], bool]:
    def there() -> bool:
        updates, volume = sum(tick.n_updates or 0 for tick in fed.ticks), sum(t.traded_volume or 0 for t in fed.ticks)
        return updates >= sum(sent["updates"].values()) and volume >= sum(sent["volume"].values())

    return there


async def test_a_recording_is_complete_with_one_tick_per_market_and_second(tmp_path: Path) -> None:
    recording, sent = recorded(tmp_path / "r.gz")
    async with running_exchange(recording=recording, speed=10.0) as exchange, feeding(of(exchange, BTC, ETH)) as fed:
        await fed.until(all_of(fed, sent), "all updates and trades")
    assert_complete(fed, sent)
    assert {tick.timestamp_ms % 1_000 for tick in fed.ticks} == {0}
    assert len(fed.ticks) < sum(sent["updates"].values()) / 10
    assert fed.counted("events_total", kind="quote") == sum(sent["updates"].values())
    tick = fed.ticks[-1]
    assert (tick.vwap, tick.price, tick.divergence_bps) == (100.0, None, None)
    assert {name: state.status for name, state in tick.sources.items()} == {"coingecko": "not_polled", "binance": "ok"}


async def test_a_slow_broker_extends_intervals_and_loses_nothing(tmp_path: Path) -> None:
    recording, sent = recorded(tmp_path / "r.gz")
    async with running_exchange(recording=recording, speed=60.0) as exchange, feeding(of(exchange, BTC, ETH)) as fed:
        fed.delay_s = 0.3
        await fed.until(all_of(fed, sent), "all updates and trades")
    assert_complete(fed, sent)


@pytest.mark.parametrize("fault", ["ws_close", "ws_shutdown"])
async def test_broken_and_announced_disconnects_lose_nothing_that_is_sent_again(tmp_path: Path, fault: str) -> None:
    recording, sent = recorded(tmp_path / "r.gz", seconds=30, per_second=10)
    reason = "lost" if fault == "ws_close" else "shutdown"
    async with running_exchange(recording=recording, speed=2.0) as exchange, feeding(of(exchange, BTC, ETH)) as fed:
        await fed.until(lambda: len(fed.ticks) > 2, "the first ticks")
        await exchange.fault(fault, match="/stream", count=1, grace_s=0.4)
        await fed.until(lambda: fed.connects(reason) == 1, "the next connection")
        await exchange.clock(speed=30.0)
        await fed.until(all_of(fed, sent), "all updates and trades")
    assert_complete(fed, sent)
    assert fed.connects("start") == 1
    assert fed.failures("lost") == (1 if fault == "ws_close" else 0)


async def test_an_old_connection_is_replaced_before_it_is_closed() -> None:
    async with running_exchange(speed=60.0) as exchange, feeding(of(exchange, life_ms=120_000)) as fed:
        await fed.until(lambda: fed.connects("life") >= 2, "two handovers")
        await fed.until(
            lambda: fed.counted("connections") == 1 and len(exchange.state.open_sockets) == 1, "the old one's end"
        )
    assert fed.failures("lost") == 0
    assert fed.counted("connections") == 0


async def test_closed_candles_are_those_of_the_rest_api() -> None:
    async with running_exchange(speed=60.0) as exchange, feeding(of(exchange, BTC, ETH)) as fed:
        await fed.until(lambda: len(fed.candles) >= 6, "candles")
        for market in (BTC, ETH):
            candles = [candle for candle in fed.candles if candle.symbol == market.symbol]
            _, rows, _ = await exchange.get(
                "/binance/api/v3/klines",
                symbol=market.binance,
                interval="1m",
                startTime=str(candles[0].open_time_ms),
                limit=str(len(candles)),
            )
            assert candles == closed_minute_candles(market.symbol, rows, candles[-1].open_time_ms + 2 * MINUTE_MS)
    trades = sum(tick.n_trades or 0 for tick in fed.ticks)
    assert trades > 0
    assert trades == fed.counted("events_total", kind="trade")


async def test_a_failure_is_retried_and_a_refusal_pauses_the_stream_until_it_is_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_exchange(speed=60.0) as exchange:
        await exchange.fault("503", match="/stream", count=2)
        async with feeding(of(exchange)) as fed:
            await fed.until(lambda: len(fed.ticks) > 0, "a tick")
            assert fed.failures("server_error") == 2
        await exchange.fault("451", match="/stream", count=3)  # pauses of up to 30 + 60 + 120 s of exchange time
        async with feeding(of(exchange)) as fed:
            await fed.until(lambda: fed.failures("geo_blocked") == 1, "the refusal")
            assert fed.ticks == []
            assert 0.25 <= fed.paused() <= 0.5
            await fed.until(lambda: len(fed.ticks) > 0, "a tick after three refusals")
            assert (fed.failures("geo_blocked"), fed.paused()) == (3, 0)
    assert caplog.text.count("HTTP 451") == 1


async def test_a_refusal_of_the_next_connection_does_not_end_the_old_one(caplog: pytest.LogCaptureFixture) -> None:
    async with running_exchange(speed=60.0) as exchange, feeding(of(exchange, life_ms=120_000)) as fed:
        await fed.until(lambda: len(fed.ticks) > 0, "a tick")
        await exchange.fault("403", match="/stream", count=1)
        await fed.until(lambda: fed.failures("forbidden") == 1, "the refused handover")
        seen = len(fed.ticks)
        await fed.until(lambda: len(fed.ticks) > seen + 3, "more ticks")
    assert (fed.failures("lost"), fed.connects("start")) == (0, 1)
    assert "HTTP 403" in caplog.text


async def test_a_rate_limit_is_honoured() -> None:
    async with running_exchange(speed=60.0) as exchange:
        await exchange.fault("429", match="/stream", count=1, retry_after_s=60)  # of exchange time: a second
        async with feeding(of(exchange)) as fed:
            await fed.until(lambda: fed.failures("rate_limited") + fed.failures("banned") >= 1, "the refusal")
            assert fed.connects("start") == 0
            await fed.until(lambda: fed.connects("start") == 1, "a connection a second later, not a minute")


async def test_a_message_that_is_not_json_is_counted_and_the_stream_continues() -> None:
    async with running_exchange(speed=60.0) as exchange, feeding(of(exchange)) as fed:
        await exchange.fault("ws_garbage", match="/stream", count=2)
        await fed.until(lambda: fed.failures("bad_payload") == 2, "the refused messages")
        seen = len(fed.ticks)
        await fed.until(lambda: len(fed.ticks) > seen, "more ticks")
    assert fed.connects("lost") == 0


async def test_only_the_leader_feeds() -> None:
    async with running_exchange(speed=60.0) as exchange:
        fed = of(exchange)
        fed.leads = False
        async with feeding(fed):
            await asyncio.sleep(0.7)
            assert fed.counted("connections") == 0
            fed.leads = True
            await fed.until(lambda: len(fed.ticks) > 0, "a tick")
            fed.leads = False
            await fed.until(lambda: fed.counted("connections") == 0, "its retreat")


async def test_events_before_the_end_of_leadership_are_published(tmp_path: Path) -> None:
    recording, _sent = recorded(tmp_path / "r.gz")
    async with running_exchange(recording=recording, speed=1.0) as exchange:
        fed = of(exchange, BTC, ETH, interval_ms=500)
        async with feeding(fed):
            await fed.until(lambda: len(fed.ticks) >= 4, "ticks")
            before = len(fed.ticks)
            fed.leads = False
            await fed.until(lambda: fed.counted("connections") == 0, "no connection after the lead")
            await fed.until(lambda: len(fed.ticks) >= before + 2, "the interval in which the lead was lost")
            heard = sum(tick.n_updates or 0 for tick in fed.ticks)
            lost = fed.counted("lost_events_total", kind="quote")
            assert heard == fed.counted("events_total", kind="quote")
            assert lost <= heard / 4  # only events that arrived while the connection was closing
            last = {tick.symbol: tick for tick in fed.ticks}
            # The recording's bid counts its messages: all up to the last published one are in a tick.
            assert sum(int(tick.bid_price or 0) - 100 + 1 for tick in last.values()) == heard


async def test_undelivered_and_interrupted_events_are_counted(tmp_path: Path) -> None:
    recording, _sent = recorded(tmp_path / "r.gz", seconds=2)
    async with running_exchange(recording=recording, speed=1.0) as exchange:
        fed = of(exchange, BTC, ETH, interval_ms=500)
        fed.delay_s = 3600.0
        task = asyncio.create_task(fed.feed.run(lambda: fed.leads))
        await fed.until(lambda: fed.waiting > 0, "ticks that the broker does not take")
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert fed.ticks == []
        assert fed.counted("lost_events_total", kind="quote") > 0
        assert fed.counted("lost_events_total", kind="quote") == fed.counted("lost_events_total", kind="trade")


async def test_a_new_leader_counts_the_gap_of_the_stream() -> None:
    async def newest(before_ms: int) -> int | None:
        return before_ms - 7_000

    async with running_exchange(speed=1.0) as exchange:
        fed = of(exchange, newest=newest)
        async with feeding(fed):
            await fed.until(lambda: fed.counted("gap_seconds_total") == pytest.approx(7.0), "the counted gap")


async def test_a_probe_subscribes_and_disconnects_or_raises() -> None:
    async with running_exchange(speed=60.0) as exchange:
        fed = of(exchange, BTC, ETH)
        assert await fed.feed.probe() == 1
        assert (fed.counted("connections"), fed.connects("start")) == (0, 1)
        await exchange.fault("451", match="/stream")
        with pytest.raises(FatalSourceError, match="HTTP 451"):
            await fed.feed.probe()
    assert fed.ticks == []


async def test_streams_with_other_names_replace_the_former_ones() -> None:
    symbols = Symbols([BTC])
    async with running_exchange(history=dollar_history(), speed=10.0) as exchange:
        fed = of(exchange, symbols=symbols)
        async with feeding(fed):
            await fed.until(lambda: len(fed.ticks) > 1, "ticks of BTCUSDT")
            pair = Pair("BTCUSD", "BTC", "USD", TRADING)
            symbols.update(ExchangeInfo({("BTC", "USD"): pair}, None))
            await fed.until(lambda: (fed.ticks[-1].bid_price or 0.0) < 1_000, "ticks of BTCUSD")
        assert fed.ticks[0].bid_price is not None
        assert fed.ticks[0].bid_price > 10_000
    assert (fed.connects("start"), fed.failures("lost")) == (2, 0)


async def test_a_feed_without_a_listed_market_waits_for_one() -> None:
    symbols = Symbols([BTC])
    symbols.update(ExchangeInfo({("ETH", "USDT"): Pair("ETHUSDT", "ETH", "USDT", TRADING)}, None))
    async with running_exchange(speed=10.0) as exchange, feeding(of(exchange, symbols=symbols)) as fed:
        await asyncio.sleep(0.3)
        assert (fed.ticks, fed.counted("connections")) == ([], 0)
        symbols.update(ExchangeInfo({("BTC", "USDT"): Pair("BTCUSDT", "BTC", "USDT", TRADING)}, None))
        await fed.until(lambda: len(fed.ticks) > 1, "ticks of BTCUSDT")
