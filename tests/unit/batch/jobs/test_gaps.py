"""Missing hours of each market, and the list of gaps."""

from batch.jobs.gaps import Gaps, missing_hours
from batch.tables.lost_ranges import LostRange
from marketdata.times import HOUR_MS, from_rfc3339

NOON = from_rfc3339("2024-08-05T12:00:00Z")
LOST = LostRange(topic="ticks-clean", partition=2, from_offset=5, to_offset=9, recorded_at="2024-08-05T16:00:00.000Z")


def test_hours_are_missing_up_to_the_newest_of_any_market() -> None:
    hours = {"BTC-USD": {NOON, NOON + HOUR_MS, NOON + 4 * HOUR_MS}, "ETH-USD": {NOON}, "XRP-USD": {NOON + 4 * HOUR_MS}}
    assert missing_hours(hours) == {
        "BTC-USD": ["2024-08-05T14:00/2024-08-05T16:00"],
        "ETH-USD": ["2024-08-05T13:00/2024-08-05T17:00"],
    }
    assert missing_hours({}) == {}


def test_lost_ranges_and_missing_hours_are_one_line_each() -> None:
    assert list(Gaps((LOST,), {"ETH-USD": ["a/b", "c/d"]}).lines()) == [
        "lost ticks-clean, partition 2: 4 records, offsets 5 to 9, skipped 2024-08-05T16:00:00.000Z",
        "missing hours ETH-USD: a/b, c/d",
    ]
    assert list(Gaps((), {}).lines()) == ["no gaps: nothing was lost, and no market lacks an hour"]
    assert Gaps((LOST,), {}).as_json()["lost"][0]["to_offset"] == 9
