"""The stream feed against the real simulated exchange on loopback: completeness, faults, handovers, refusals."""

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from devstack.exchange.recording import Recording
from marketdata.codec import decode
from marketdata.errors import FatalSourceError, InvalidValueError
from marketdata.markets import Market
from marketdata.records import Candle, Tick
from marketdata.times import MINUTE_MS
from streams.batching import Item
from streams.collector import SleepingClock
from streams.feed import StreamFeed
from streams.metrics import Metrics
from streams.sources import sockets
from streams.sources.binance import closed_candles
from streams.sources.binance_stream import BinanceStream
from streams.sources.contracts import Answer, Farewell, QuoteUpdate, TradeUpdate
from streams.ticks import Bounds
from tests.exchange_server import NOON, Exchange, running_exchange

BTC, ETH = Market("BTC", "USD"), Market("ETH", "USD")
PATIENCE_S = 40.0


class ServerClock:
    """The exchange's own clock, seen from this process."""

    def __init__(self, exchange: Exchange) -> None:
        self._clock = exchange.state.clock

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def real_seconds(self, event_s: float) -> float:
        return event_s / max(self._clock.speed, 1e-3)

    async def sleep_until(self, event_ms: int) -> None:
        while self.now_ms() < event_ms:  # noqa: ASYNC110  time itself is what is waited for
            await asyncio.sleep(0.005)


class Fed:
    """A feed and what came out of it."""

    def __init__(self, url: str, clock: SleepingClock, markets: Sequence[Market], **changed: Any) -> None:
        self.metrics = Metrics()
        self.ticks: list[Tick] = []
        self.candles: list[Candle] = []
        self.leads = True
        self.delay_s = 0.0
        self.waiting = 0
        given: dict[str, Any] = {"interval_ms": 1_000, "polls_ms": None, "silence_s": 30.0, "life_ms": 86_400_000}
        self.feed = StreamFeed(
            markets=markets,
            source=BinanceStream(url, markets),
            clock=clock,
            metrics=self.metrics,
            publish=self.publish,
            topic="cryptoTopic",
            on_candle=self.candles.append,
            bounds=Bounds(),
            others={"coingecko": "not_polled"},
            **(given | changed),
        )

    async def publish(self, topic: str, items: Sequence[Item]) -> None:
        assert topic == "cryptoTopic"
        self.waiting += len(items)
        await asyncio.sleep(self.delay_s)
        self.ticks += [decode(Tick, value) for _key, value, _headers in items if value is not None]

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"bitcoin_stream_{name}", {"source": "binance"} | labels) or 0.0

    def connects(self, reason: str) -> float:
        return self.counted("connects_total", reason=reason)

    def failures(self, kind: str) -> float:
        labels = {"source": "binance", "kind": kind}
        return self.metrics.registry.get_sample_value("bitcoin_source_errors_total", labels) or 0.0

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():  # noqa: ASYNC110  any condition
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pytest.fail(f"not within {PATIENCE_S} s: {what}; {self.metrics.exposition().decode()}")


@asynccontextmanager
async def feeding(fed: Fed) -> AsyncIterator[Fed]:
    task = asyncio.create_task(fed.feed.run(lambda: fed.leads))
    try:
        yield fed
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def of(exchange: Exchange, *markets: Market, **changed: Any) -> Fed:
    return Fed(f"{exchange.address}/binance".replace("http", "ws"), ServerClock(exchange), markets or (BTC,), **changed)


def recorded(path: Path, seconds: int = 6, per_second: int = 50) -> tuple[Recording, dict[str, Any]]:
    """A recording of both markets, and what an offline reading of it gives."""
    lines, told = [], {"updates": Counter[str](), "volume": Counter[str](), "last": {}}
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
            told["updates"][market.symbol] += 1
            told["volume"][market.symbol] += 0.125
            told["last"][market.symbol] = 100.5 + number
    text = "".join(f"{at_ns} {json.dumps(message, separators=(',', ':'))}\n" for at_ns, message in lines)
    path.write_bytes(gzip.compress(text.encode()))
    return Recording([path]), told


