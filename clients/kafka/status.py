"""Publishes the status of a program's parts, from a daemon thread: at each change and every few seconds.

A status never delays or ends the program: calls only store it, and while Kafka does not answer, the thread retries.
"""

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaProducer

from clients.kafka.connection import close_client, start_producer
from clients.kafka.topics import wait_for_topics
from config.settings import Settings
from marketdata.codec import encode
from marketdata.errors import BitcoinDataError, shorten
from marketdata.printable import printable
from marketdata.records import PartStatus
from marketdata.times import to_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import Activity, ProductPart

log = logging.getLogger(__name__)

EVERY_S = 5.0
"""Seconds between two reports of a part without a change."""
_RETRY_S = 5.0
_CLOSE_S = 0.5
_LAST_S = 1.0  # of the 5 s in which a program ends
_SEND_S = 10.0
_REASON_CHARS = 500


def unix_ms() -> int:
    """Return this machine's Unix time in ms."""
    return time.time_ns() // 1_000_000


class PartReporter:
    """The status of one part. All methods return at once, and may be called from any thread."""

    def __init__(
        self, part: ProductPart, symbol: str, every_s: float, changed: Callable[[str], None], now_ms: Callable[[], int]
    ) -> None:
        self._changed = changed
        self._now_ms = now_ms
        self._every_s = every_s
        self._lock = threading.Lock()
        self._part, self._symbol, self._instance = part, symbol, f"{socket.gethostname()}:{os.getpid()}"
        self._state = Activity.WAITING
        self._reason: str | None = "starting"
        self._since_ms = now_ms()
        self._success_ms: int | None = None
        self._lag: int | None = None
        self._has_ended = False

    @property
    def key(self) -> str:
        """The key of the part's records."""
        return f"{self._part}/{self._instance}"

    def running(self, reason: str | None = None) -> None:
        """Report that the part works; `reason`: at what."""
        self._set(Activity.RUNNING, reason)

    def waiting(self, reason: str) -> None:
        """Report what the part waits for."""
        self._set(Activity.WAITING, reason)

    def failing(self, reason: str) -> None:
        """Report that the part fails, and continues to try."""
        self._set(Activity.FAILING, reason)

    def succeeded(self) -> None:
        """Report that the part completed a step now, and continues."""
        with self._lock:
            self._success_ms = self._now_ms()
        self._set(Activity.RUNNING, None)

    def set_lag(self, lag: int | None) -> None:
        """Set what the part has left to do (`PartStatus.lag`); the next report contains it."""
        with self._lock:
            self._lag = lag

    def end(self, state: Activity, reason: str | None = None) -> None:
        """Report that the part ended (`done`, `stopped` or `failing`); later calls change nothing."""
        if state is Activity.DONE:
            with self._lock:
                self._success_ms = self._now_ms()
        self._set(state, reason, is_last=True)

    def _set(self, state: Activity, reason: str | None, *, is_last: bool = False) -> None:
        reason = None if reason is None else shorten(printable(reason), _REASON_CHARS)
        with self._lock:
            if self._has_ended:
                return
            is_change = is_last or (state, reason) != (self._state, self._reason)
            if state is not self._state:
                self._since_ms = self._now_ms()
            self._state, self._reason, self._has_ended = state, reason, is_last
        if is_change:
            self._changed(self.key)

    def status(self) -> PartStatus:
        """Return the present status."""
        with self._lock:
            success = None if self._success_ms is None else to_rfc3339(self._success_ms)
            return PartStatus(
                symbol=self._symbol,
                part=self._part,
                instance=self._instance,
                reported_at=to_rfc3339(self._now_ms()),
                state=self._state,
                reason=self._reason,
                since=to_rfc3339(self._since_ms),
                last_success=success,
                lag=self._lag,
                next_report_s=None if self._has_ended else self._every_s,
            )


