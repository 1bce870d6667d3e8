"""Binance's spot WebSocket streams bookTicker, trade and kline_1m: derived from the clock, or replayed recordings.

/ws/<stream> and /ws send bare payloads, /stream?streams=a/b wraps them as {"stream", "data"}. All support SUBSCRIBE,
UNSUBSCRIBE and LIST_SUBSCRIPTIONS. Messages are paced in real time and contain exchange time.
"""

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator

import aiohttp
import msgspec
from aiohttp import web

from marketdata.times import MINUTE_MS, floor_to
from simulator import derive
from simulator.binance_rest import apply_quote_fault
from simulator.binance_wire import decimal, listed_symbols
from simulator.candles import Candles
from simulator.recording import Message
from simulator.state import STATE, ExchangeState, json_bytes

logger = logging.getLogger(__name__)

TICK_S = 0.25
"""Real seconds between two updates: the pace of bookTicker and of batches of trades."""
KLINE_EVERY_S = 2.0
MAX_CATCH_UP_MINUTES = 120
"""After a jump of the clock, only the closed candles of this many minutes and the last minute's trades are sent."""
SHUTDOWN_GRACE_S = 1.0
REPLAY_STEP_S = 0.02
_STREAM = re.compile(r"([a-z0-9]{2,20})@(bookTicker|trade|kline_1m)")
_GOING_AWAY, _POLICY = 1001, 1008


