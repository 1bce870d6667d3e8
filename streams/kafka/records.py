"""The form of a record that is sent to Kafka, and the header of its source offset. Pure."""

from collections.abc import Iterable

OutgoingRecord = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]
"""Key, value and headers of one record to send. A plain tuple: agents make one for every record that they publish."""

SOURCE_OFFSET_HEADER = "source-offset"
"""Header of an agent's output; its value is the offset of the source record in decimal digits."""
NO_OFFSET = -1
"""Smaller than every offset."""
_DIGITS = 19  # of 2^63 - 1


def source_offset_headers(offset: int) -> tuple[tuple[str, bytes], ...]:
    """Return the headers of an output record made from the source record at `offset`."""
    return ((SOURCE_OFFSET_HEADER, str(offset).encode()),)


def source_offset(headers: Iterable[tuple[str, bytes | None]]) -> int | None:
    """Return the source offset in a record's headers; None without a valid one, as in records of other programs."""
    found = [value for key, value in headers if key == SOURCE_OFFSET_HEADER and value is not None]
    valid = [int(value) for value in found if len(value) <= _DIGITS and value.isdigit()]
    return max(valid, default=None)
