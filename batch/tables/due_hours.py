"""Tracks which hourly rows have to be written, and when. This module uses no Spark."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from config import Settings
from marketdata.times import DAY_MS, HOUR_MS, SECOND_MS

_MAX_RANGE_MS = 31 * DAY_MS  # computed by one Spark job


@dataclass(slots=True)
class DueHours:
    """Changed hours whose rows are not written yet; an hour is due when it is closed.

    Attributes:
        grace_ms: event time after an hour's end before its row is first written.
        high_water_ms: the latest event time seen; None before the first record.
        pending: start times (ms) of the changed hours.
    """

    grace_ms: int
    high_water_ms: int | None = None
    pending: set[int] = field(default_factory=set)

    def mark_changed(self, hours: Iterable[int], high_water_ms: int) -> None:
        """Add hours (start times, ms) that received data, and advance event time."""
        self.pending.update(hours)
        self.high_water_ms = high_water_ms if self.high_water_ms is None else max(self.high_water_ms, high_water_ms)

    def mark_trailing(self, hours: Iterable[int]) -> None:
        """Add the closed hours whose trailing day includes candles of `hours`. Call it after `mark_changed`."""
        self.pending.update(trailing_hours(hours, self._closed_ms))

    @property
    def _closed_ms(self) -> int:
        """Hours that end at or before this time are closed."""
        return 0 if self.high_water_ms is None else self.high_water_ms - self.grace_ms

    def due(self) -> list[int]:
        """Return the pending hours that are closed, oldest first."""
        return sorted(hour for hour in self.pending if hour + HOUR_MS <= self._closed_ms)

    def mark_written(self, hours: Iterable[int]) -> None:
        self.pending.difference_update(hours)


def trailing_hours(hours: Iterable[int], closed_ms: int) -> set[int]:
    """Return `hours` and the 24 hours after each (start times, ms), as far as they end at or before `closed_ms`.

    These are the hours whose trailing day includes minutes of `hours`.
    """
    reached = {hour + ahead * HOUR_MS for hour in set(hours) for ahead in range(25)}
    return {hour for hour in reached if hour + HOUR_MS <= closed_ms}


def contiguous_ranges(hours: Iterable[int]) -> list[tuple[int, int]]:
    """Return hours (start times, ms) as [from, to) ranges without gaps, each at most 31 days long."""
    ranges: list[tuple[int, int]] = []
    for hour in sorted(set(hours)):
        if ranges and ranges[-1][1] == hour and hour - ranges[-1][0] < _MAX_RANGE_MS:
            ranges[-1] = (ranges[-1][0], hour + HOUR_MS)
        else:
            ranges.append((hour, hour + HOUR_MS))
    return ranges


def grace_ms(settings: Settings) -> int:
    """Return `event_time.hour_grace_s` in ms."""
    return int(settings.event_time.hour_grace_s * SECOND_MS)