class Session:
    """One connection with its subscriptions and its background tasks."""

    def __init__(
        self,
        state: ExchangeState,
        socket: web.WebSocketResponse,
        request: web.Request,
        *,
        wrapped: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._socket = socket
        self._request = request
        self._path = request.path_qs
        self._wrapped = wrapped
        self._monotonic = monotonic
        self._streams: dict[str, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._replays: dict[str, asyncio.Task[None]] = {}
        self._opened_ms = state.clock.played_ms()
        self._sent_until_ms = state.clock.now_ms()
        self._next_kline_s = 0.0
        self._last_pong_s = monotonic()
        self._received_at_s: deque[float] = deque()

    def subscribe(self, streams: list[str]) -> None:
        """Add streams; recorded ones are replayed from the recording's first message."""
        fresh = [stream for stream in streams if stream not in self._streams]
        self._streams.update(dict.fromkeys(fresh))
        recording = self._state.recording
        recorded = frozenset(fresh) & recording.streams if recording is not None else frozenset()
        if recording is not None and recorded:
            task = self._start(self._replay(recording.messages(recorded)))
            self._replays.update(dict.fromkeys(recorded, task))

    def unsubscribe(self, streams: list[str]) -> None:
        """Remove streams."""
        for stream in streams:
            self._streams.pop(stream, None)

    def _start(self, loop: "asyncio._CoroutineLike[None]") -> asyncio.Task[None]:
        task = asyncio.create_task(loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self) -> None:
        """Send and receive messages until either side closes the connection."""
        self._start(self._feed())
        self._start(self._ping())
        try:
            await self._listen()
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self, stream: str, payload: dict[str, object]) -> None:
        message = {"stream": stream, "data": payload} if self._wrapped else payload
        await self._socket.send_str(json_bytes(message).decode())

    # ------------------------------------------------------------------ messages of the client

    async def _listen(self) -> None:
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.PING:
                if self._state.faults.take(self._path, "no_pong") is None:
                    await self._socket.pong(message.data)
            elif message.type is aiohttp.WSMsgType.PONG:
                self._last_pong_s = self._monotonic()
            elif message.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
                await self._command(message.data)
            now_s = self._monotonic()
            self._received_at_s.append(now_s)
            while self._received_at_s[0] < now_s - 1:
                self._received_at_s.popleft()
            if len(self._received_at_s) > self._state.sockets.messages_per_s:
                await self._socket.close(code=_POLICY, message=b"Too many requests")

    async def _command(self, text: str | bytes) -> None:
        try:
            command = msgspec.json.decode(text)
        except msgspec.DecodeError:
            await self._refuse(3, "Invalid JSON: expected value at line 1 column 1", None)
            return
        if not isinstance(command, dict):
            await self._refuse(2, "Invalid request: not an object", None)
            return
        number = command.get("id")
        method, streams = command.get("method"), command.get("params", [])
        if method == "LIST_SUBSCRIPTIONS":
            await self._socket.send_str(json_bytes({"result": list(self._streams), "id": number}).decode())
            return
        if method not in {"SUBSCRIBE", "UNSUBSCRIBE"}:
            await self._refuse(2, f"Invalid request: unknown variant `{method}`", number)
            return
        if not isinstance(streams, list) or not all(isinstance(stream, str) for stream in streams):
            await self._refuse(2, "Invalid request: params must be an array of strings", number)
            return
        if len(self._streams) + len(streams) > self._state.sockets.most_streams and method == "SUBSCRIBE":
            await self._refuse(2, "Invalid request: too many streams", number)
            return
        await self._socket.send_str(json_bytes({"result": None, "id": number}).decode())
        (self.subscribe if method == "SUBSCRIBE" else self.unsubscribe)(streams)

    async def _refuse(self, code: int, text: str, number: object) -> None:
        await self._socket.send_str(json_bytes({"error": {"code": code, "msg": text}, "id": number}).decode())

    # ------------------------------------------------------------------ background tasks

    async def _ping(self) -> None:
        """Ping every 20 s; close after 60 s without a pong, and after 24 h of exchange time."""
        pinged_s = self._monotonic()
        while not self._socket.closed:
            rules = self._state.sockets
            await asyncio.sleep(min(rules.ping_s, 1.0))
            now_s = self._monotonic()
            if self._state.clock.played_ms() - self._opened_ms >= rules.life_ms:
                await self._socket.close(code=_GOING_AWAY, message=b"24h limit")
            elif now_s - self._last_pong_s > rules.ping_s + rules.pong_timeout_s:
                await self._socket.close(code=_POLICY, message=b"Pong timeout")
            elif now_s - pinged_s >= rules.ping_s:
                pinged_s = now_s
                if self._state.faults.take(self._path, "no_pong") is None:
                    await self._socket.ping(str(self._state.clock.now_ms()).encode())
                else:
                    self._last_pong_s = now_s

    async def _apply_faults(self) -> None:
        """Apply the active WebSocket faults."""
        faults = self._state.faults
        if faults.take(self._path, "ws_garbage") is not None:
            await self._socket.send_str('{"stream":"btcusdt@trade","da')
        shutdown = faults.take(self._path, "ws_shutdown")
        if shutdown is not None:
            event = {"e": "serverShutdown", "E": self._state.clock.now_ms()}
            await self._socket.send_str(json_bytes(event).decode())
            await asyncio.sleep(shutdown.number_of("grace_s", SHUTDOWN_GRACE_S))
            await self._socket.close(code=_GOING_AWAY, message=b"serverShutdown")
        if faults.take(self._path, "ws_close") is not None and self._request.transport is not None:
            self._request.transport.close()

    async def _feed(self) -> None:
        try:
            while not self._socket.closed:
                await self._apply_faults()
                if self._socket.closed:
                    return
                await self._send_updates()
                await asyncio.sleep(TICK_S)
        except ConnectionError:
            logger.info("%s: client disconnected", self._path)

    async def _send_updates(self) -> None:
        now_ms = self._state.clock.now_ms()
        # After a jump back, or a long one forward, the streams continue from the current time.
        since_ms = min(self._sent_until_ms, now_ms)
        since_ms = max(since_ms, now_ms - MAX_CATCH_UP_MINUTES * MINUTE_MS)
        self._sent_until_ms = now_ms
        due = self._monotonic() >= self._next_kline_s
        if due:
            self._next_kline_s = self._monotonic() + KLINE_EVERY_S
        symbols = listed_symbols(self._state, self._path)
        for stream in list(self._streams):
            named = _STREAM.fullmatch(stream)
            if named is None or stream in self._replays or named[1].upper() not in symbols:
                continue  # Binance sends nothing on unknown streams
            symbol = named[1].upper()
            if named[2] == "bookTicker":
                await self._send_book(stream, symbol, now_ms)
            elif named[2] == "trade":
                for trade in trade_events(self._state, symbol, max(since_ms, now_ms - MINUTE_MS), now_ms):
                    await self._send(stream, trade)
            else:
                for event in kline_events(self._state, symbol, since_ms, now_ms, running=due):
                    await self._send(stream, event)

    async def _send_book(self, stream: str, symbol: str, now_ms: int) -> None:
        quote = self._state.market.quote(symbol, now_ms)
        if quote is None:
            return
        quote = apply_quote_fault(quote, self._state.faults.take(f"{self._path}/{stream}", "crossed", "zero"))
        update_id = self._state.next_update_id()
        key = derive.stream_key(self._state.seed, symbol, "book-update")
        scale = 10 ** derive.qty_decimals(max(quote.bid_price, 0.01))
        sizes = [
            size * (0.5 + derive.uniform(key, 2 * update_id + side))
            for side, size in enumerate((quote.bid_qty, quote.ask_qty))
        ]
        bid_qty, ask_qty = ((max(round(size * scale), 1) / scale) if size else 0.0 for size in sizes)
        payload: dict[str, object] = {
            "u": update_id,
            "s": symbol,
            "b": decimal(quote.bid_price),
            "B": decimal(bid_qty),
            "a": decimal(quote.ask_price),
            "A": decimal(ask_qty),
        }
        await self._send(stream, payload)

    async def _wait_until(self, played_ms: float) -> None:
        """Wait until `played_ms` of exchange time have passed; in short steps, because the clock may be set."""
        while True:
            left_ms = played_ms - self._state.clock.played_ms()
            if left_ms <= 0:
                return
            await asyncio.sleep(min(left_ms / 1000 / max(self._state.clock.speed, 1e-3), REPLAY_STEP_S))

    async def _replay(self, messages: Iterator[Message]) -> None:
        """Replay a recording completely, at the recorded pace in exchange time."""
        began_ms = self._state.clock.played_ms()
        try:
            for message in messages:
                await self._wait_until(began_ms + message.offset_ms)
                if message.stream in self._streams:
                    await self._socket.send_str(message.raw if self._wrapped else message.data)
        except ConnectionError:
            logger.info("%s: client disconnected before the end of the recording", self._path)


def trade_events(state: ExchangeState, symbol: str, since_ms: int, now_ms: int) -> Iterator[dict[str, object]]:
    """Yield the @trade events of (since, now]."""
    for minute_ms in range(floor_to(since_ms, MINUTE_MS), now_ms + 1, MINUTE_MS):
        trades = state.market.trades(symbol, minute_ms)
        for number, time_ms, price, qty, maker in trades or ():
            if since_ms < time_ms <= now_ms:
                yield {
                    "e": "trade",
                    "E": time_ms,
                    "s": symbol,
                    "t": number,
                    "p": decimal(price),
                    "q": decimal(qty),
                    "T": time_ms,
                    "m": maker,
                    "M": True,
                }


def kline_event(
    state: ExchangeState, symbol: str, candle: Candles, event_ms: int, *, closed: bool
) -> dict[str, object]:
    """Return the @kline_1m event of one candle (arrays of length 1)."""
    open_ms = int(candle.time_ms[0])
    count = int(derive.trade_counts(state.seed, symbol, candle)[0])
    first_id = open_ms // MINUTE_MS * derive.TRADE_ID_STEP
    taker = float(derive.taker_buy_volumes(state.seed, symbol, candle)[0])
    volume, quote_volume = float(candle.volume[0]), float(candle.quote_volume[0])
    open_, high, low, close = (decimal(float(prices[0])) for prices in candle.prices())
    return {
        "e": "kline",
        "E": event_ms,
        "s": symbol,
        "k": {
            "t": open_ms,
            "T": open_ms + MINUTE_MS - 1,
            "s": symbol,
            "i": "1m",
            "f": first_id if count else -1,
            "L": first_id + count - 1 if count else -1,
            "o": open_,
            "c": close,
            "h": high,
            "l": low,
            "v": decimal(volume),
            "n": count,
            "x": closed,
            "q": decimal(quote_volume),
            "V": decimal(taker),
            "Q": decimal(taker * (quote_volume / volume) if volume else 0.0),
            "B": "0",
        },
    }


def kline_events(
    state: ExchangeState, symbol: str, since_ms: int, now_ms: int, *, running: bool
) -> Iterator[dict[str, object]]:
    """Yield an event per candle closed in (since, now] and, with `running`, one for the unfinished candle."""
    closed = state.history.minutes(symbol, floor_to(since_ms, MINUTE_MS), floor_to(now_ms, MINUTE_MS))
    for row in range(len(closed)):
        candle = closed[row : row + 1]
        yield kline_event(state, symbol, candle, int(candle.time_ms[0]) + MINUTE_MS, closed=True)
    if running:
        candle = state.market.running_minute(symbol, now_ms)
        if len(candle):
            yield kline_event(state, symbol, candle, now_ms, closed=False)


async def _connect(request: web.Request, streams: list[str], *, wrapped: bool) -> web.WebSocketResponse:
    state = request.app[STATE]
    # The session answers pings itself, so that a fault can suppress the pongs.
    socket = web.WebSocketResponse(autoping=False, timeout=1.0)
    await socket.prepare(request)
    state.open_sockets.add(socket)
    session = Session(state, socket, request, wrapped=wrapped)
    session.subscribe([stream for stream in streams if stream])
    try:
        await session.run()
    finally:
        state.open_sockets.discard(socket)
    return socket


async def raw_stream(request: web.Request) -> web.WebSocketResponse:
    """GET /ws and /ws/<stream>[/<stream>…]."""
    return await _connect(request, request.match_info.get("streams", "").split("/"), wrapped=False)


async def combined_stream(request: web.Request) -> web.WebSocketResponse:
    """GET /stream?streams=a/b."""
    return await _connect(request, request.query.get("streams", "").split("/"), wrapped=True)


async def close_all(app: web.Application) -> None:
    """Close all connections when the server stops."""
    sockets = list(app[STATE].open_sockets)
    await asyncio.gather(*(socket.close(code=_GOING_AWAY, message=b"server stops") for socket in sockets))


def routes(prefix: str) -> list[web.RouteDef]:
    """Return the routes under a prefix such as /binance."""
    return [
        web.get(f"{prefix}/ws", raw_stream),
        web.get(f"{prefix}/ws/{{streams:.*}}", raw_stream),
        web.get(f"{prefix}/stream", combined_stream),
    ]
