"""Scores: units, and which predictions can be scored."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from config.sections import ForecastingSettings
from forecasting.data.hourly_grid import Hours, to_hours
from forecasting.data.samples import Samples, build_samples
from forecasting.evaluation.scoring import changed_truths, known_truths, score
from forecasting.serving.predictor import forecast_set
from marketdata.codec import decode, encode
from marketdata.records import Prediction, Score
from marketdata.times import from_rfc3339
from tests.support.forecasting_hours import walk


def prediction_of(hours: Hours, at: int) -> Prediction:
    samples = build_samples(to_hours(walk(at, live=True), "BTC-USD"), sequence_h=60)
    issued = int(hours.start_ms[at])
    return forecast_set(samples, at - 1, None, ForecastingSettings(), issued_at_ms=issued).predictions[0]


def live_hours(n: int, *, absent: int | None = None) -> Hours:
    rows = walk(n, live=True)
    if absent is not None:
        rows = pa.concat_tables([rows.slice(0, absent), rows.slice(absent + 1)])
    return to_hours(rows, "BTC-USD")


def test_errors_of_a_score_are_in_basis_points(samples: Samples) -> None:
    at = len(samples.hours) - 1
    _, last = forecast_set(samples, at, None, ForecastingSettings(), issued_at_ms=samples.hours.end_ms + 1).predictions
    actual = last.last_price * np.exp(0.001)
    made = score(last, actual=float(actual), n_ticks=60, coverage=1.0, scored_at_ms=from_rfc3339(last.target_end))
    assert made.error_bps == pytest.approx(-10.0)
    assert made.last_price_error_bps == pytest.approx(-10.0)
    assert made.covered == (last.lower <= actual <= last.upper)
    assert made.winkler_bps >= np.log(last.upper / last.lower) * 1e4 - 1e-6
    assert decode(Score, encode(made)) == made


def test_a_prediction_is_scored_however_old_its_truth_is() -> None:
    hours = live_hours(500)
    made = prediction_of(hours, 400)  # as after 99 h in which no predictor ran
    assert known_truths([made], hours) == ([(made, 400)], [])


def test_a_prediction_without_a_truth_waits_and_expires() -> None:
    made = prediction_of(live_hours(500), 400)
    assert known_truths([made], live_hours(400)) == ([], [])
    assert known_truths([made], live_hours(420, absent=400)) == ([], [])
    assert known_truths([made], live_hours(500, absent=400)) == ([], [made])


def rewritten(hours: Hours, at: int, bps: float) -> Hours:
    """The hours with the average price of one changed, in basis points of log price."""
    prices = hours.avg_price.copy()
    prices[at] *= np.exp(bps / 1e4)
    return replace(hours, avg_price=prices)


@pytest.mark.parametrize(
    ("bps", "is_changed"), [(0.0, False), (0.99, False), (-0.99, False), (1.01, True), (-1.01, True)]
)
def test_a_score_is_revised_if_its_hour_changed_by_more_than_a_basis_point(bps: float, is_changed: bool) -> None:
    hours = live_hours(500)
    made = prediction_of(hours, 400)
    known = score(made, actual=float(hours.avg_price[400]), n_ticks=60, coverage=1.0, scored_at_ms=hours.end_ms)
    expected = [(made, 400, known)] if is_changed else []
    assert changed_truths([(made, known)], rewritten(hours, 400, bps)) == expected


def test_a_score_is_not_revised_by_a_row_that_is_gone_or_not_live() -> None:
    hours = live_hours(500)
    made = prediction_of(hours, 400)
    known = score(made, actual=1.0, n_ticks=60, coverage=1.0, scored_at_ms=hours.end_ms)
    assert changed_truths([(made, known)], live_hours(500, absent=400)) == []
    assert changed_truths([(made, known)], live_hours(400)) == []
    assert changed_truths([(made, known)], to_hours(walk(500), "BTC-USD")) == []
