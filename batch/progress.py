"""Progress lines of long jobs, which the demo reads."""

import sys

_STEPS = 20


def write_progress(what: str, done: int, total: int) -> None:
    """Write `progress: WHAT DONE/TOTAL` to standard error, about once per twentieth of the total."""
    if done == total or done % max(1, total // _STEPS) == 0:
        sys.stderr.write(f"progress: {what} {done}/{total}\n")
        sys.stderr.flush()
