"""Keep the streams of an exchange flowing over WebSockets: subscribe, watch, reconnect and hand over.

After a loss, a new connection is opened with jittered backoff; after a refusal, with pauses that grow up to an hour
(`exchanges.refusals.refusal_pause_s`). Before a planned end (the connection's life, or the exchange's
announcement) the next connection subscribes first and the old one is closed afterwards; events that both deliver are
passed on once. If the next connection cannot be opened, the old one is used until it is lost. There is no queue: each
event is passed on before the next one is read, so the socket's buffer slows the exchange down. Seconds are real
seconds, except the life of a connection, a Retry-After and the pause after a refusal.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from enum import StrEnum

import aiohttp

from exchanges.classification import ProxyFailedError, classify_status, unreachable
from exchanges.deduplication import Deduplicator
from exchanges.interface import QuoteUpdate, ServerShutdown, StreamEvent, StreamSource, SubscriptionAck, TradeUpdate
from exchanges.reconnect import JITTER_S, ConnectBudget, connect_attempts
from exchanges.refusals import refusal_pause_s
from exchanges.subscription import CONNECT_S, ConnectionMetrics, EventClock, Link, Subscriber, connection_lost
from marketdata.errors import FatalSourceError, InvalidValueError, SourceError
from marketdata.vocabulary import SourceStatus

log = logging.getLogger(__name__)

DRAIN_S = 1.0
"""Drain time of the old connection after a handover: its last events are still on their way."""
STABLE_S = 10.0
"""A connection that is lost sooner counts as a failed attempt to connect."""

REPEATED_S = 10.0
"""Time after a connect in which an event may arrive that another connection has delivered."""

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
        on_restart: Callable[[str], None],
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
            on_restart: called with a market's symbol when the exchange numbers its events anew: a quote received
                before does not precede them.
            silence_s: time without an event that is passed on, after which a connection counts as dead. Messages that
                are not valid, not subscribed or delivered before do not count.
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
        self._on_restart = on_restart
        self._silence_s = silence_s
        self._life_ms = life_ms
        self._links: list[Link] = []
        self._deduplicator = Deduplicator()
        self._subscriber = Subscriber(source, metrics, clock)
        self._logged_fields: set[str] = set()
        self._logged_restart = False
        self._forgetting: asyncio.TimerHandle | None = None
        self._was_connected = False
        self._refusals = 0
        self._failing: str | None = None  # kind of the error that was logged last, None while connected

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            try:
                async for attempt in connect_attempts(None, self._clock.real_seconds):
                    with attempt:
                        await self._stay_connected()
            except FatalSourceError as error:
                self._refusals += 1
                pause_s = self._clock.real_seconds(refusal_pause_s(self._refusals))
                self._metrics.paused(pause_s, error)
                await asyncio.sleep(pause_s)
            await asyncio.sleep(random.uniform(0.0, JITTER_S))  # noqa: S311  not for cryptography

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
                try:
                    link = await self._hand_over(link, end)
                except SourceError as error:
                    self._count_failure(error)
                    end = await self._wait_for_end(link, planned=False)
                    break
        except SourceError as error:
            self._count_failure(error)
            raise
        finally:
            await self._close(*self._links)
            self._on_lost()
        self._metrics.failed(SourceStatus.LOST)
        log.warning("%s: a stream's connection was lost: %s", self._source.name, end)
        if loop.time() - started_at < STABLE_S:
            raise connection_lost(self._source.name, f"at once: {end}")

    def _count_failure(self, error: SourceError) -> None:
        """Count a failure to connect; log it unless the previous attempt failed in the same way."""
        self._metrics.failed(error.kind)
        self._metrics.paused(0.0, error)
        if error.kind != self._failing:
            log.warning("%s; trying again until it succeeds", error)
        self._failing = error.kind

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
        setting = f"{name}.stream_url"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                socket = await self._session.ws_connect(
                    url,
                    autoping=False,
                    max_msg_size=_MAX_MESSAGE_BYTES,
                    decode_text=False,  # else aiohttp closes the connection when a message is not UTF-8
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
                )
        except aiohttp.WSServerHandshakeError as error:
            raise classify_status(f"{name}: {url}", error.status, error.headers or {}, setting=setting) from error
        except aiohttp.TooManyRedirects as error:
            raise classify_status(f"{name}: {url}", error.history[-1].status, {}) from error
        except (aiohttp.ClientError, OSError, TimeoutError, ProxyFailedError) as error:
            raise unreachable(f"{name}: {url}: no connection", error, setting) from error
        link = Link(socket, loop.time(), self._deduplicator.open())
        link.reader = asyncio.create_task(self._read(link))
        self._links.append(link)
        self._metrics.up(1)
        try:
            await self._subscriber.subscribe(link, self._streams)
        except BaseException:
            await self._close(link)
            raise
        if self._forgetting is not None:  # of the connection before, whose repetitions are still to come
            self._forgetting.cancel()
        self._forgetting = loop.call_later(REPEATED_S, self._deduplicator.forget_closed)
        self._was_connected = True
        self._logged_restart = False
        self._failing = None
        self._refusals = 0
        self._metrics.paused(0.0)
        self._metrics.connected(reason)
        log.info("%s: %d streams of %s are connected: %s", name, len(self._streams), url, reason)
        return link

    async def _wait_for_end(self, link: Link, *, planned: bool = True) -> ConnectReason | str:
        """Wait until a connection should be replaced (a `ConnectReason`) or is lost (how it was lost).

        Without `planned` only a loss counts: the next connection could not be opened in time.
        """
        loop = asyncio.get_running_loop()
        life = asyncio.create_task(self._clock.sleep_until(self._clock.now_ms() + self._life_ms))
        shutdown = asyncio.create_task(link.shutdown.wait())
        try:
            while True:
                await asyncio.wait(
                    {life, shutdown, *link.reading()} if planned else link.reading(),
                    timeout=self._silence_s / 4,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if planned and shutdown.done():
                    return ConnectReason.SHUTDOWN
                if link.reader is not None and link.reader.done():
                    return link.reader.result()
                if planned and life.done():
                    return ConnectReason.LIFE
                if loop.time() - link.last_event_at > self._silence_s:
                    return f"no event for {loop.time() - link.last_event_at:.3g} s"
        finally:
            life.cancel()
            shutdown.cancel()

    async def _close(self, *links: Link) -> None:
        for link in links:
            await link.stop()
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
                if self._handle(link, message.data):
                    link.last_event_at = loop.time()
            elif message.type is aiohttp.WSMsgType.PING:
                # A ping does not update last_event_at: it does not show that the streams are alive.
                try:
                    await socket.pong(message.data)
                except (ConnectionError, aiohttp.ClientError) as error:
                    return repr(error)
            elif message.type is not aiohttp.WSMsgType.PONG:
                return f"close code {socket.close_code}, {message.extra or message.data!r}"

    def _parse(self, message: str | bytes) -> StreamEvent | None:
        """Return the event of a message; None if there is none, or if the message is not valid."""
        try:
            return self._source.parse(message)
        except InvalidValueError as error:
            self._metrics.failed(SourceStatus.BAD_PAYLOAD)
            if error.field not in self._logged_fields:  # once per field: an exchange may repeat the error for hours
                self._logged_fields.add(error.field)
                log.warning("%s: invalid message of the stream: %s", self._source.name, error)
        except Exception:  # one message must not end the stream
            self._metrics.failed(SourceStatus.UNEXPECTED)
            if SourceStatus.UNEXPECTED not in self._logged_fields:
                self._logged_fields.add(SourceStatus.UNEXPECTED)
                log.exception("%s: unexpected error in a message of the stream", self._source.name)
        return None

    def _handle(self, link: Link, message: str | bytes) -> bool:
        """Pass on the event of a message; return whether the message shows that the streams are alive."""
        event = self._parse(message)
        if isinstance(event, QuoteUpdate | TradeUpdate):
            restarts = self._deduplicator.restarts
            if not self._deduplicator.is_new(link.delivered, event.stream, event.number):
                return False
            if self._deduplicator.restarts != restarts:
                self._follow_restart(event)
            self._on_event(event)
        elif isinstance(event, SubscriptionAck):
            link.acks[event.number] = event.refusal
            link.ack_received.set()
        elif isinstance(event, ServerShutdown):
            link.shutdown.set()
        elif event is not None:
            self._on_event(event)
        return event is not None

    def _follow_restart(self, event: QuoteUpdate | TradeUpdate) -> None:
        if not self._logged_restart:  # once: a restart concerns all streams
            self._logged_restart = True
            log.warning(
                "%s: the numbers of %s restart at %d; they are followed, as are those of other streams",
                self._source.name,
                event.stream,
                event.number,
            )
        self._on_restart(event.symbol)
