"""The worker's clock: built when the worker starts, and corrected without ever stopping the event loop.

It must never be used before `start`; commands that need the time start it too.
"""

import asyncio
import logging
from collections.abc import Callable

from clients.clock import Clock, ExchangeClock, build_clock, clock_speed
from config.settings import Settings
from marketdata.errors import RetryableSourceError

log = logging.getLogger(__name__)

RESYNC_S = 30.0  # real seconds
_RETRY_S = 0.5


class WorkerClock:
    """A `clients.clock.Clock` whose `now_ms` never waits."""

    def __init__(self, speed: float, build: Callable[[], Clock]) -> None:
        self._speed = speed
        self._build = build
        self._clock: Clock | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "WorkerClock":
        """The clock that the settings choose; nothing is asked yet."""
        return cls(clock_speed(settings), lambda: build_clock(settings, resync_s=None))

    async def start(self, deadline_s: float = 30.0) -> None:
        """Ask for the time until there is an answer.

        Raises:
            RetryableSourceError: there is none within `deadline_s` real seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        told = False
        while self._clock is None:
            try:
                self._clock = await asyncio.to_thread(self._build)
            except RetryableSourceError as error:
                if loop.time() >= deadline:
                    raise
                if not told:
                    log.warning("waiting for the exchange's time: %s", error)
                    told = True
                await asyncio.sleep(_RETRY_S)

    async def keep(self) -> None:
        """Correct the clock for ever; a task of the worker."""
        silent = False
        while True:
            await asyncio.sleep(RESYNC_S)
            if not isinstance(self._clock, ExchangeClock):
                continue
            try:
                await asyncio.to_thread(self._clock.synchronise)
            except RetryableSourceError as error:
                if not silent:
                    log.warning("clock goes on without the exchange: %s", error)
                silent = True
            else:
                silent = False

    def now_ms(self) -> int:
        """Event time.

        Raises:
            RuntimeError: `start` was not awaited.
        """
        if self._clock is None:
            raise RuntimeError("the clock was not started")
        return self._clock.now_ms()

    def real_seconds(self, event_s: float) -> float:
        return event_s / self._speed

    async def sleep_until(self, event_ms: int) -> None:
        """Sleep until the clock has come to a time, however often it is corrected meanwhile."""
        while (left_ms := event_ms - self.now_ms()) > 0:  # noqa: ASYNC110  time itself is what is waited for
            # Never below a millisecond: the loop's own resolution.
            await asyncio.sleep(max(self.real_seconds(left_ms / 1000), 0.001))
