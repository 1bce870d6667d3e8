"""The worker's clock: created at the start of the worker, and resynchronised without blocking the event loop."""

import asyncio
import logging
from collections.abc import Callable

from clients.clock import Clock, ExchangeClock, build_clock, clock_speed
from config.settings import Settings
from marketdata.errors import RetryableSourceError
from marketdata.times import SECOND_MS, to_rfc3339

log = logging.getLogger(__name__)

RESYNC_S = 30.0  # seconds of this machine
_RETRY_S = 0.5


class WorkerClock:
    """A `clients.clock.Clock` whose `now_ms` never blocks. Await `start` before use.

    Args:
        speed: event seconds per second of this machine.
        build: creates the clock, as `clients.clock.build_clock`; called in a thread.
    """

    def __init__(self, speed: float, build: Callable[[], Clock]) -> None:
        self._speed = speed
        self._build = build
        self._clock: Clock | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "WorkerClock":
        """The clock that `clock.source` names; makes no request yet."""
        return cls(clock_speed(settings), lambda: build_clock(settings, resync_s=None))

    async def start(self, deadline_s: float = 30.0) -> None:
        """Wait for the first answer of the exchange.

        Raises:
            RetryableSourceError: it does not answer within `deadline_s` seconds of this machine.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        logged = False
        while self._clock is None:
            try:
                self._clock = await asyncio.to_thread(self._build)
            except RetryableSourceError as error:
                if loop.time() >= deadline:
                    raise
                if not logged:
                    log.warning("waiting for the exchange's time: %s", error)
                    logged = True
                await asyncio.sleep(_RETRY_S)

    async def keep(self) -> None:
        """Resynchronise the clock every 30 s until cancelled; a task of the worker."""
        failing = False
        while True:
            await asyncio.sleep(RESYNC_S)
            if not isinstance(self._clock, ExchangeClock):
                continue
            try:
                await asyncio.to_thread(self._clock.synchronise)
            except RetryableSourceError as error:
                if not failing:
                    log.warning("clock not resynchronised, it keeps advancing: %s", error)
                failing = True
            else:
                failing = False

    def now_ms(self) -> int:
        """Current event time: Unix time in ms, UTC.

        Raises:
            RuntimeError: `start` was not awaited.
        """
        if self._clock is None:
            raise RuntimeError("the clock was not started")
        return self._clock.now_ms()

    def real_seconds(self, event_s: float) -> float:
        return event_s / self._speed

    async def sleep_until(self, event_ms: int) -> None:
        """Sleep until the clock reaches `event_ms`; return early if it is set back by more than a second."""
        seen_ms = self.now_ms()
        while (left_ms := event_ms - (now_ms := self.now_ms())) > 0:
            if now_ms < seen_ms - SECOND_MS:
                log.warning(
                    "the clock was set back by at least %.3g s, to %s", (seen_ms - now_ms) / 1000, to_rfc3339(now_ms)
                )
                return
            seen_ms = now_ms
            # At least one millisecond, the resolution of the loop.
            await asyncio.sleep(max(self.real_seconds(left_ms / 1000), 0.001))
