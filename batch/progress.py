"""Lines about long jobs on standard error, which the demo reads."""

import sys

_STEPS = 20


def write_progress(what: str, done: int, total: int) -> None:
    """Write `progress: WHAT DONE/TOTAL` to standard error, about once per twentieth of the total."""
    if done == total or done % max(1, total // _STEPS) == 0:
        sys.stderr.write(f"progress: {what} {done}/{total}\n")
        sys.stderr.flush()


def write_waiting(what: str, reason: str) -> None:
    """Write `waiting: WHAT: REASON` to standard error: the job tries again later."""
    sys.stderr.write(f"waiting: {what}: {' '.join(reason.split())}\n")
    sys.stderr.flush()
