"""Lines about long jobs on standard error, which the demo reads."""

import sys

from marketdata.printable import write_line

_STEPS = 20


def write_progress(what: str, done: int, total: int) -> None:
    """Write `progress: WHAT DONE/TOTAL` to standard error, about once per twentieth of the total."""
    if done == total or done % max(1, total // _STEPS) == 0:
        write_line(sys.stderr, f"progress: {what} {done}/{total}")


def write_waiting(what: str, reason: str) -> None:
    """Write `waiting: WHAT: REASON` to standard error: the job tries again later."""
    write_line(sys.stderr, f"waiting: {what}: {' '.join(reason.split())}")
