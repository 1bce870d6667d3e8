"""Keep the streams of an exchange flowing over WebSockets: subscribe, watch, reconnect and hand over.

After a loss, a new connection is opened with jittered backoff. Before a planned end (the connection's life, or the
exchange's announcement) the next connection subscribes first and the old one is closed afterwards; events that both
deliver are passed on once. There is no queue: each event is passed on before the next one is read, so the socket's
buffer slows the exchange down. Seconds are real seconds, except the life of a connection and a Retry-After.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import count
from typing import Protocol

import aiohttp

from exchanges.classification import classify_status
from exchanges.deduplication import Deduplicator, DeliveredRanges
from exchanges.interface import QuoteUpdate, ServerShutdown, StreamEvent, StreamSource, SubscriptionAck, TradeUpdate
from exchanges.reconnect import JITTER_S, ConnectBudget, connect_attempts
from marketdata.errors import FatalSourceError, InvalidValueError, RetryableSourceError, SourceError
from marketdata.vocabulary import SourceStatus

log = logging.getLogger(__name__)

CONNECT_S = 10.0
"""Timeout of the handshake, and again of the acknowledgements of all subscriptions."""
DRAIN_S = 1.0
"""Drain time of the old connection after a handover: its last events are still on their way."""
STABLE_S = 10.0
"""A connection that is lost sooner counts as a failed attempt to connect."""

_STREAMS_PER_MESSAGE = 200
_HANDOVER_ATTEMPTS = 5
_CLOSE_S = 1.0  # wait for the close frame
_MAX_MESSAGE_BYTES = 1 << 20


class ConnectReason(StrEnum):
    """Why a connection is opened."""

    START = "start"
    LOST = "lost"
    """The connection before was lost."""
    LIFE = "life"
    """The connection before nears the end of its life."""
    SHUTDOWN = "shutdown"
    """The exchange announced the end of the connection before."""


class EventClock(Protocol):
    """Event time, and waiting for it."""

    def now_ms(self) -> int: ...

    def real_seconds(self, event_s: float) -> float: ...

    async def sleep_until(self, event_ms: int) -> None: ...


class ConnectionMetrics(Protocol):
    """Counters of connections."""

    def connected(self, reason: str) -> None:
        """A connection is open; `reason` is a `ConnectReason`."""
        ...

    def failed(self, kind: str) -> None:
        """A connection failed or was lost, or a message was not valid."""
        ...

    def up(self, change: int) -> None:
        """The number of open connections changed by +1 or -1."""
        ...


class Link:
    """One open connection."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, opened_at: float, delivered: DeliveredRanges) -> None:
        self.socket = socket
        self.last_message_at = opened_at
        self.delivered = delivered
        self.acks: dict[int, str | None] = {}
        self.ack_received = asyncio.Event()
        self.shutdown = asyncio.Event()
        self.reader: asyncio.Task[str] | None = None

    async def stop_reading(self) -> None:
        """End the reader task."""
        if self.reader is not None:
            self.reader.cancel()
            await asyncio.gather(self.reader, return_exceptions=True)


