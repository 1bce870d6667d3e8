"""WebSocket streams of the simulated exchange: derived and recorded messages, limits and faults of connections."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from marketdata.errors import InvalidValueError
from marketdata.times import DAY_MS, MINUTE_MS
from simulator.recording import Recording
from tests.support.exchange_server import NOON, Exchange, running_exchange
from tests.support.paths import SHARED_DATA

SHARED = SHARED_DATA / "binance_ws"
PATIENCE_S = 20.0


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    async with running_exchange(now_ms=NOON + 30_000) as running:
        yield running


async def _until(socket: aiohttp.ClientWebSocketResponse, wanted: Callable[[Any], bool]) -> Any:
    """Return the first message that matches."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            message = await socket.receive_json()
            if wanted(message):
                return message


async def test_book_ticker_keeps_the_minutes_prices_under_new_update_ids(exchange: Exchange) -> None:
    _, book, _ = await exchange.get("/binance/api/v3/ticker/bookTicker", symbol="BTCUSDT")
    async with exchange.client.ws_connect(f"{exchange.address}/binance/ws/btcusdt@bookTicker") as socket:
        messages = [await socket.receive_json() for _ in range(3)]
    assert all(set(message) == {"u", "s", "b", "B", "a", "A"} for message in messages)
    assert {(message["b"], message["a"]) for message in messages} == {(book["bidPrice"], book["askPrice"])}
    ids = [message["u"] for message in messages]
    assert ids == sorted(set(ids))
    assert len({message["B"] for message in messages}) > 1


async def test_combined_streams_are_wrapped(exchange: Exchange) -> None:
    url = f"{exchange.address}/binance/stream?streams=btcusdt@bookTicker/ethusdt@kline_1m"
    async with exchange.client.ws_connect(url) as socket:
        book = await _until(socket, lambda message: message["stream"] == "btcusdt@bookTicker")
        kline = await _until(socket, lambda message: message["stream"] == "ethusdt@kline_1m")
    assert book["data"]["s"] == "BTCUSDT"
    assert kline["data"]["k"]["t"] == NOON
    assert not kline["data"]["k"]["x"]


async def test_a_closed_minute_sends_its_candle_and_all_its_trades(exchange: Exchange) -> None:
    async with exchange.client.ws_connect(f"{exchange.address}/binance/ws") as socket:
        await socket.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@trade", "btcusdt@kline_1m"], "id": 5})
        assert await socket.receive_json() == {"result": None, "id": 5}
        await _until(socket, lambda message: message.get("e") == "kline")
        await exchange.clock(advance_ms=30_000)
        trades: list[Any] = []

        def closed(message: Any) -> bool:
            if message["e"] == "trade":
                trades.append(message)
            return bool(message["e"] == "kline" and message["k"]["x"])

        kline = (await _until(socket, closed))["k"]
    stored = exchange.state.history.minutes("BTCUSDT", NOON, NOON + MINUTE_MS)
    assert [float(kline[name]) for name in "ohlcv"] == [*(float(one[0]) for one in stored.prices()), stored.volume[0]]
    assert (kline["t"], kline["T"], kline["i"]) == (NOON, NOON + MINUTE_MS - 1, "1m")
    made = exchange.state.market.trades("BTCUSDT", NOON)
    assert made is not None
    expected = [number for number, at_ms, *_ in made if at_ms > NOON + 30_000]
    assert [trade["t"] for trade in trades if trade["T"] < NOON + MINUTE_MS] == expected
    assert kline["n"] == len(made.time_ms)


