"""Subscribe an open WebSocket connection to its streams, and repeat subscriptions that the exchange refuses.

No message exceeds `MAX_FRAME_BYTES`. Refused streams are requested again after pauses that grow up to an hour, while
the connection delivers the others.
"""

import asyncio
import logging
from collections.abc import Sequence
from itertools import count
from typing import Literal, Protocol

import aiohttp

from exchanges.deduplication import Delivered
from exchanges.grouping import split_by_size
from exchanges.interface import StreamSource
from exchanges.refusals import refusal_pause_s
from marketdata.errors import FatalSourceError, RetryableSourceError, SourceError
from marketdata.vocabulary import SourceStatus

log = logging.getLogger(__name__)

Socket = aiohttp.ClientWebSocketResponse[Literal[False]]
"""A socket that does not decode text."""

CONNECT_S = 10.0
"""Timeout of the handshake, and again of the acknowledgements of all subscriptions."""
MAX_FRAME_BYTES = 4_000
"""Longest message that is sent."""

_STREAMS_PER_MESSAGE = 200
_LARGEST_NUMBER = 2**31  # of a subscription


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

    def paused(self, pause_s: float, error: SourceError | None = None) -> None:
        """A refusal is followed by a pause of `pause_s` real seconds; 0 and None when the exchange accepts."""
        ...

    def up(self, change: int) -> None:
        """The number of open connections changed by +1 or -1."""
        ...


class Link:
    """One open connection."""

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse[Literal[False]], opened_at: float, delivered: Delivered
    ) -> None:
        self.socket = socket
        self.last_event_at = opened_at
        self.delivered = delivered
        self.acks: dict[int, str | None] = {}
        self.ack_received = asyncio.Event()
        self.shutdown = asyncio.Event()
        self.reader: asyncio.Task[str] | None = None
        self.subscriber: asyncio.Task[None] | None = None

    def reading(self) -> set[asyncio.Task[str]]:
        """The reader task, for `asyncio.wait`."""
        return set() if self.reader is None else {self.reader}

    async def stop(self) -> None:
        """End the tasks."""
        tasks = [task for task in (self.reader, self.subscriber) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Subscriber:
    """Subscribes the connections of one `exchanges.websocket.Connection`."""

    def __init__(self, source: StreamSource, metrics: ConnectionMetrics, clock: EventClock) -> None:
        self._source = source
        self._metrics = metrics
        self._clock = clock
        self._numbers = count(1)
        self._logged_refusals: set[str] = set()

    async def subscribe(self, link: Link, streams: Sequence[str]) -> None:
        """Subscribe to streams; those that are refused are requested again after a pause, by `link.subscriber`.

        Raises:
            RetryableSourceError: the connection is lost, or a subscription is not acknowledged.
            FatalSourceError: all of them are refused.
        """
        refused, refusal = await self._request(link, streams)
        if len(refused) == len(streams):
            raise FatalSourceError(f"{self._source.name}: {self._source.url}: {refusal}", SourceStatus.REFUSED)
        if refused:
            link.subscriber = asyncio.create_task(self._subscribe_again(link, refused))

    async def _subscribe_again(self, link: Link, refused: list[str]) -> None:
        refusals = 1
        while refused:
            await asyncio.sleep(self._clock.real_seconds(refusal_pause_s(refusals)))
            refusals += 1
            try:
                refused, _refusal = await self._request(link, refused)
            except RetryableSourceError as error:
                log.warning("%s", error)
        log.info("%s: all streams are accepted", self._source.name)

    async def _request(self, link: Link, streams: Sequence[str]) -> tuple[list[str], str]:
        """Send subscriptions and wait for the acknowledgements; return the refused streams, and the first refusal."""
        requests: dict[int, list[str]] = {}
        pause_s = 1 / max(self._source.limits.messages_per_s - 1, 1)  # one message a second is left for pongs
        room = MAX_FRAME_BYTES - len(self._source.subscription([], _LARGEST_NUMBER).encode())
        for group in split_by_size(streams, _frame_bytes, room, _STREAMS_PER_MESSAGE):
            if requests:
                await asyncio.sleep(pause_s)
            number = next(self._numbers)
            requests[number] = group
            try:
                await link.socket.send_str(self._source.subscription(group, number))
            except (ConnectionError, aiohttp.ClientError) as error:
                raise connection_lost(self._source.name, f"while subscribing: {error!r}") from error
        try:
            async with asyncio.timeout(CONNECT_S):
                while requests.keys() - link.acks.keys():
                    link.ack_received.clear()
                    await self._wait_for_ack(link)
        except TimeoutError as error:
            message = f"{self._source.name}: {self._source.url}: subscriptions not acknowledged within {CONNECT_S:g} s"
            raise RetryableSourceError(message, SourceStatus.TIMEOUT) from error
        refused: list[str] = []
        first = ""
        for number, group in requests.items():
            refusal = link.acks.pop(number)
            if refusal is None:
                continue
            self._metrics.failed(SourceStatus.REFUSED)
            if refusal not in self._logged_refusals:
                self._logged_refusals.add(refusal)
                shown = ", ".join(group[:3])
                log.error("%s: %d streams (%s, …) refused: %s", self._source.name, len(group), shown, refusal)
            refused += group
            first = first or refusal
        return refused, first

    async def _wait_for_ack(self, link: Link) -> None:
        ack = asyncio.create_task(link.ack_received.wait())
        try:
            await asyncio.wait({ack, *link.reading()}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ack.cancel()
        if link.reader is not None and link.reader.done():
            raise connection_lost(self._source.name, f"while subscribing: {link.reader.result()}")


def connection_lost(source: str, detail: str) -> RetryableSourceError:
    """The error of a connection that was lost."""
    return RetryableSourceError(f"{source}: connection lost {detail}", SourceStatus.LOST)


def _frame_bytes(stream: str) -> int:
    return len(stream.encode()) + len('"",')
