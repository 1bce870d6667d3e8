"""Connections of a stream to a scripted server: pings, acknowledgements, limits."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from exchanges import reconnect, refusals, subscription, websocket
from marketdata.markets import Market
from tests.support.exchange_server import NOON
from tests.support.fake_clock import RunningClock
from tests.support.recorded_feed import Fed, feeding

BTC = Market("BTC", "USD")


async def test_connects_stay_below_the_limit_of_the_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "_CONNECT_WINDOW_S", 0.5)
    budget = reconnect.ConnectBudget(max_connects=5)
    times = []
    for _ in range(6):
        await budget.take()
        times.append(asyncio.get_running_loop().time())
    assert all(times[at + 4] - times[at] >= 0.5 for at in range(2))


class Script:
    """A scripted WebSocket server; `received` has the commands of the clients."""

    def __init__(self) -> None:
        self.sockets: list[web.WebSocketResponse] = []
        self.received: list[tuple[float, Any]] = []
        self.pongs = 0
        self.acknowledges = True
        self.refuses: set[str] = set()
        self.longest = 0
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
                    self.received.append((asyncio.get_running_loop().time(), command))
                    self.longest = max(self.longest, len(message.data.encode()))
                    if self.refuses & set(command["params"]):
                        await socket.send_json({"error": {"code": 2, "msg": "Invalid request"}, "id": command["id"]})
                    elif self.acknowledges:
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


async def test_pings_are_answered_and_do_not_end_the_silence(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "STABLE_S", 0.1)
    async with feeding(Fed(script.url, RunningClock(NOON), [BTC], silence_s=0.4)) as fed:
        await fed.until(lambda: fed.connects("lost") >= 1, "another connection")
    assert script.pongs > 2
    assert fed.failures("lost") >= 1


def quote(number: int, bid: float = 99.0) -> dict[str, Any]:
    data = {"u": number, "s": "BTCUSDT", "b": str(bid), "B": "1.0", "a": "101.0", "A": "2.0"}
    return {"stream": "btcusdt@bookTicker", "data": data}


async def test_messages_without_an_acceptable_event_do_not_end_the_silence(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "STABLE_S", 0.1)
    async with feeding(Fed(script.url, RunningClock(NOON), [BTC], silence_s=0.6)) as fed:
        await fed.until(lambda: fed.connects("start") == 1, "a connection")
        [socket] = script.sockets
        await socket.send_json(quote(7))
        while fed.connects("lost") == 0 and not socket.closed:
            await socket.send_json(quote(7))  # delivered before
            await socket.send_json({"stream": "unknown", "data": {}})
            await socket.send_str("{")
            await asyncio.sleep(0.02)
        await fed.until(lambda: fed.connects("lost") >= 1, "another connection")
    assert fed.failures("lost") >= 1


async def test_a_numbering_that_restarts_is_followed_and_logged_once(
    script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    async with feeding(Fed(script.url, RunningClock(NOON), [BTC], interval_ms=100)) as fed:
        await fed.until(lambda: fed.connects("start") == 1, "a connection")
        [socket] = script.sockets
        await socket.send_json(quote(1_000_000, 99.0))
        await fed.until(lambda: bool(fed.ticks), "a tick")
        for number in range(1, 30):
            await socket.send_json(quote(number, 70.0 + number))
        await fed.until(lambda: fed.ticks[-1].bid_price == 99.0 and len(fed.ticks) > 1, "the newest quote")
        await socket.close()
        await fed.until(lambda: fed.connects("lost") == 1, "another connection")
        await script.sockets[-1].send_json(quote(1, 50.0))
        await fed.until(lambda: fed.ticks[-1].bid_price == 50.0, "the quote of the next numbering")
    restarts = [message for message in caplog.messages if "the numbers of btcusdt@bookTicker restart" in message]
    assert [message.split("restart at ")[1].split(";")[0] for message in restarts] == ["3", "1"]


async def test_unacknowledged_subscriptions_fail_the_connection(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "CONNECT_S", 0.2)
    script.acknowledges = False
    async with feeding(Fed(script.url, RunningClock(NOON), [BTC])) as fed:
        await fed.until(lambda: fed.failures("timeout") >= 1, "a timeout")
        script.acknowledges = True
        await fed.until(lambda: fed.connects("start") == 1, "a connection")


async def test_many_markets_use_several_connections_and_messages_are_spaced(script: Script) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    markets = [Market(f"{one}{two}", "USD") for one in letters for two in letters[:16]]
    async with feeding(Fed(script.url, RunningClock(NOON), markets)) as fed:
        await fed.until(lambda: fed.connects("start") == 2, "both connections")
    streams = [stream for _at, command in script.received for stream in command["params"]]
    assert len(streams) == len(set(streams)) == 3 * len(markets)
    times = sorted(at for at, _command in script.received)
    assert all(times[at + 8] - times[at] >= 0.9 for at in range(len(times) - 8))  # two connections of four a second


async def test_no_message_exceeds_its_limit(script: Script) -> None:
    markets = [Market(f"LONGNAME{number:04}", "USD") for number in range(1000)]
    async with feeding(Fed(script.url, RunningClock(NOON), markets)) as fed:
        await fed.until(lambda: fed.connects("start") == 3, "all connections")
    streams = [stream for _at, command in script.received for stream in command["params"]]
    assert len(streams) == len(set(streams)) == 3 * len(markets)
    assert 3_500 < script.longest <= 4_000


@pytest.mark.parametrize("all_refused", [True, False])
async def test_refused_subscriptions_are_repeated_until_they_are_accepted(
    script: Script, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, all_refused: bool
) -> None:
    monkeypatch.setattr(refusals, "_FIRST_S", 0.1)
    monkeypatch.setattr(subscription, "_STREAMS_PER_MESSAGE", 3 if all_refused else 1)
    script.refuses = {"btcusdt@trade"}
    async with feeding(Fed(script.url, RunningClock(NOON), [BTC])) as fed:
        await fed.until(lambda: fed.failures("refused") >= 3, "three refusals")
        assert fed.connects("start") == (0 if all_refused else 1)
        script.refuses.clear()
        before = len(script.received)
        await fed.until(lambda: len(script.received) > before, "the next subscription")
        await fed.until(lambda: fed.connects("start") == 1, "a connection")
    assert caplog.text.count("streams (btcusdt@") == 1  # one line, however often it is refused


async def test_frames_that_are_not_valid_are_counted_and_skipped(script: Script) -> None:
    async with feeding(Fed(script.url, RunningClock(NOON), [BTC])) as fed:
        await fed.until(lambda: fed.connects("start") == 1, "a connection")
        [socket] = script.sockets
        quote = {"u": 1, "s": "BTCUSDT", "b": "99.0", "B": "1.0", "a": "101.0", "A": "2.0"}
        envelope = b'{"stream":"btcusdt@bookTicker","data":%s}'
        frames = [
            *(b"\xff\xfe", b'{"stream":"\xff"}', b'{"id":"\xff"}', b"[" * 100_000),
            *(envelope % (b"[" * 100_000), envelope % b'{"u":1,"b":"\xff"}', b'{"error":"\xff"}', b"", b"{"),
        ]
        for frame in frames:
            await socket.send_bytes(frame)
            await socket.send_frame(frame, WSMsgType.TEXT)
        await socket.send_json({"stream": "btcusdt@bookTicker", "data": quote})
        await fed.until(lambda: len(fed.ticks) == 1, "the tick after them")
    assert fed.failures("bad_payload") == 2 * len(frames)
    assert (fed.failures("lost"), fed.failures("unexpected")) == (0, 0)


async def test_the_limit_of_connects_survives_a_restart_of_the_loop(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "_CONNECT_SHARE", 2 / 300)
    fed = Fed(script.url, RunningClock(NOON), [BTC])
    for _restart in range(2):
        async with feeding(fed):
            await fed.until(lambda: fed.counted("connections") == 1, "a connection")
    async with feeding(fed):
        await asyncio.sleep(0.3)
    assert len(script.sockets) == 2
