"""Log rows of a response or file that are left out because they are not valid."""

import logging
from collections.abc import Sequence

_LOGGED_ROWS = 10  # of one response or file


def log_refused(log: logging.Logger, where: str, rows: Sequence[str]) -> None:
    """Log the first rows, and the number of the others.

    Args:
        log: of the caller.
        where: URL or file.
        rows: position and error of each row.
    """
    for row in rows[:_LOGGED_ROWS]:
        log.warning("%s: row left out: %s", where, row)
    if len(rows) > _LOGGED_ROWS:
        log.warning("%s: %d more rows left out", where, len(rows) - _LOGGED_ROWS)
