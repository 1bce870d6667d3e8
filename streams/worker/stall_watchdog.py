"""Watchdog that ends a worker whose process was suspended beyond the session timeout.

A suspended process (SIGSTOP, `docker pause`) sends no heartbeats. The broker reassigns its partitions, and the process
does not know that when it resumes: it would publish its unfinished work a second time, and overwrite newer states with
older ones. Ending as if by SIGKILL loses nothing, and a supervisor restarts the worker.

A machine in sleep mode is not detected, because its monotonic clock stops too.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

SESSION_SHARE = 2 / 3  # of the session timeout: a third may have passed since the last heartbeat
_CHECKS_PER_LIMIT = 8


def end_now(stalled_s: float, limit_s: float) -> None:
    """End this process at once, so that none of its threads sends anything more."""
    log.error(
        "process suspended for %.1f s, longer than %.1f s (2/3 of streams.session_timeout_s): other workers may have"
        " its partitions; exiting without clean-up, restart it",
        stalled_s,
        limit_s,
    )
    logging.shutdown()
    os._exit(1)


class StallWatchdog:
    """Ends the process when more than `limit_s` passed between two checks.

    Args:
        limit_s: in seconds of `now`.
        end: called with the measured pause and the limit, in seconds.
        now: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        limit_s: float,
        end: Callable[[float, float], None] = end_now,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_s = limit_s
        self._end = end
        self._now = now
        self._checked_at: float | None = None
        self._checking = threading.Lock()  # a second caller waits while the first one ends the process

    def start(self) -> None:
        """Measure from now on."""
        self._checked_at = self._now()

    def start_thread(self) -> None:
        """Start, and check from a thread: heartbeats continue in another thread while the event loop is busy."""
        self.start()
        threading.Thread(target=self._check_always, name="stall-watchdog", daemon=True).start()

    def check(self) -> None:
        """Check now; also called before records are sent, by a thread that may resume before the watchdog's."""
        if self._checked_at is None:  # not started: a command, which is in no consumer group
            return
        with self._checking:
            now = self._now()
            stalled_s, self._checked_at = now - self._checked_at, now
            if stalled_s > self._limit_s:
                self._end(stalled_s, self._limit_s)

    def _check_always(self) -> None:
        while True:
            time.sleep(self._limit_s / _CHECKS_PER_LIMIT)
            self.check()
