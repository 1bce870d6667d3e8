"""Gaps in a grid of times."""

from batch.tables.stored_times import gap_ranges
from marketdata.times import HOUR_MS, from_rfc3339

NOON = from_rfc3339("2024-08-05T12:00:00Z")


def test_gaps_are_reported_as_ranges() -> None:
    times = [NOON, NOON + HOUR_MS, NOON + 4 * HOUR_MS]
    assert gap_ranges(times, HOUR_MS) == ["2024-08-05T14:00/2024-08-05T16:00"]