def assert_complete(fed: Fed, told: dict[str, Any]) -> None:
    updates, volume, last = Counter[str](), Counter[str](), {}
    for tick in fed.ticks:
        updates[tick.symbol] += tick.n_updates or 0
        volume[tick.symbol] += tick.traded_volume or 0.0
        last[tick.symbol] = tick.bid_price
    assert updates == told["updates"]
    assert volume == told["volume"]
    assert last == told["last"]
    ids = [tick.tick_id for tick in fed.ticks]
    assert len(ids) == len(set(ids))


def all_of(fed: Fed, told: dict[str, Any]) -> Callable[[], bool]:
    def there() -> bool:
        updates, volume = sum(tick.n_updates or 0 for tick in fed.ticks), sum(t.traded_volume or 0 for t in fed.ticks)
        return updates >= sum(told["updates"].values()) and volume >= sum(told["volume"].values())

    return there


async def test_a_recording_comes_out_complete_at_one_tick_a_market_and_second(tmp_path: Path) -> None:
    recording, told = recorded(tmp_path / "r.gz")
    async with running_exchange(recording=recording, speed=10.0) as exchange, feeding(of(exchange, BTC, ETH)) as fed:
        await fed.until(all_of(fed, told), "all updates and trades")
    assert_complete(fed, told)
    assert {tick.timestamp_ms % 1_000 for tick in fed.ticks} == {0}
    assert len(fed.ticks) < sum(told["updates"].values()) / 10
    assert fed.counted("events_total", kind="quote") == sum(told["updates"].values())
    tick = fed.ticks[-1]
    assert (tick.vwap, tick.price, tick.divergence_bps) == (100.0, None, None)
    assert {name: state.status for name, state in tick.sources.items()} == {"coingecko": "not_polled", "binance": "ok"}


async def test_a_slow_broker_makes_ticks_wider_and_loses_nothing(tmp_path: Path) -> None:
    recording, told = recorded(tmp_path / "r.gz")
    async with running_exchange(recording=recording, speed=60.0) as exchange, feeding(of(exchange, BTC, ETH)) as fed:
        fed.delay_s = 0.3
        await fed.until(all_of(fed, told), "all updates and trades")
    assert_complete(fed, told)


@pytest.mark.parametrize("fault", ["ws_close", "ws_shutdown"])
async def test_broken_and_announced_ends_lose_nothing_that_is_told_again(tmp_path: Path, fault: str) -> None:
    recording, told = recorded(tmp_path / "r.gz", seconds=30, per_second=10)
    reason = "lost" if fault == "ws_close" else "shutdown"
    async with running_exchange(recording=recording, speed=2.0) as exchange, feeding(of(exchange, BTC, ETH)) as fed:
        await fed.until(lambda: len(fed.ticks) > 2, "the first ticks")
        await exchange.fault(fault, match="/stream", count=1, grace_s=0.4)
        await fed.until(lambda: fed.connects(reason) == 1, "the next connection")
        await exchange.clock(speed=30.0)
        await fed.until(all_of(fed, told), "all updates and trades")
    assert_complete(fed, told)
    assert fed.connects("start") == 1
    assert fed.failures("lost") == (1 if fault == "ws_close" else 0)


async def test_a_connection_near_its_end_is_replaced_before_it_is_left() -> None:
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
            told = [candle for candle in fed.candles if candle.symbol == market.symbol]
            _, rows, _ = await exchange.get(
                "/binance/api/v3/klines",
                symbol=market.binance,
                interval="1m",
                startTime=str(told[0].open_time_ms),
                limit=str(len(told)),
            )
            assert told == closed_candles(market.symbol, rows, told[-1].open_time_ms + 2 * MINUTE_MS)
    trades = sum(tick.n_trades or 0 for tick in fed.ticks)
    assert trades > 0
    assert trades == fed.counted("events_total", kind="trade")


