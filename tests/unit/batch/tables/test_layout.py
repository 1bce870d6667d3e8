"""The files that the tables' rows belong to."""

from batch.tables.layout import hour_of_raw_file, hourly_metrics, minute_candles, raw_data
from marketdata.times import HOUR_MS, from_rfc3339
from tests.support.stack import settings_with


def test_rows_are_stored_at_the_documented_paths() -> None:
    settings = settings_with({})
    raw, candles, hourly = raw_data(settings), minute_candles(settings), hourly_metrics(settings)
    at = from_rfc3339("2024-08-05T03:07:00Z")
    assert raw.file_of(raw.slot_of(at)) == "/bitcoin/raw_data/date=2024-08-05/hour=3/ticks.parquet"
    assert candles.file_of(candles.slot_of(at)) == "/bitcoin/minute_candles/candles-2024-08-05.parquet"
    assert hourly.file_of(hourly.slot_of(at)) == "/bitcoin/hourly_metrics/hourly-2024-08.parquet"


def test_shorter_slots_are_files_in_the_same_folder() -> None:
    raw = raw_data(settings_with({"BDI_BATCH__RAW_SLOT_MINUTES": "20"}))
    start = from_rfc3339("2024-08-05T03:00:00Z")
    slots = raw.slots(start, start + HOUR_MS)
    assert [raw.file_of(slot).rsplit("/", 1)[1] for slot in slots] == [
        "ticks-00.parquet",
        "ticks-20.parquet",
        "ticks-40.parquet",
    ]


def test_the_hour_of_a_raw_file_is_read_from_its_path() -> None:
    raw = raw_data(settings_with({}))
    hour = from_rfc3339("2024-08-05T03:00:00Z")
    assert hour_of_raw_file(raw.file_of(raw.slot_of(hour))) == hour
    assert hour_of_raw_file("/bitcoin/raw_data/ticks.parquet") is None