async def test_subscriptions_are_listed_and_removed_and_errors_refused(exchange: Exchange) -> None:
    await exchange.client.post(f"{exchange.address}/control/limits", json={"messages_per_s": 100})
    async with exchange.client.ws_connect(f"{exchange.address}/binance/ws/nothing@bookTicker") as socket:
        await socket.send_json({"method": "SUBSCRIBE", "params": ["nobody@trade"], "id": 1})
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 2})
        await socket.send_json({"method": "UNSUBSCRIBE", "params": ["nobody@trade"], "id": 3})
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 4})
        await socket.send_json({"method": "DANCE", "id": 6})
        await socket.send_str("{not json")
        answers = [await socket.receive_json() for _ in range(6)]
    assert answers[1] == {"result": ["nothing@bookTicker", "nobody@trade"], "id": 2}
    assert answers[3] == {"result": ["nothing@bookTicker"], "id": 4}
    assert answers[4]["error"]["code"] == 2
    assert answers[5]["error"]["code"] == 3


async def _closed(socket: aiohttp.ClientWebSocketResponse) -> tuple[int | None, list[Any]]:
    """Receive until the connection closes; return the close code and the messages before it."""
    messages: list[Any] = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                return socket.close_code, messages
            messages.append(message.data)


async def test_more_than_five_messages_a_second_close_the_connection(exchange: Exchange) -> None:
    async with exchange.client.ws_connect(f"{exchange.address}/binance/ws") as socket:
        for number in range(6):
            await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": number})
        assert (await _closed(socket))[0] == 1008


async def test_a_connection_lives_a_day_of_exchange_time(exchange: Exchange) -> None:
    async with exchange.client.ws_connect(f"{exchange.address}/binance/ws") as socket:
        await exchange.client.post(f"{exchange.address}/control/limits", json={"ping_s": 0.05})
        await exchange.clock(now_ms=NOON - DAY_MS)
        await exchange.clock(advance_ms=DAY_MS)
        assert (await _closed(socket))[0] == 1001


async def test_the_server_pings_and_closes_without_a_pong(exchange: Exchange) -> None:
    await exchange.client.post(f"{exchange.address}/control/limits", json={"ping_s": 0.05, "pong_timeout_s": 0.2})
    url = f"{exchange.address}/binance/ws"
    async with exchange.client.ws_connect(url, autoping=False) as silent:
        async with asyncio.timeout(PATIENCE_S):
            ping = await silent.receive()
            assert ping.type is aiohttp.WSMsgType.PING
            while (await silent.receive()).type is aiohttp.WSMsgType.PING:
                pass
        assert silent.close_code == 1008
    await exchange.client.post(f"{exchange.address}/control/limits", json={"messages_per_s": 1000})
    async with exchange.client.ws_connect(url, autoping=False) as answering:
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(10):  # longer than the timeout
                ping = await answering.receive()
                assert ping.type is aiohttp.WSMsgType.PING
                await answering.pong(ping.data)
        assert not answering.closed


async def test_pings_of_the_client_are_answered_without_the_fault(exchange: Exchange) -> None:
    async with exchange.client.ws_connect(f"{exchange.address}/binance/ws", autoping=False) as socket:
        await socket.ping(b"one")
        async with asyncio.timeout(PATIENCE_S):
            answered = await socket.receive()
        assert (answered.type, answered.data) == (aiohttp.WSMsgType.PONG, b"one")
        await exchange.fault("no_pong", count=1)
        await socket.ping(b"two")
        await socket.ping(b"three")
        async with asyncio.timeout(PATIENCE_S):
            answered = await socket.receive()
        assert answered.data == b"three"


async def test_forced_close_and_announced_shutdown(exchange: Exchange) -> None:
    url = f"{exchange.address}/binance/ws"
    async with exchange.client.ws_connect(url) as socket:
        await exchange.fault("ws_shutdown", grace_s=0.05, count=1)
        code, messages = await _closed(socket)
        assert code == 1001
        assert json.loads(messages[-1])["e"] == "serverShutdown"
    async with exchange.client.ws_connect(url) as socket:
        await exchange.fault("ws_close", count=1)
        assert (await _closed(socket))[0] in {None, 1006}
    async with exchange.client.ws_connect(url) as socket:
        await exchange.fault("ws_garbage", count=1)
        async with asyncio.timeout(PATIENCE_S):
            text = await socket.receive_str()
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)


