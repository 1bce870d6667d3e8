"""Which hours are due, which trailing days a candle belongs to, and ranges of hours."""

from batch.tables.due_hours import DueHours, contiguous_ranges, trailing_hours
from marketdata.times import DAY_MS, HOUR_MS, from_rfc3339

NOON = from_rfc3339("2024-08-05T12:00:00Z")


def test_an_hour_is_due_once_event_time_is_past_its_end_and_grace() -> None:
    due = DueHours(grace_ms=120_000)
    due.mark_changed({NOON}, NOON + HOUR_MS + 119_999)
    assert due.due() == []
    due.mark_changed({NOON + HOUR_MS}, NOON + HOUR_MS + 120_000)
    assert due.due() == [NOON]
    due.mark_written([NOON])
    assert due.due() == []
    due.mark_changed({NOON}, NOON)  # late data of a closed hour: the row is rewritten, and event time does not go back
    assert due.due() == [NOON]
    assert due.high_water_ms == NOON + HOUR_MS + 120_000


def test_late_candles_mark_the_closed_hours_whose_trailing_day_includes_them() -> None:
    due = DueHours(grace_ms=0)
    due.mark_changed({NOON}, NOON + 3 * HOUR_MS)
    due.mark_trailing({NOON})
    assert due.due() == [NOON, NOON + HOUR_MS, NOON + 2 * HOUR_MS]
    assert trailing_hours({NOON}, NOON + 40 * HOUR_MS) == set(range(NOON, NOON + 25 * HOUR_MS, HOUR_MS))


def test_contiguous_hours_are_joined_up_to_a_month() -> None:
    assert contiguous_ranges([NOON, NOON + HOUR_MS, NOON + 3 * HOUR_MS]) == [
        (NOON, NOON + 2 * HOUR_MS),
        (NOON + 3 * HOUR_MS, NOON + 4 * HOUR_MS),
    ]
    long = contiguous_ranges(range(NOON, NOON + 40 * DAY_MS, HOUR_MS))
    assert long == [(NOON, NOON + 31 * DAY_MS), (NOON + 31 * DAY_MS, NOON + 40 * DAY_MS)]
