"""Detect stalled rebalances and table recoveries: a worker without progress in one of them ends.

A broker that hangs leaves a request of the recovery without an answer. The worker would handle nothing, and liveness
does not consider lag during a recovery. Ending loses nothing, and a supervisor restarts the worker.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import Any

from streams.worker.shutdown import exit_at_once

STEP_S = 60.0  # real seconds; a rebalance and its batches in progress may take 40 s without visible progress
_CHECK_S = 1.0


class Unchanged:
    """Measures for how long something in progress, such as a recovery, has not changed.

    Args:
        now: a monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since: float | None = None
        self._progress: Hashable = None

    def seconds(self, progress: Hashable) -> float:
        """Return the seconds since `progress` changed; 0 for None, which means that nothing is in progress."""
        if progress is None:
            self._since = None
            return 0.0
        now = self._now()
        if self._since is None or progress != self._progress:
            self._since = now
        self._progress = progress
        return now - self._since


def progress_of(app: Any) -> Hashable:
    """Return a value that changes with each step of the app's rebalance or recovery; None if neither is running."""
    if not (app.rebalancing or app.in_recovery):
        return None
    recovery = app.tables.recovery
    offsets = [tuple(sorted(known.items(), key=str)) for known in (recovery.active_offsets, recovery.standby_offsets)]
    return (app.consumer_generation_id, app.rebalancing, app.in_recovery, *offsets)


async def watch(app: Any, limit_s: float, end: Callable[[float], None]) -> None:
    """Call `end` with the seconds without progress when they exceed `limit_s`; runs until cancelled."""
    watched = Unchanged(app.loop.time)
    while True:
        await asyncio.sleep(_CHECK_S)
        stalled_s = watched.seconds(progress_of(app))
        if stalled_s > limit_s:
            end(stalled_s)


def end_now(stalled_s: float) -> None:
    """End this process."""
    exit_at_once(f"no progress of the rebalance or recovery for {stalled_s:.0f} s, because a broker does not answer")