class StatusPublisher:
    """Publishes the statuses of a program's parts while the context is open. A context manager.

    At the end of the context, parts that did not end are reported as `stopped`; after an exception, as `failing`.

    Args:
        settings: where the topic is.
        every_s: seconds between two reports of a part without a change.
        now_ms: Unix time in ms.
    """

    def __init__(self, settings: Settings, every_s: float = EVERY_S, now_ms: Callable[[], int] = unix_ms) -> None:
        self._kafka = settings.kafka
        self._topic = settings.topic(TopicRole.PART_STATUS).name
        self._every_s = every_s
        self._now_ms = now_ms
        self._parts: dict[str, PartReporter] = {}
        self._changes: set[str] = set()
        self._lock = threading.Lock()
        self._is_closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="part-status", daemon=True)

    def part(self, part: ProductPart, symbol: str = "") -> PartReporter:
        """Add a part, with the state `waiting` (starting). `symbol`: the market that it works for; empty: all."""
        reporter = PartReporter(part, symbol, self._every_s, self._on_change, self._now_ms)
        with self._lock:
            self._parts[reporter.key] = reporter
        self._on_change(reporter.key)
        return reporter

    def __enter__(self) -> Self:
        """Start the thread; it connects on its own."""
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Publish the last reports if Kafka answers within a moment."""
        failure = None if error is None or isinstance(error, KeyboardInterrupt | SystemExit) else error
        for reporter in self._parts.values():
            if failure is None:
                reporter.end(Activity.STOPPED)
            else:
                text = str(failure) if isinstance(failure, BitcoinDataError) else repr(failure)
                reporter.end(Activity.FAILING, (text.splitlines() or [""])[0])
        self._is_closing = True
        self._notify()
        self._thread.join(_LAST_S)

    def _on_change(self, key: str) -> None:
        with self._lock:
            self._changes.add(key)
        self._notify()

    def _notify(self) -> None:
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the thread has ended
                loop.call_soon_threadsafe(self._wake.set)

    def _run(self) -> None:
        asyncio.run(self._publish_always())

    async def _publish_always(self) -> None:
        self._loop = asyncio.get_running_loop()
        is_failing = False
        while True:
            try:
                await wait_for_topics(self._kafka, [self._topic], 0.0, close_s=_CLOSE_S)
                producer = await start_producer(self._kafka, close_s=_CLOSE_S)
                is_failing = False
                try:
                    await self._publish(producer)
                finally:
                    await close_client(producer, _CLOSE_S)
            except Exception as error:  # noqa: BLE001  no error of this thread concerns the program
                if not is_failing:
                    log.warning("part statuses cannot be published, retrying every %g s: %r", _RETRY_S, error)
                is_failing = True
            else:
                return
            if self._is_closing:
                return
            await self._sleep(_RETRY_S)

    async def _publish(self, producer: AIOKafkaProducer) -> None:
        """Publish until the context ends: all parts at once, then each part's changes, and each part periodically.

        Raises:
            KafkaError, TimeoutError: the outcome of a send is unknown.
        """
        now_s = asyncio.get_running_loop().time
        due_s: dict[str, float] = {}
        while True:
            is_last = self._is_closing  # read before the statuses: the last round publishes the last ones
            with self._lock:
                changes, self._changes = self._changes, set()
                parts = sorted(self._parts.items())
            async with asyncio.timeout(_SEND_S):
                for key, reporter in parts:
                    status = reporter.status()
                    if key in changes or now_s() >= due_s.get(key, 0.0):
                        await producer.send_and_wait(self._topic, encode(status), key=key.encode())
                        due_s[key] = now_s() + self._every_s if status.next_report_s is not None else inf
            if is_last:
                return
            await self._sleep(max(min(due_s.values(), default=inf) - now_s(), 0.0))

    async def _sleep(self, seconds: float) -> None:
        """Wait for a change, at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, self._every_s)):
                await self._wake.wait()
        self._wake.clear()