async def test_crossed_quotes_reach_the_stream_too(exchange: Exchange) -> None:
    await exchange.fault("crossed", match="btcusdt@bookTicker", count=1)
    async with exchange.client.ws_connect(f"{exchange.address}/binance/ws/btcusdt@bookTicker") as socket:
        first, second = await socket.receive_json(), await socket.receive_json()
    assert float(first["b"]) > float(first["a"])
    assert float(second["b"]) < float(second["a"])


def _record(path: Path, lines: Sequence[tuple[int, object]]) -> Path:
    text = "".join(f"{at_ns} {json.dumps(message, separators=(',', ':'))}\n" for at_ns, message in lines)
    path.write_bytes(gzip.compress(text.encode()))
    return path


def _message(stream: str, number: int) -> dict[str, object]:
    return {"stream": stream, "data": {"u": number, "s": stream.partition("@")[0].upper()}}


async def test_a_recording_is_replayed_completely_and_in_order(tmp_path: Path) -> None:
    second = 10**9
    one: list[tuple[int, object]] = [
        (number * second // 100, _message("btcusdt@bookTicker", number)) for number in range(0, 4000, 2)
    ]
    two = [(number * second // 100, _message("ethusdt@trade", number)) for number in range(1, 4000, 2)]
    one.insert(3, (55 * second // 1000, {"lastUpdateId": 1, "bids": [], "asks": []}))
    recording = Recording([_record(tmp_path / "one.gz", one), _record(tmp_path / "two.gz", two)])
    assert recording.counts == {"btcusdt@bookTicker": 2000, "ethusdt@trade": 2000}
    async with running_exchange(recording=recording, speed=400.0) as exchange:
        url = f"{exchange.address}/binance/stream?streams=btcusdt@bookTicker/ethusdt@trade"
        async with exchange.client.ws_connect(url) as socket, asyncio.timeout(PATIENCE_S):
            messages = [await socket.receive_json() for _ in range(4000)]
    assert [message["data"]["u"] for message in messages] == list(range(4000))


async def test_a_recording_keeps_its_pace_in_exchange_time(tmp_path: Path) -> None:
    lines = [(number * 10**9, _message("btcusdt@trade", number)) for number in range(4)]
    recording = Recording([_record(tmp_path / "one.gz", lines)])
    async with (
        running_exchange(recording=recording) as exchange,
        exchange.client.ws_connect(f"{exchange.address}/binance/ws/btcusdt@trade") as socket,
    ):
        async with asyncio.timeout(PATIENCE_S):
            assert (await socket.receive_json())["u"] == 0  # bare on /ws
        await exchange.clock(advance_ms=2_500)
        async with asyncio.timeout(PATIENCE_S):
            assert [(await socket.receive_json())["u"] for _ in range(2)] == [1, 2]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(socket.receive_json(), 0.2)


def test_an_invalid_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"no gzip")
    with pytest.raises(InvalidValueError, match="ws-recording"):
        Recording([tmp_path / "a.gz"])
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"soon {}\n"))
    with pytest.raises(InvalidValueError, match="line 1"):
        Recording([tmp_path / "b.gz"])


@pytest.mark.shared_data
async def test_the_real_recording_is_replayed_completely() -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data/binance_ws is not there: this test replays the real recording")
    recording = Recording(sorted(SHARED.glob("*.gz")))
    total = sum(recording.counts.values())
    assert recording.counts["btcusdt@bookTicker"] == 28_040
    assert recording.counts["btcusdt@trade"] == 9_757
    counts: dict[str, int] = {}
    last: dict[str, int] = {}
    async with running_exchange(recording=recording, speed=100.0) as exchange:
        url = f"{exchange.address}/binance/stream?streams={'/'.join(sorted(recording.streams))}"
        async with exchange.client.ws_connect(url) as socket, asyncio.timeout(120):
            for _ in range(total):
                message = await socket.receive_json()
                stream = message["stream"]
                counts[stream] = counts.get(stream, 0) + 1
                number = message["data"].get("u") or message["data"]["t"]
                assert number >= last.get(stream, 0)
                last[stream] = number
    assert counts == recording.counts
