"""What backfill asks for, which hours are due, where rows belong: no Spark, no network."""

import pytest

from batch.jobs.backfill import History, Plan, brings_nothing, missing_ranges, plan
from batch.jobs.verify import gap_ranges
from batch.schemas import HOURLY, RAW, column_names
from batch.tables.hour_writer import DueHours, runs, trailing_hours
from batch.tables.merge import hourly_metrics, minute_candles, raw_data
from exchanges.binance.kline_client import ROWS_A_REQUEST, Kline, parse_row
from marketdata.markets import Market
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, from_rfc3339
from tests.support.stack import settings_with

NOON = from_rfc3339("2024-08-05T12:00:00Z")
BTC = Market.parse("BTC-USD")
ROW = [NOON, "10", "12", "9", "11", "3.5", NOON + MINUTE_MS - 1, "35", 7, "1", "10", "0"]


def kline(open_ms: int) -> Kline:
    return Kline(open_ms, 10, 12, 9, 11, 3.5, 35, 7, 1, 10)


def test_missing_ranges_leave_out_what_is_stored() -> None:
    stored = {NOON + 2 * HOUR_MS, NOON + 3 * HOUR_MS}
    found = missing_ranges(stored, NOON, NOON + 6 * HOUR_MS, HOUR_MS)
    assert found == [(NOON, NOON + 2 * HOUR_MS), (NOON + 4 * HOUR_MS, NOON + 6 * HOUR_MS)]


def test_a_first_plan_asks_for_all_with_the_day_before_the_first_hour() -> None:
    made = plan([BTC], {}, {}, hours=48, minutes=90, to_ms=NOON + 30 * MINUTE_MS)
    hours = [span for span in made.spans if span.interval == "1h"]
    minutes = [span for span in made.spans if span.interval == "1m"]
    assert [(span.from_ms, span.to_ms) for span in hours] == [(NOON - 71 * HOUR_MS, NOON)]
    assert made.hours == {"BTC-USD": set(range(NOON - 48 * HOUR_MS, NOON, HOUR_MS))}
    assert [(span.from_ms, span.to_ms) for span in minutes] == [(NOON - HOUR_MS, NOON + 30 * MINUTE_MS)]


def test_a_span_never_holds_more_rows_than_an_answer_may() -> None:
    made = plan([BTC], {}, {}, hours=17_520, minutes=8_640, to_ms=NOON)
    for span in made.spans:
        step_ms = HOUR_MS if span.interval == "1h" else MINUTE_MS
        assert 0 < (span.to_ms - span.from_ms) // step_ms <= ROWS_A_REQUEST
    assert len(made.spans) == 18 + 9


def test_a_plan_with_all_stored_asks_for_nothing() -> None:
    hours = {"BTC-USD": set(range(NOON - 48 * HOUR_MS, NOON, HOUR_MS))}
    minutes = {"BTC-USD": set(range(NOON - 60 * MINUTE_MS, NOON, MINUTE_MS))}
    assert plan([BTC], hours, minutes, hours=48, minutes=60, to_ms=NOON) == Plan((), {})


def test_an_answer_without_what_was_missing_brings_nothing() -> None:
    made = Plan((), {"BTC-USD": {NOON}})
    nothing = History({("BTC-USD", "1h"): [kline(NOON - HOUR_MS)], ("BTC-USD", "1m"): [kline(NOON)]}, {})
    assert brings_nothing(nothing, made, {"BTC-USD": {NOON}})
    assert not brings_nothing(nothing, made, {})
    assert not brings_nothing(History({("BTC-USD", "1h"): [kline(NOON)]}, {}), made, {})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({0: NOON + 1}, "open time on the interval's grid"),
        ({6: NOON}, "close time before the next"),
        ({2: "8"}, "low <= open, close <= high"),
        ({3: "0"}, "0 < low"),
        ({5: "-1"}, "volume of 0 or more"),
        ({7: "nan"}, "finite"),
        ({1: "ten"}, "could not convert"),
    ],
)
def test_a_kline_that_cannot_be_is_refused(changes: dict[int, object], expected: str) -> None:
    row = [changes.get(i, value) for i, value in enumerate(ROW)]
    with pytest.raises(ValueError, match=expected):
        parse_row(row, MINUTE_MS)


