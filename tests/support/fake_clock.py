"""Clocks for tests: one whose time a test sets, and one that runs at a chosen speed."""

import asyncio
from collections.abc import Callable


class FakeClock:
    """Event time and monotonic time that pass only when a test sets them, or when code waits on the clock.

    Use it as a `clients.clock.Clock` or a worker's clock, and its `monotonic` and `sleep` in place of those of `time`.

    Attributes:
        ms: event time, in ms.
        now_s: monotonic time, in real seconds.
        sleeps: what `sleep` was called with, in real seconds.
    """

    def __init__(
        self, ms: int = 0, *, speed: float = 1.0, step_ms: int = 0, on_sleep: Callable[[float], None] | None = None
    ) -> None:
        """Stand still.

        Args:
            ms: event time to start from.
            speed: event seconds per real second.
            step_ms: how far event time moves with each call of `now_ms`.
            on_sleep: called at the end of each `sleep`, with its seconds.
        """
        self.ms = ms
        self.step_ms = step_ms
        self.now_s = 0.0
        self.sleeps: list[float] = []
        self._speed = speed
        self._on_sleep = on_sleep

    def now_ms(self) -> int:
        now, self.ms = self.ms, self.ms + self.step_ms
        return now

    def real_seconds(self, event_s: float) -> float:
        return event_s / self._speed

    async def sleep_until(self, event_ms: int) -> None:
        self.ms = max(self.ms, event_ms)
        await asyncio.sleep(0)

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now_s += seconds
        if self._on_sleep is not None:
            self._on_sleep(seconds)


class RunningClock:
    """Event time that runs from `start_ms` at `speed` event seconds per real second, from its creation on."""

    def __init__(self, start_ms: int, *, speed: float = 1.0) -> None:
        self._start_ms = start_ms
        self._speed = speed
        self._began_s = asyncio.get_running_loop().time()

    def now_ms(self) -> int:
        return self._start_ms + int((asyncio.get_running_loop().time() - self._began_s) * 1_000 * self._speed)

    def real_seconds(self, event_s: float) -> float:
        return event_s / self._speed

    async def sleep_until(self, event_ms: int) -> None:
        while (left_ms := event_ms - self.now_ms()) > 0:  # noqa: ASYNC110  waits for time itself
            await asyncio.sleep(max(left_ms / 1_000 / self._speed, 0.001))
