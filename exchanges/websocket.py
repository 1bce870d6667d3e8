"""Keeps a stream of events flowing from a WebSocket: subscribes, watches, reconnects, hands over without a hole.

When a connection is lost another is opened with jittered backoff; when one only nears its end (its life, or the
exchange's announcement) the next one is subscribed before it is left, and what both tell is passed on once. Nothing is
queued here: each event is handed on before the next is read, and the socket's own buffer holds the exchange back.
Seconds are real ones, but for a connection's life. It must never know an exchange's formats.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import aiohttp
import stamina

from exchanges.http import judged
from exchanges.interface import QuoteUpdate, ServerShutdown, StreamEvent, StreamSource, SubscriptionAck, TradeUpdate
from marketdata.errors import FatalSourceError, InvalidValueError, RetryableSourceError, SourceError

log = logging.getLogger(__name__)

CONNECT_S = 10.0  # for the handshake, and once more for the answers to all subscriptions
DRAIN_S = 1.0  # that the old connection is heard on after the new one has begun: its last events are on their way
STABLE_S = 10.0  # a connection that ended sooner counts as one that could not be had
_STREAMS_A_MESSAGE = 200
_WAIT_INITIAL_S, _WAIT_MAX_S, _JITTER_S = 0.25, 30.0, 1.0
_HANDOVER_ATTEMPTS = 5
_CONNECT_WINDOW_S = 300.0
_CONNECT_SHARE = 0.8  # of the connects that are allowed: the address may have other clients
_CLOSE_S = 1.0  # that a close frame is waited for
_MOST_BYTES = 1 << 20  # of one message
_START, _LOST, _LIFE, _SHUTDOWN = "start", "lost", "life", "shutdown"


class LifeClock(Protocol):
    """Event time, and waiting for it."""

    def now_ms(self) -> int: ...

    async def sleep_until(self, event_ms: int) -> None: ...


class Counting(Protocol):
    """What is told of connections; the worker's metrics."""

    def connected(self, reason: str) -> None:
        """A connection is there, for this reason: `start`, `lost`, `life`, `shutdown`."""
        ...

    def failed(self, kind: str) -> None:
        """A connection could not be had, was lost, or said something that cannot be read."""
        ...

    def up(self, change: int) -> None:
        """One more, or one less, is there."""
        ...


@dataclass(slots=True)
class ConnectBudget:
    """Spaces connects out so that they stay below what the exchange allows one address; shared by all connections."""

    most: int
    made: deque[float] = field(default_factory=deque)

    async def take(self) -> None:
        """Wait until one more connect is allowed."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            while self.made and self.made[0] <= now - _CONNECT_WINDOW_S:
                self.made.popleft()
            if len(self.made) < self.most * _CONNECT_SHARE:
                self.made.append(now)
                return
            await asyncio.sleep(self.made[0] + _CONNECT_WINDOW_S - now)


class Link:
    """One open connection. `told` maps a stream to the first and the last number that came on it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, born: float) -> None:
        self.socket = socket
        self.born = self.heard = born
        self.told: dict[str, list[int]] = {}
        self.answers: dict[int, str | None] = {}
        self.answered = asyncio.Event()
        self.shutdown = asyncio.Event()
        self.reader: asyncio.Task[str] | None = None

    async def stop_reading(self) -> None:
        """End its reader."""
        if self.reader is not None:
            self.reader.cancel()
            await asyncio.gather(self.reader, return_exceptions=True)


