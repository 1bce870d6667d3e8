"""Server-Sent Events: one hub per worker, one bounded queue per listener.

A listener that does not keep up receives `resync` (fetch the documents again) and never delays other listeners. The
number of listeners and the bytes queued for each are limited. Wire format: WHATWG HTML, section 9.2.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec

MAX_LISTENERS = 64
QUEUED_BYTES = 1 << 20  # of one listener; a single larger event, such as a snapshot, is still sent
_QUEUED = 1_000  # events
_KEEP_ALIVE_S = 15.0
RETRY_MS = 1_000

Event = tuple[str, bytes]
_RESYNC: Event = ("resync", b"{}")


def frame(name: str, data: bytes) -> bytes:
    """Encode one event; JSON contains no raw line break."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


class Listener:
    """One open stream. `symbol`: the market whose events it receives."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queued_bytes = 0

    def offer(self, event: Event) -> None:
        """Queue an event; if the queue is full, in events or bytes, replace its content with one `resync`."""
        size = len(event[1])
        if self._queue.qsize() >= _QUEUED or (self._queued_bytes and self._queued_bytes + size > QUEUED_BYTES):
            self._clear()
            event, size = _RESYNC, len(_RESYNC[1])
        self._queued_bytes += size
        self._queue.put_nowait(event)

    def end(self) -> None:
        """End the stream; discard queued events."""
        self._clear()
        self._queue.put_nowait(None)

    def _clear(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queued_bytes = 0

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield the bytes to send until `end`; a comment after 15 s without events, to detect dead connections."""
        yield f"retry: {RETRY_MS}\n\n".encode()
        while True:
            try:
                async with asyncio.timeout(_KEEP_ALIVE_S):
                    event = await self._queue.get()
            except TimeoutError:
                yield b": keep-alive\n\n"
                continue
            if event is None:
                return
            self._queued_bytes -= len(event[1])
            yield frame(*event)


class Hub:
    """The listeners of this worker, at most `max_listeners`."""

    def __init__(self, max_listeners: int = MAX_LISTENERS) -> None:
        self._max_listeners = max_listeners
        self._listeners: set[Listener] = set()
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether the number of listeners is at its limit."""
        return len(self._listeners) >= self._max_listeners

    @property
    def is_idle(self) -> bool:
        """Whether there are no listeners, so that nothing needs to be encoded."""
        return not self._listeners

    def is_followed(self, symbol: str) -> bool:
        """Whether a listener receives the events of this market."""
        return any(one.symbol == symbol for one in self._listeners)

    @contextmanager
    def listen(self, symbol: str) -> Iterator[Listener]:
        """Register a listener for the duration of the context."""
        listener = Listener(symbol)
        self._listeners.add(listener)
        if self._closed:
            listener.end()
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def publish(self, name: str, document: object, symbol: str | None = None) -> None:
        """Send a document to all listeners, or to those of market `symbol`."""
        listeners = [one for one in self._listeners if symbol is None or one.symbol == symbol]
        if listeners:
            data = msgspec.json.encode(document)
            for listener in listeners:
                listener.offer((name, data))

    def close(self) -> None:
        """End every stream, so that the server can stop immediately."""
        self._closed = True
        for listener in self._listeners:
            listener.end()
