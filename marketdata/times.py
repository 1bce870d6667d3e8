"""Event time: internally an integer of ms since the epoch (UTC); on the wire RFC 3339 with milliseconds and `Z`."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache

from marketdata.bounds import EARLIEST_MS, LATEST_MS
from marketdata.errors import InvalidValueError

SECOND_MS = 1_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})")


def to_datetime(ms: int) -> datetime:
    """Return the aware UTC datetime of a time in ms."""
    return _EPOCH + timedelta(milliseconds=ms)


def to_rfc3339(ms: int) -> str:
    """Format a time in ms as `2024-08-05T00:00:00.000Z`.

    Raises:
        InvalidValueError: the time is outside the years 1 to 9999.
    """
    seconds, rest_ms = divmod(ms, SECOND_MS)
    try:
        return f"{_to_second(seconds)}.{rest_ms:03d}Z"
    except OverflowError as error:
        raise InvalidValueError("timestamp", ms, "ms since the epoch within the years 1 to 9999") from error


@lru_cache(maxsize=4_096)  # the rows of all markets share a few seconds
def _to_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat(timespec="seconds")


def from_rfc3339(text: str, field: str = "timestamp") -> int:
    """Parse an RFC 3339 time with an offset into ms; digits below a millisecond are truncated.

    Args:
        text: the time.
        field: the field that holds it, for the error message.

    Raises:
        InvalidValueError: the text is not RFC 3339, is not a real date and time, or has no offset.
    """
    try:
        return _parse(text)
    except (TypeError, ValueError) as error:
        is_one = isinstance(text, str) and _RFC3339.fullmatch(text) is not None
        expected = "a real date and time" if is_one else "RFC 3339 with an offset, such as 2024-08-05T00:00:00.000Z"
        raise InvalidValueError(field, text, expected) from error


def from_wire(text: str, field: str = "timestamp") -> int:
    """Parse a time of a record into ms, as `from_rfc3339`.

    Raises:
        InvalidValueError: the text is not an RFC 3339 time, or the time is outside [`EARLIEST_MS`, `LATEST_MS`].
    """
    ms = from_rfc3339(text, field)
    if not EARLIEST_MS <= ms <= LATEST_MS:
        raise InvalidValueError(field, text, f"a time from {to_rfc3339(EARLIEST_MS)} to {to_rfc3339(LATEST_MS)}")
    return ms


@lru_cache(maxsize=16_384)  # the markets of a poll share a few times
def _parse(text: str) -> int:
    if _RFC3339.fullmatch(text) is None:
        raise ValueError(text)
    return (datetime.fromisoformat(text) - _EPOCH) // _MS


def from_http_date(text: str | None) -> int | None:
    """Parse an HTTP Date header (RFC 9110) into ms, to the second; None if it is absent or not a date."""
    try:
        date = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return int(date.replace(tzinfo=date.tzinfo or UTC).timestamp()) * SECOND_MS


def floor_to(ms: int, step_ms: int) -> int:
    """Return the start of the slot [start, start + step_ms) of the epoch's grid that contains a time."""
    return ms - ms % step_ms
