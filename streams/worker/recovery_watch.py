"""Watch over rebalances and table recoveries: a worker without progress in one of them ends.

A broker that hangs leaves a request of the recovery without an answer. The worker would handle nothing, and liveness
does not consider lag during a recovery. Ending loses nothing (see `streams.worker.stall_watchdog`), and a supervisor
restarts the worker.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Hashable
from typing import Any

log = logging.getLogger(__name__)

STEP_S = 60.0  # real seconds; a rebalance and its batches in progress may take 40 s without visible progress
_CHECK_S = 1.0


class RecoveryWatch:
    """Measures how long a rebalance or recovery has made no progress.

    Args:
        now: a monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since: float | None = None
        self._progress: Hashable = None

    def stalled_s(self, progress: Hashable) -> float:
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
    watched = RecoveryWatch(app.loop.time)
    while True:
        await asyncio.sleep(_CHECK_S)
        stalled_s = watched.stalled_s(progress_of(app))
        if stalled_s > limit_s:
            end(stalled_s)


def end_now(stalled_s: float) -> None:
    """End this process at once."""
    log.error(
        "the rebalance or the tables' recovery made no progress for %.0f s, because a broker does not answer: exiting"
        " without clean-up, restart the worker",
        stalled_s,
    )
    logging.shutdown()
    os._exit(1)
