"""Server-Sent Events: one hub a worker, one bounded queue a listener.

A listener that does not keep up is told to fetch the documents again (`resync`), and never holds up the others. Wire
format: WHATWG HTML, section 9.2. It must never read a topic.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec

_QUEUED = 1_000
_KEEP_ALIVE_S = 15.0
RETRY_MS = 1_000

Event = tuple[str, bytes]


def frame(name: str, data: bytes) -> bytes:
    """One event on the wire; JSON holds no raw line break."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


class Listener:
    """One open stream. `symbol`: the market whose own events it gets."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(_QUEUED)

    def offer(self, event: Event) -> None:
        """Queue an event; when there is no room, all that waits gives way to a `resync`."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            while not self._queue.empty():
                self._queue.get_nowait()
            self._queue.put_nowait(("resync", b"{}"))

    def end(self) -> None:
        """Let the stream end, whatever waits."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def frames(self) -> AsyncIterator[bytes]:
        """Bytes to send until `end`; a comment where nothing happens, so that a dead connection is noticed."""
        yield f"retry: {RETRY_MS}\n\n".encode()
        while True:
            try:
                async with asyncio.timeout(_KEEP_ALIVE_S):
                    event = await self._queue.get()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if event is None:
                return
            yield frame(*event)


class Hub:
    """All listeners of this worker."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._closed = False

    @property
    def is_idle(self) -> bool:
        """True when nobody listens, so that nothing need be encoded."""
        return not self._listeners

    def is_followed(self, symbol: str) -> bool:
        """True when someone gets the events of this market."""
        return any(one.symbol == symbol for one in self._listeners)

    @contextmanager
    def listen(self, symbol: str) -> Iterator[Listener]:
        """A listener for as long as the context lasts."""
        listener = Listener(symbol)
        self._listeners.add(listener)
        if self._closed:
            listener.end()
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def publish(self, name: str, document: object, symbol: str | None = None) -> None:
        """Send a document to all, or to those that follow `symbol`."""
        listeners = [one for one in self._listeners if symbol is None or one.symbol == symbol]
        if listeners:
            data = msgspec.json.encode(document)
            for listener in listeners:
                listener.offer((name, data))

    def close(self) -> None:
        """End every stream, so that the server can stop at once."""
        self._closed = True
        for listener in self._listeners:
            listener.end()