def test_a_kline_is_read_in_its_order() -> None:
    assert parse_row(ROW, MINUTE_MS) == (kline(NOON), NOON + MINUTE_MS - 1)
    with pytest.raises(ValueError, match="at least 11"):
        parse_row(ROW[:8], MINUTE_MS)


def test_an_hour_is_due_once_event_time_is_past_its_end_and_grace() -> None:
    due = DueHours(grace_ms=120_000)
    due.touch({NOON}, NOON + HOUR_MS + 119_999)
    assert due.due() == []
    due.touch({NOON + HOUR_MS}, NOON + HOUR_MS + 120_000)
    assert due.due() == [NOON]
    due.written([NOON])
    assert due.due() == []
    due.touch({NOON}, NOON)  # late data of a closed hour: written anew, and time does not run backwards
    assert due.due() == [NOON]
    assert due.high_water_ms == NOON + HOUR_MS + 120_000


def test_late_candles_touch_the_closed_hours_in_whose_trailing_day_they_lie() -> None:
    due = DueHours(grace_ms=0)
    due.touch({NOON}, NOON + 3 * HOUR_MS)
    due.touch_trailing({NOON})
    assert due.due() == [NOON, NOON + HOUR_MS, NOON + 2 * HOUR_MS]
    assert trailing_hours({NOON}, NOON + 40 * HOUR_MS) == set(range(NOON, NOON + 25 * HOUR_MS, HOUR_MS))


def test_runs_join_neighbouring_hours_up_to_a_month() -> None:
    assert runs([NOON, NOON + HOUR_MS, NOON + 3 * HOUR_MS]) == [
        (NOON, NOON + 2 * HOUR_MS),
        (NOON + 3 * HOUR_MS, NOON + 4 * HOUR_MS),
    ]
    long = runs(range(NOON, NOON + 40 * DAY_MS, HOUR_MS))
    assert long == [(NOON, NOON + 31 * DAY_MS), (NOON + 31 * DAY_MS, NOON + 40 * DAY_MS)]


def test_files_lie_where_readers_look_for_them() -> None:
    settings = settings_with({})
    raw, candles, hourly = raw_data(settings), minute_candles(settings), hourly_metrics(settings)
    at = from_rfc3339("2024-08-05T03:07:00Z")
    assert raw.file_of(raw.name_of(at)) == "/bitcoin/raw_data/date=2024-08-05/hour=3/ticks.parquet"
    assert candles.file_of(candles.name_of(at)) == "/bitcoin/minute_candles/candles-2024-08-05.parquet"
    assert hourly.file_of(hourly.name_of(at)) == "/bitcoin/hourly_metrics/hourly-2024-08.parquet"


def test_shorter_slots_are_files_of_the_same_folder() -> None:
    raw = raw_data(settings_with({"BDI_BATCH__RAW_SLOT_MINUTES": "20"}))
    start = from_rfc3339("2024-08-05T03:00:00Z")
    slots = raw.slots(start, start + HOUR_MS)
    assert [raw.file_of(slot).rsplit("/", 1)[1] for slot in slots] == [
        "ticks-00.parquet",
        "ticks-20.parquet",
        "ticks-40.parquet",
    ]


def test_column_names_look_past_nested_types() -> None:
    assert column_names("a STRING, b MAP<STRING, STRUCT<x: INT, y: INT>>, c ARRAY<STRING>") == ("a", "b", "c")
    assert len(set(column_names(RAW))) == len(column_names(RAW))
    assert column_names(HOURLY)[:2] == ("symbol", "hour_start")


def test_gaps_are_told_as_ranges() -> None:
    times = [NOON, NOON + HOUR_MS, NOON + 4 * HOUR_MS]
    assert gap_ranges(times, HOUR_MS) == ["2024-08-05T14:00/2024-08-05T16:00"]
