"""Forecasts of the next hour without a model."""

import pyarrow as pa
import pytest

from config.sections import ForecastingSettings
from forecasting.data.hourly_grid import to_hours
from forecasting.data.samples import Samples, build_samples
from forecasting.evaluation.conformal import WINDOW_H
from forecasting.serving.predictor import forecast_set, newest_hour
from marketdata.codec import decode, encode
from marketdata.records import Prediction
from marketdata.times import HOUR_MS, from_rfc3339
from tests.support.forecasting_hours import walk


def baselines(samples: Samples) -> tuple[Prediction, ...]:
    at = newest_hour(samples)
    assert at is not None
    issued = int(samples.hours.start_ms[at]) + HOUR_MS + 1
    return forecast_set(samples, at, None, ForecastingSettings(), issued_at_ms=issued).predictions


def test_without_a_model_har_serves_with_a_stale_reason(samples: Samples) -> None:
    har, last = baselines(samples)
    assert (har.model_version, har.role, har.stale_reason) == ("har", "baseline", "no_model")
    assert (last.model_version, last.role, last.stale_reason) == ("last-price", "baseline", None)
    assert har.lower < har.pred_avg_price < har.upper
    assert last.pred_avg_price == pytest.approx(last.last_price)
    assert har.prediction_id == f"BTC-USD|{har.target_start}|1|har"
    assert har.data_through == har.target_start
    assert from_rfc3339(har.target_end) - from_rfc3339(har.target_start) == HOUR_MS
    assert decode(Prediction, encode(har)) == har


def test_a_late_prediction_is_never_of_origin_live(samples: Samples) -> None:
    at = newest_hour(samples)
    assert at is not None
    over = int(samples.hours.start_ms[at]) + 2 * HOUR_MS
    made = [
        forecast_set(samples, at, None, ForecastingSettings(), issued_at_ms=ms).predictions[0].origin
        for ms in (over - 1, over)
    ]
    assert made == ["live", "backfill"]


def test_after_a_gap_the_last_price_serves_with_a_stale_reason() -> None:
    table = walk(1_000)
    broken = pa.concat_tables([table.slice(0, 990), table.slice(992)])
    (only,) = baselines(build_samples(to_hours(broken, "BTC-USD"), sequence_h=60))
    assert only.model_version == "last-price"
    assert only.stale_reason == "no_model"


def test_n_calib_counts_the_scores_in_the_window() -> None:
    samples = build_samples(to_hours(walk(3_000), "BTC-USD"), sequence_h=60)
    assert [p.n_calib for p in baselines(samples)] == [WINDOW_H, WINDOW_H]