class Connection:
    """The streams of some markets over one connection at a time."""

    def __init__(
        self,
        source: StreamSource,
        streams: Sequence[str],
        session: aiohttp.ClientSession,
        *,
        clock: EventClock,
        budget: ConnectBudget,
        metrics: ConnectionMetrics,
        on_event: Callable[[StreamEvent], None],
        on_lost: Callable[[], None],
        silence_s: float,
        life_ms: int,
    ) -> None:
        """Open no connection.

        Args:
            source: wire format and limits.
            streams: names; at most as many as one connection may carry.
            session: open HTTP client.
            clock: event time.
            budget: of connects, shared by all connections.
            metrics: counters.
            on_event: called with each quote, trade and candle once; must not block.
            on_lost: called when no connection is left: quotes received so far may be outdated.
            silence_s: time without a message after which a connection counts as dead.
            life_ms: event time after which the next connection takes over.
        """
        self._source = source
        self._streams = streams
        self._session = session
        self._clock = clock
        self._budget = budget
        self._metrics = metrics
        self._on_event = on_event
        self._on_lost = on_lost
        self._silence_s = silence_s
        self._life_ms = life_ms
        self._links: list[Link] = []
        self._deduplicator = Deduplicator()
        self._numbers = count(1)
        self._logged_fields: set[str] = set()
        self._was_connected = False

    async def run(self) -> None:
        """Stay connected until cancelled; return only after a fatal error, which is logged."""
        try:
            while True:
                async for attempt in connect_attempts(None, self._clock.real_seconds):
                    with attempt:
                        await self._stay_connected()
                await asyncio.sleep(random.uniform(0.0, JITTER_S))  # noqa: S311  not for cryptography
        except FatalSourceError as error:
            log.error("%s: the stream is stopped until the worker is restarted: %s", self._source.name, error)  # noqa: TRY400

    async def probe(self) -> None:
        """Connect, subscribe and close.

        Raises:
            SourceError: one of these failed.
        """
        try:
            await self._open(ConnectReason.START)
        finally:
            await self._close(*self._links)

    async def _stay_connected(self) -> None:
        """Connect, and hand over from connection to connection until one is lost.

        Raises:
            SourceError: no connection could be opened, or it was lost at once.
        """
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        try:
            link = await self._open(ConnectReason.LOST if self._was_connected else ConnectReason.START)
            while isinstance(end := await self._wait_for_end(link), ConnectReason):
                log.info("%s: replace a stream's connection: %s", self._source.name, end)
                link = await self._hand_over(link, end)
        except SourceError as error:
            self._metrics.failed(error.kind)
            log.warning("%s", error)
            raise
        finally:
            await self._close(*self._links)
            self._on_lost()
        self._metrics.failed(SourceStatus.LOST)
        log.warning("%s: a stream's connection was lost: %s", self._source.name, end)
        if loop.time() - started_at < STABLE_S:
            raise self._lost(f"at once: {end}")

    async def _hand_over(self, old: Link, reason: ConnectReason) -> Link:
        """The next connection; the old one is read until the new one is subscribed, and for `DRAIN_S` longer."""
        async for attempt in connect_attempts(_HANDOVER_ATTEMPTS, self._clock.real_seconds):
            with attempt:
                link = await self._open(reason)
                break
        if old.reader is not None:
            await asyncio.wait({old.reader}, timeout=DRAIN_S)
        await self._close(old)
        return link

    async def _open(self, reason: ConnectReason) -> Link:
        """A connection that is subscribed to all streams.

        Raises:
            SourceError: it cannot be opened or does not answer.
        """
        await self._budget.take()
        name, url = self._source.name, self._source.url
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                socket = await self._session.ws_connect(
                    url,
                    autoping=False,
                    max_msg_size=_MAX_MESSAGE_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
                )
        except aiohttp.WSServerHandshakeError as error:
            raise classify_status(f"{name}: {url}", error.status, error.headers or {}) from error
        except aiohttp.TooManyRedirects as error:
            raise classify_status(f"{name}: {url}", error.history[-1].status, {}) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise RetryableSourceError(f"{name}: {url}: no connection: {error!r}", SourceStatus.CONNECTION) from error
        link = Link(socket, loop.time(), self._deduplicator.open())
        link.reader = asyncio.create_task(self._read(link))
        self._links.append(link)
        self._metrics.up(1)
        try:
            await self._subscribe(link)
        except BaseException:
            await self._close(link)
            raise
        self._was_connected = True
        self._metrics.connected(reason)
        log.info("%s: %d streams of %s are connected: %s", name, len(self._streams), url, reason)
        return link

    async def _subscribe(self, link: Link) -> None:
        requests: dict[int, Sequence[str]] = {}
        pause_s = 1 / max(self._source.limits.messages_per_s - 1, 1)  # one message a second is left for pongs
        for start in range(0, len(self._streams), _STREAMS_PER_MESSAGE):
            streams = self._streams[start : start + _STREAMS_PER_MESSAGE]
            if requests:
                await asyncio.sleep(pause_s)
            number = next(self._numbers)
            requests[number] = streams
            try:
                await link.socket.send_str(self._source.subscription(streams, number))
            except (ConnectionError, aiohttp.ClientError) as error:
                raise self._lost(f"while subscribing: {error!r}") from error
        try:
            async with asyncio.timeout(CONNECT_S):
                while requests.keys() - link.acks.keys():
                    link.ack_received.clear()
                    await self._wait_for_ack(link)
        except TimeoutError as error:
            message = f"{self._source.name}: {self._source.url}: subscriptions not acknowledged within {CONNECT_S:g} s"
            raise RetryableSourceError(message, SourceStatus.TIMEOUT) from error
        for number, refusal in link.acks.items():
            if refusal is not None and number in requests:
                self._metrics.failed(SourceStatus.REFUSED)
                streams = requests[number]
                shown = ", ".join(streams[:3])
                log.error("%s: %d streams (%s, …) refused: %s", self._source.name, len(streams), shown, refusal)

    async def _wait_for_ack(self, link: Link) -> None:
        ack = asyncio.create_task(link.ack_received.wait())
        try:
            await asyncio.wait({ack, *_reader(link)}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ack.cancel()
        if link.reader is not None and link.reader.done():
            raise self._lost(f"while subscribing: {link.reader.result()}")

    def _lost(self, detail: str) -> RetryableSourceError:
        return RetryableSourceError(f"{self._source.name}: connection lost {detail}", SourceStatus.LOST)

    async def _wait_for_end(self, link: Link) -> ConnectReason | str:
        """Wait until a connection should be replaced (a `ConnectReason`) or is lost (how it was lost)."""
        loop = asyncio.get_running_loop()
        life = asyncio.create_task(self._clock.sleep_until(self._clock.now_ms() + self._life_ms))
        shutdown = asyncio.create_task(link.shutdown.wait())
        try:
            while True:
                await asyncio.wait(
                    {life, shutdown, *_reader(link)},
                    timeout=self._silence_s / 4,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if shutdown.done():
                    return ConnectReason.SHUTDOWN
                if link.reader is not None and link.reader.done():
                    return link.reader.result()
                if life.done():
                    return ConnectReason.LIFE
                if loop.time() - link.last_message_at > self._silence_s:
                    return f"no message for {loop.time() - link.last_message_at:.3g} s"
        finally:
            life.cancel()
            shutdown.cancel()

    async def _close(self, *links: Link) -> None:
        for link in links:
            await link.stop_reading()
            # No await between these two: an event of another link must see either the open or the closed link.
            self._links.remove(link)
            self._deduplicator.close(link.delivered)
            self._metrics.up(-1)
            await link.socket.close()

    async def _read(self, link: Link) -> str:
        """Pass on messages until the connection ends; return how it ended."""
        socket, loop = link.socket, asyncio.get_running_loop()
        while True:
            message = await socket.receive()
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                link.last_message_at = loop.time()
                self._handle(link, message.data)
            elif message.type is aiohttp.WSMsgType.PING:
                # A ping does not update last_message_at: it does not show that the streams are alive.
                try:
                    await socket.pong(message.data)
                except (ConnectionError, aiohttp.ClientError) as error:
                    return repr(error)
            elif message.type is not aiohttp.WSMsgType.PONG:
                return f"close code {socket.close_code}, {message.extra or message.data!r}"

    def _handle(self, link: Link, message: str | bytes) -> None:
        try:
            event = self._source.parse(message)
        except InvalidValueError as error:
            self._metrics.failed(SourceStatus.BAD_PAYLOAD)
            if error.field not in self._logged_fields:  # once per field: an exchange may repeat the error for hours
                self._logged_fields.add(error.field)
                log.warning("%s: invalid message of the stream: %s", self._source.name, error)
            return
        if isinstance(event, QuoteUpdate | TradeUpdate):
            if self._deduplicator.is_new(link.delivered, event.stream, event.number):
                self._on_event(event)
        elif isinstance(event, SubscriptionAck):
            link.acks[event.number] = event.refusal
            link.ack_received.set()
        elif isinstance(event, ServerShutdown):
            link.shutdown.set()
        elif event is not None:
            self._on_event(event)


def _reader(link: Link) -> set[asyncio.Task[str]]:
    return set() if link.reader is None else {link.reader}
