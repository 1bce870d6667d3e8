"""Which klines backfill requests: no Spark, no network."""

from batch.klines.history import History
from batch.klines.plan import Plan, make_plan, missing_ranges
from exchanges.binance.endpoints import KLINES_PER_REQUEST
from exchanges.binance.klines import Kline
from marketdata.markets import Market
from marketdata.times import HOUR_MS, MINUTE_MS, from_rfc3339

NOON = from_rfc3339("2024-08-05T12:00:00Z")
BTC = Market.parse("BTC-USD")


def kline(open_ms: int) -> Kline:
    return Kline(open_ms, open_ms + MINUTE_MS - 1, 10, 12, 9, 11, 3.5, 35, 7, 1, 10)


def test_missing_ranges_exclude_stored_times() -> None:
    stored = {NOON + 2 * HOUR_MS, NOON + 3 * HOUR_MS}
    found = missing_ranges(stored, NOON, NOON + 6 * HOUR_MS, HOUR_MS)
    assert found == [(NOON, NOON + 2 * HOUR_MS), (NOON + 4 * HOUR_MS, NOON + 6 * HOUR_MS)]


def test_a_first_plan_requests_all_with_the_day_before_the_first_hour() -> None:
    made = make_plan([BTC], {}, {}, hours=48, minutes=90, to_ms=NOON + 30 * MINUTE_MS)
    hours = [span for span in made.spans if span.interval == "1h"]
    minutes = [span for span in made.spans if span.interval == "1m"]
    assert [(span.from_ms, span.to_ms) for span in hours] == [(NOON - 71 * HOUR_MS, NOON)]
    assert made.hours == {"BTC-USD": set(range(NOON - 48 * HOUR_MS, NOON, HOUR_MS))}
    assert [(span.from_ms, span.to_ms) for span in minutes] == [(NOON - HOUR_MS, NOON + 30 * MINUTE_MS)]


def test_a_span_fits_into_one_request() -> None:
    made = make_plan([BTC], {}, {}, hours=17_520, minutes=8_640, to_ms=NOON)
    for span in made.spans:
        step_ms = HOUR_MS if span.interval == "1h" else MINUTE_MS
        assert 0 < (span.to_ms - span.from_ms) // step_ms <= KLINES_PER_REQUEST
    assert len(made.spans) == 18 + 9


def test_a_plan_without_gaps_requests_nothing() -> None:
    hours = {"BTC-USD": set(range(NOON - 48 * HOUR_MS, NOON, HOUR_MS))}
    minutes = {"BTC-USD": set(range(NOON - 60 * MINUTE_MS, NOON, MINUTE_MS))}
    assert make_plan([BTC], hours, minutes, hours=48, minutes=60, to_ms=NOON) == Plan((), {})


def test_klines_that_are_stored_already_fill_no_gap() -> None:
    made = Plan((), {"BTC-USD": {NOON}})
    nothing = History({("BTC-USD", "1h"): [kline(NOON - HOUR_MS)], ("BTC-USD", "1m"): [kline(NOON)]}, {})
    assert not nothing.has_missing(made, {"BTC-USD": {NOON}})
    assert nothing.has_missing(made, {})
    assert History({("BTC-USD", "1h"): [kline(NOON)]}, {}).has_missing(made, {})