async def test_the_exchanges_refusal_is_tried_again_and_a_final_one_stops_the_stream(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_exchange(speed=60.0) as exchange:
        await exchange.fault("503", match="/stream", count=2)
        async with feeding(of(exchange)) as fed:
            await fed.until(lambda: len(fed.ticks) > 0, "a tick")
            assert fed.failures("server_error") == 2
        await exchange.fault("451", match="/stream")
        async with feeding(of(exchange)) as fed:
            await fed.until(lambda: fed.failures("geo_blocked") == 1, "the refusal")
            await fed.until(lambda: "stopped until the worker is restarted" in caplog.text, "a word about it")
            assert fed.ticks == []


async def test_a_rate_limit_is_waited_for() -> None:
    async with running_exchange(speed=60.0) as exchange:
        await exchange.fault("429", match="/stream", count=1, retry_after_s=60)  # of exchange time: a second
        async with feeding(of(exchange)) as fed:
            await fed.until(lambda: fed.failures("rate_limited") + fed.failures("banned") >= 1, "the refusal")
            assert fed.connects("start") == 0


async def test_a_message_that_is_no_json_is_counted_and_the_rest_goes_on() -> None:
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


async def test_what_came_before_the_lead_was_lost_is_published(tmp_path: Path) -> None:
    recording, _told = recorded(tmp_path / "r.gz")
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
            assert lost <= heard / 4  # nothing but what came while the connection was being left
            last = {tick.symbol: tick for tick in fed.ticks}
            # The recording's bid counts its messages: all up to the last one told are in a tick.
            assert sum(int(tick.bid_price or 0) - 100 + 1 for tick in last.values()) == heard


async def test_what_a_broker_does_not_take_or_a_stop_interrupts_is_counted(tmp_path: Path) -> None:
    recording, _told = recorded(tmp_path / "r.gz", seconds=2)
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


async def test_a_new_leader_tells_how_long_nobody_streamed() -> None:
    async def newest(before_ms: int) -> int | None:
        return before_ms - 7_000

    async with running_exchange(speed=1.0) as exchange:
        fed = of(exchange, newest=newest)
        async with feeding(fed):
            await fed.until(lambda: fed.counted("gap_seconds_total") == pytest.approx(7.0), "the gap told")


async def test_a_probe_subscribes_and_leaves_or_says_why_it_cannot() -> None:
    async with running_exchange(speed=60.0) as exchange:
        fed = of(exchange, BTC, ETH)
        assert await fed.feed.probe() == 1
        assert (fed.counted("connections"), fed.connects("start")) == (0, 1)
        await exchange.fault("451", match="/stream")
        with pytest.raises(FatalSourceError, match="HTTP 451"):
            await fed.feed.probe()
    assert fed.ticks == []


async def test_connects_stay_below_what_the_exchange_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_CONNECT_WINDOW_S", 0.5)
    budget = sockets.ConnectBudget(most=5)
    times = []
    for _ in range(6):
        await budget.take()
        times.append(asyncio.get_running_loop().time())
    assert all(times[at + 4] - times[at] >= 0.5 for at in range(2))


class Script:
    """A WebSocket server that does as the test says; `heard` holds what clients sent."""

    def __init__(self) -> None:
        self.sockets: list[web.WebSocketResponse] = []
        self.heard: list[tuple[float, Any]] = []
        self.pongs = 0
        self.answers = True
        self.url = ""

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        self.sockets.append(socket)
        pinging = asyncio.create_task(self._ping(socket))
        try:
            async for message in socket:
                if message.type is WSMsgType.PONG:
                    self.pongs += message.data == b"are you there"
                elif message.type is WSMsgType.TEXT:
                    command = json.loads(message.data)
                    self.heard.append((asyncio.get_running_loop().time(), command))
                    if self.answers:
                        await socket.send_json({"result": None, "id": command["id"]})
        finally:
            pinging.cancel()
        return socket

    async def _ping(self, socket: web.WebSocketResponse) -> None:
        while not socket.closed:
            await socket.ping(b"are you there")
            await asyncio.sleep(0.05)


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    scripted = Script()
    app = web.Application()
    app.router.add_get("/stream", scripted.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    scripted.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    yield scripted
    await runner.cleanup()


class RealClock:
    """A clock for a server without one."""

    def now_ms(self) -> int:
        return NOON + int(asyncio.get_running_loop().time() * 1_000)

    def real_seconds(self, event_s: float) -> float:
        return event_s

    async def sleep_until(self, event_ms: int) -> None:
        await asyncio.sleep(max(event_ms - self.now_ms(), 1) / 1_000)


async def test_pings_are_answered_and_pings_alone_are_silence(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "STABLE_S", 0.1)
    async with feeding(Fed(script.url, RealClock(), [BTC], silence_s=0.4)) as fed:
        await fed.until(lambda: fed.connects("lost") >= 1, "another connection")
    assert script.pongs > 2
    assert fed.failures("lost") >= 1


async def test_unanswered_subscriptions_are_no_connection(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "CONNECT_S", 0.2)
    script.answers = False
    async with feeding(Fed(script.url, RealClock(), [BTC])) as fed:
        await fed.until(lambda: fed.failures("timeout") >= 1, "the refusal")
        script.answers = True
        await fed.until(lambda: fed.connects("start") == 1, "a connection")


async def test_many_markets_are_shared_out_over_connections_and_messages_are_spaced(script: Script) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    markets = [Market(f"{one}{two}", "USD") for one in letters for two in letters[:16]]
    async with feeding(Fed(script.url, RealClock(), markets)) as fed:
        await fed.until(lambda: fed.connects("start") == 2, "both connections")
    streams = [stream for _at, command in script.heard for stream in command["params"]]
    assert len(streams) == len(set(streams)) == 3 * len(markets)
    times = sorted(at for at, command in script.heard if len(command["params"]) == 200)
    assert all(times[at + 8] - times[at] >= 0.9 for at in range(len(times) - 8))  # two connections of four a second


async def test_in_a_handover_each_event_is_passed_on_once_whichever_connection_is_ahead() -> None:
    told: list[int] = []

    def on_event(event: Any) -> None:
        told.append(event.number)

    nobody: Any = None
    connection = sockets.Connection(
        BinanceStream("ws://nobody", [BTC]),
        ["btcusdt@trade"],
        nobody,
        clock=nobody,
        budget=nobody,
        counting=Metrics().stream("binance"),
        on_event=on_event,
        on_lost=lambda: None,
        silence_s=1.0,
        life_ms=1,
    )
    old, new = sockets.Link(nobody, 0.0), sockets.Link(nobody, 0.0)

    def says(link: sockets.Link, number: int) -> None:
        data = {"t": number, "p": "1.0", "q": "1.0"}
        connection._take(link, json.dumps({"stream": "btcusdt@trade", "data": data}))

    connection._links.append(old)
    for number in (1, 2):
        says(old, number)
    connection._links.append(new)
    for link, number in ((new, 5), (new, 6), (old, 3), (old, 4), (old, 5), (old, 6), (old, 7), (new, 7), (new, 8)):
        says(link, number)
    assert told == [1, 2, 5, 6, 3, 4, 7, 8]


def test_messages_of_binance() -> None:
    source = BinanceStream("wss://host/", [BTC])
    assert source.url == "wss://host/stream"
    assert source.parse(
        '{"stream":"btcusdt@bookTicker","data":{"u":7,"s":"BTCUSDT","b":"1.5","B":"2","a":"1.6","A":"3"}}'
    ) == QuoteUpdate("btcusdt@bookTicker", 7, "BTC-USD", 1.5, 2.0, 1.6, 3.0)
    assert source.parse(
        '{"stream":"btcusdt@trade","data":{"e":"trade","E":1,"s":"BTCUSDT","t":9,"p":"1.5","q":"2","T":1,"m":true}}'
    ) == TradeUpdate("btcusdt@trade", 9, "BTC-USD", 1.5, 2.0)
    assert source.parse('{"result":null,"id":3}') == Answer(3)
    assert source.parse('{"error":{"code":2,"msg":"no"},"id":3}') == Answer(3, '{"code":2,"msg":"no"}')
    assert source.parse('{"code":2,"msg":"no","id":3}') == Answer(3, "2: no")
    for text in ('{"e":"serverShutdown","E":1}', '{"stream":"","data":{"e":"serverShutdown","E":1}}'):
        assert source.parse(text) == Farewell()
    assert source.parse('{"stream":"other@depth","data":{"e":"depthUpdate"}}') is None


@pytest.mark.parametrize(
    "text",
    [
        '{"stream":"btcusdt@trade","da',
        '{"stream":"btcusdt@trade","data":{"t":"9","p":"1.5","q":"2"}}',
        '{"stream":"btcusdt@trade","data":{"t":9,"p":"NaN","q":"2"}}',
        '{"stream":"btcusdt@bookTicker","data":{"u":7}}',
        "[1]",
        '{"code":1,"msg":"unasked"}',
    ],
)
def test_what_binance_does_not_document_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        BinanceStream("wss://host", [BTC]).parse(text)
