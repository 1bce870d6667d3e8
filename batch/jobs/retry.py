"""Repeats a job until it succeeds, for a start without the exchange or HDFS."""

import logging
import time
from collections.abc import Callable

from batch.progress import write_waiting
from clients.stop_signals import StopFlag
from exchanges.refusals import refusal_pause_s
from marketdata.errors import SourceError, StorageError

_log = logging.getLogger(__name__)


def until_done(
    name: str,
    attempt: Callable[[], int],
    stop: StopFlag,
    *,
    pause_s: Callable[[int], float] = refusal_pause_s,
    sleep: Callable[[float], None] = time.sleep,
    failed: Callable[[str], None] = lambda _reason: None,
) -> int:
    """Call `attempt` until it raises no `SourceError` and no `StorageError`; return its result.

    A line is written for the first failure and for each further one with another reason, not for each attempt.

    Args:
        name: the job's name, for messages.
        attempt: does the work, or raises; what it stored is not requested again.
        stop: of the program; a signal during a pause ends the program.
        pause_s: real seconds before the next attempt, by the number of failures: at first at most 30 s, in the end at
            most an hour, half of it random.
        sleep: waits real seconds.
        failed: called with the error of each failed attempt.

    Raises:
        SourceError: `stop` was set.
        StorageError: `stop` was set.
    """
    failures, reported = 0, ""
    while True:
        try:
            code = attempt()
        except (SourceError, StorageError) as error:
            stop.idle()
            if stop.is_set():
                raise
            failures += 1
            failed(str(error))
            wait_s = pause_s(failures)
            reason = error.kind if isinstance(error, SourceError) else type(error).__name__
            if reason != reported:
                write_waiting(name, f"{error}; retrying after {wait_s:.0f} s, later after up to 1 h")
            reported = reason
            sleep(wait_s)
        else:
            if failures:
                _log.info("%s: complete after %d failed attempts", name, failures)
            return code
