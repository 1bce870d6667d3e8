"""A worker that stood still for too long ends, as if it had been killed.

A process that is stopped (SIGSTOP, `docker pause`) sends no heartbeats. The broker gives its partitions to others, and
it does not know that when it wakes: what it had begun it would publish once more, and older states over newer ones. A
kill changes nothing, so it is the way out; a supervisor starts it again. It must never know Kafka.

A machine that sleeps is not noticed, for its monotonic clock sleeps too.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

SHARE = 2 / 3  # of the session: a third may have passed since the last heartbeat
_LOOKS = 8  # within the limit


def end_now(stood_s: float, limit_s: float) -> None:
    """End this process at once: no thread of it may send anything any more."""
    log.error(
        "stood still for %.1f s, more than %.1f s (2/3 of streams.session_timeout_s): other workers may have its"
        " partitions. It ends as by a kill; start it again",
        stood_s,
        limit_s,
    )
    logging.shutdown()
    os._exit(1)


class Standstill:
    """Looks at the clock again and again, and ends the process when it was not looked at for `limit_s`."""

    def __init__(
        self,
        limit_s: float,
        end: Callable[[float, float], None] = end_now,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_s = limit_s
        self._end = end
        self._now = now
        self._at: float | None = None
        self._looking = threading.Lock()  # who comes while another one ends the process goes no further

    def begin(self) -> None:
        """From now on."""
        self._at = self._now()

    def watch(self) -> None:
        """Begin, in a thread: the event loop may be busy for long while heartbeats, in another thread, go on."""
        self.begin()
        threading.Thread(target=self._look_always, name="standstill", daemon=True).start()

    def look(self) -> None:
        """Also for who is about to send something, who may be the first to wake."""
        if self._at is None:  # not begun: a command, which is in no group
            return
        with self._looking:
            now = self._now()
            stood_s, self._at = now - self._at, now
            if stood_s > self._limit_s:
                self._end(stood_s, self._limit_s)

    def _look_always(self) -> None:
        while True:
            time.sleep(self._limit_s / _LOOKS)
            self.look()