class Connection:
    """The streams of some markets over one connection at a time, for ever."""

    def __init__(
        self,
        source: StreamSource,
        streams: Sequence[str],
        session: aiohttp.ClientSession,
        *,
        clock: LifeClock,
        budget: ConnectBudget,
        counting: Counting,
        on_event: Callable[[StreamEvent], None],
        on_lost: Callable[[], None],
        silence_s: float,
        life_ms: int,
    ) -> None:
        """Nothing is opened.

        Args:
            source: whose format it is.
            streams: their names; no more than one connection may carry.
            session: an open HTTP client.
            clock: event time, for a connection's life.
            budget: of connects, shared.
            counting: told of what happens.
            on_event: handed each quote, trade and candle once; must not wait.
            on_lost: called when no connection is left: what was known of quotes may be outdated.
            silence_s: without a message, after which the connection is taken for dead.
            life_ms: of event time, after which the next connection takes over.
        """
        self._source = source
        self._streams = streams
        self._session = session
        self._clock = clock
        self._budget = budget
        self._counting = counting
        self._on_event = on_event
        self._on_lost = on_lost
        self._silence_s = silence_s
        self._life_ms = life_ms
        self._links: list[Link] = []
        self._settled: dict[str, int] = {}
        self._numbers = count(1)
        self._unreadable: set[str] = set()
        self._was_connected = False

    async def run(self) -> None:
        """Stay connected; ends only when the exchange refuses for good, which the log tells."""
        try:
            while True:
                async for attempt in _attempts(None):
                    with attempt:
                        await self._stay()
                # All clients of an exchange lose it at the same moment.
                await asyncio.sleep(random.uniform(0.0, _JITTER_S))  # noqa: S311  jitter is no secret
        except FatalSourceError as error:
            log.error("%s: the stream is stopped until the worker is restarted: %s", self._source.name, error)  # noqa: TRY400

    async def probe(self) -> None:
        """Connect, subscribe, and leave.

        Raises:
            SourceError: that does not go.
        """
        try:
            await self._open(_START)
        finally:
            await self._leave(*self._links)

    async def _stay(self) -> None:
        """Connect, and hand over from connection to connection until one is lost.

        Raises:
            SourceError: there was no connection, or it was lost at once.
        """
        loop = asyncio.get_running_loop()
        born = loop.time()
        try:
            link = await self._open(_LOST if self._was_connected else _START)
            while (why := await self._over(link)) in (_LIFE, _SHUTDOWN):
                log.info("%s: a stream's connection is replaced: %s", self._source.name, why)
                link = await self._hand_over(link, why)
        except SourceError as error:
            self._counting.failed(error.kind)
            log.warning("%s", error)
            raise
        finally:
            await self._leave(*self._links)
            self._on_lost()
        self._counting.failed(_LOST)
        log.warning("%s: a stream's connection was lost: %s", self._source.name, why)
        if loop.time() - born < STABLE_S:
            raise RetryableSourceError(f"{self._source.name}: lost at once: {why}", _LOST)

    async def _hand_over(self, old: Link, why: str) -> Link:
        """The next connection; the old one is listened to until it has begun, and a little longer."""
        async for attempt in _attempts(_HANDOVER_ATTEMPTS):
            with attempt:
                link = await self._open(why)
                break
        if old.reader is not None:
            await asyncio.wait({old.reader}, timeout=DRAIN_S)
        await self._leave(old)
        return link

    async def _open(self, reason: str) -> Link:
        """A connection with all streams subscribed.

        Raises:
            SourceError: it cannot be had.
        """
        await self._budget.take()
        name, url = self._source.name, self._source.url
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                socket = await self._session.ws_connect(
                    url, autoping=False, max_msg_size=_MOST_BYTES, timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S)
                )
        except aiohttp.WSServerHandshakeError as error:
            raise _refusal(f"{name}: {url}", error) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise RetryableSourceError(f"{name}: {url}: no connection: {error!r}", "connection") from error
        link = Link(socket, loop.time())
        link.reader = asyncio.create_task(self._read(link))
        self._links.append(link)
        self._counting.up(1)
        try:
            await self._subscribe(link)
        except BaseException:
            await self._leave(link)
            raise
        self._was_connected = True
        self._counting.connected(reason)
        log.info("%s: %d streams of %s flow: %s", name, len(self._streams), url, reason)
        return link

    async def _subscribe(self, link: Link) -> None:
        asked: dict[int, Sequence[str]] = {}
        pause_s = 1 / max(self._source.limits.messages_per_s - 1, 1)  # one a second is left for pongs
        for start in range(0, len(self._streams), _STREAMS_A_MESSAGE):
            streams = self._streams[start : start + _STREAMS_A_MESSAGE]
            if asked:
                await asyncio.sleep(pause_s)
            number = next(self._numbers)
            asked[number] = streams
            try:
                await link.socket.send_str(self._source.subscription(streams, number))
            except (ConnectionError, aiohttp.ClientError) as error:
                raise RetryableSourceError(f"{self._source.name}: lost while subscribing: {error!r}", _LOST) from error
        try:
            async with asyncio.timeout(CONNECT_S):
                while asked.keys() - link.answers.keys():
                    link.answered.clear()
                    await self._answer_or_end(link)
        except TimeoutError as error:
            msg = f"{self._source.name}: {self._source.url}: no answer to subscriptions within {CONNECT_S:g} s"
            raise RetryableSourceError(msg, "timeout") from error
        for number, refusal in link.answers.items():
            if refusal is not None and number in asked:
                self._counting.failed("refused")
                shown = ", ".join(asked[number][:3])
                log.error("%s: %d streams (%s, …) refused: %s", self._source.name, len(asked[number]), shown, refusal)

    async def _answer_or_end(self, link: Link) -> None:
        answered = asyncio.create_task(link.answered.wait())
        try:
            await asyncio.wait({answered, *_task(link)}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answered.cancel()
        if link.reader is not None and link.reader.done():
            raise RetryableSourceError(f"{self._source.name}: lost while subscribing: {link.reader.result()}", _LOST)

    async def _over(self, link: Link) -> str:
        """Wait until a connection ends, or should be replaced: `shutdown` and `life`."""
        loop = asyncio.get_running_loop()
        life = asyncio.create_task(self._clock.sleep_until(self._clock.now_ms() + self._life_ms))
        shutdown = asyncio.create_task(link.shutdown.wait())
        try:
            while True:
                await asyncio.wait(
                    {life, shutdown, *_task(link)},
                    timeout=self._silence_s / 4,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if shutdown.done():
                    return _SHUTDOWN
                if link.reader is not None and link.reader.done():
                    return link.reader.result()
                if life.done():
                    return _LIFE
                if loop.time() - link.heard > self._silence_s:
                    return f"nothing was heard for {loop.time() - link.heard:.3g} s"
        finally:
            life.cancel()
            shutdown.cancel()

    async def _leave(self, *links: Link) -> None:
        for link in links:
            await link.stop_reading()
            # What it told is settled in the same step in which it stops being asked: no event may come in between.
            self._links.remove(link)
            for stream, (_first, last) in link.told.items():
                self._settled[stream] = max(last, self._settled.get(stream, last))
            self._counting.up(-1)
            await link.socket.close()

    async def _read(self, link: Link) -> str:
        """Hand on what comes until the connection ends; how it ended."""
        socket, loop = link.socket, asyncio.get_running_loop()
        while True:
            message = await socket.receive()
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                link.heard = loop.time()
                self._take(link, message.data)
            elif message.type is aiohttp.WSMsgType.PING:
                # Pings alone are no sign of life of the streams: they do not count as heard.
                try:
                    await socket.pong(message.data)
                except (ConnectionError, aiohttp.ClientError) as error:
                    return repr(error)
            elif message.type is not aiohttp.WSMsgType.PONG:
                return f"close code {socket.close_code}, {message.extra or message.data!r}"

    def _take(self, link: Link, message: str | bytes) -> None:
        try:
            event = self._source.parse(message)
        except InvalidValueError as error:
            self._counting.failed("bad_payload")
            if error.field not in self._unreadable:  # once each: a stream may tell the same wrong thing for hours
                self._unreadable.add(error.field)
                log.warning("%s: refused what the stream says: %s", self._source.name, error)
            return
        if isinstance(event, QuoteUpdate | TradeUpdate):
            if self._is_new(link, event.stream, event.number):
                self._on_event(event)
        elif isinstance(event, SubscriptionAck):
            link.answers[event.number] = event.refusal
            link.answered.set()
        elif isinstance(event, ServerShutdown):
            link.shutdown.set()
        elif event is not None:
            self._on_event(event)

    def _is_new(self, link: Link, stream: str, number: int) -> bool:
        """False for what another connection, one before, or this one, has told already.

        Each connection tells its streams in order and whole, so what it told is all between its first and last number.
        """
        if number <= self._settled.get(stream, number - 1):
            return False
        own = link.told.get(stream)
        if own is None:
            link.told[stream] = [number, number]
        elif number <= own[1]:
            return False
        else:
            own[1] = number
        return not any(_covers(other.told.get(stream), number) for other in self._others(link))

    def _others(self, link: Link) -> Iterator[Link]:
        return (other for other in self._links if other is not link) if len(self._links) > 1 else iter(())


def _covers(told: list[int] | None, number: int) -> bool:
    return told is not None and told[0] <= number <= told[1]


def _task(link: Link) -> set[asyncio.Task[str]]:
    return set() if link.reader is None else {link.reader}


def _refusal(where: str, error: aiohttp.WSServerHandshakeError) -> SourceError:
    retry_after = "" if error.headers is None else str(error.headers.get("retry-after", ""))
    return judged(f"{where}: HTTP {error.status}: no WebSocket", error.status, retry_after)


def _attempts(most: int | None) -> AsyncIterator[stamina.Attempt]:
    """Tries with jittered backoff between them; None for ever."""
    return stamina.retry_context(
        on=_wait_before_the_next,
        attempts=most,
        timeout=None,
        wait_initial=_WAIT_INITIAL_S,
        wait_max=_WAIT_MAX_S,
        wait_jitter=_JITTER_S,
    ).__aiter__()


def _wait_before_the_next(error: Exception) -> bool | float:
    """True for a backoff, seconds where the exchange told them, False to give up."""
    if not isinstance(error, RetryableSourceError):
        return False
    return True if error.retry_after_s is None else error.retry_after_s
