"""Baselines, promotion, scoring, outlook and names: everything of forecasting that needs no Keras and no stack."""

import numpy as np
import pyarrow as pa
import pytest

from config.sections import ForecastingSettings
from forecasting.data.hourly_grid import Hours, to_hours
from forecasting.data.samples import Samples, build_samples
from forecasting.evaluation.conformal import WINDOW_H
from forecasting.evaluation.scoring import known_truths, score
from forecasting.evaluation.walk_forward import calibrate, walk_forward
from forecasting.models.catalogue import NAMES, make
from forecasting.models.har import Har
from forecasting.models.lstm_quantile import shrinkage, split_tail
from forecasting.models.network import Training
from forecasting.registry.promotion import HAR_WATCH_H, MIN_COMMON_H, Record, contest, har_serves, refresh
from forecasting.registry.versions import model_of, version_name
from forecasting.report import markdown
from forecasting.serving.predictor import look_ahead, newest_hour
from marketdata.codec import decode, encode
from marketdata.errors import ForecastError
from marketdata.records import Prediction, Score
from marketdata.times import HOUR_MS, from_rfc3339
from tests.support.forecasting_hours import walk

BASELINES = [name for name in NAMES if not name.startswith("lstm")]


@pytest.fixture(scope="module")
def samples() -> Samples:
    return build_samples(to_hours(walk(3_000), "BTC-USD"), sequence_h=60)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_gives_ascending_quantiles_in_price_space(name: str, samples: Samples) -> None:
    known = samples.anchors[samples.learnable]
    model = make(name, Training())
    model.fit(samples, known[:1_500])
    forecast = model.predict(samples, known[2_000:2_100])
    assert forecast.prices.shape == (100, 7)
    assert np.all(np.diff(forecast.prices, axis=1) >= 0)
    assert np.all(forecast.sigma > 0)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "gradient-boosting"])
def test_rows_to_come_change_no_forecast_of_a_baseline(name: str) -> None:
    """The whole walk-forward, calibration included, up to a point is blind to what comes after that point."""
    whole, cut = walk(2_400), 2_000
    short = build_samples(to_hours(whole.slice(0, cut), "BTC-USD"), sequence_h=60)
    long = build_samples(to_hours(whole, "BTC-USD"), sequence_h=60)

    def run(samples: Samples) -> np.ndarray:
        told, forecast = walk_forward(lambda: make(name, Training()), samples, first=1_400, refit_every_h=168)
        return calibrate(told, forecast, samples).calibrated.quantiles

    before, after = run(short), run(long)
    np.testing.assert_array_equal(before, after[: len(before)])
    assert len(after) > len(before)


def test_a_saved_baseline_forecasts_the_same(samples: Samples) -> None:
    known = samples.anchors[samples.learnable]
    model, again = Har(rich=True), Har()
    model.fit(samples, known[:1_500])
    again.load(model.save())
    at = known[2_000:2_010]
    np.testing.assert_array_equal(model.predict(samples, at).prices, again.predict(samples, at).prices)


def test_har_beats_constant_width_where_volatility_persists(samples: Samples) -> None:
    from forecasting.evaluation.walk_forward import pinball

    losses = {}
    for name in ("last-price", "har"):
        told, forecast = walk_forward(lambda n=name: make(n, Training()), samples, first=1_500, refit_every_h=500)
        run = calibrate(told, forecast, samples)
        losses[name] = pinball(run.calibrated.quantiles, run.truth).mean()
    assert losses["har"] < 0.97 * losses["last-price"]


def test_a_gap_below_60_hours_is_refused(samples: Samples) -> None:
    with pytest.raises(ForecastError, match="gap_h"):
        walk_forward(lambda: make("ewma", Training()), samples, first=1_500, refit_every_h=500, gap_h=59)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ForecastError, match="lstm-deluxe"):
        make("lstm-deluxe", Training())


def test_the_validation_block_lies_a_gap_after_what_is_fitted() -> None:
    fit_on, validate_on = split_tail(np.arange(1_000), 0.1)
    assert validate_on.tolist() == list(range(900, 1_000))
    assert fit_on[-1] < 900 - 60


def test_a_median_without_skill_is_not_trusted() -> None:
    truth = np.array([1.0, -1.0, 1.0, -1.0])
    assert shrinkage(truth / 2, truth) == 1.0
    assert shrinkage(-truth, truth) == 0.0
    assert shrinkage(np.zeros(4), truth) == 0.0


def record(level: float, n: int = 4_000, seed: int = 0) -> Record:
    rng = np.random.default_rng(seed)
    covered = np.ones(n, dtype=bool)
    covered[::10] = False
    return Record(HOUR_MS * np.arange(n), level + 0.05 * rng.standard_normal(n), covered, 1.0)


def test_a_better_challenger_is_promoted_and_an_equal_one_is_not() -> None:
    champion, har = record(1.0, seed=1), record(1.02, seed=2)
    assert contest(record(0.98), champion, har, attempts=0).promoted
    refused = contest(record(1.0), champion, har, attempts=0)
    assert not refused.promoted
    assert "pinball better" in refused.why


def test_too_few_common_hours_promote_nobody() -> None:
    verdict = contest(record(0.5, MIN_COMMON_H - 1), record(1.0), record(1.0), attempts=0)
    assert not verdict.promoted
    assert verdict.n_common == MIN_COMMON_H - 1


def test_repeated_attempts_raise_the_bar() -> None:
    noisy = Record(HOUR_MS * np.arange(4_000), 0.996 + np.tile([0.05, -0.05], 2_000), record(1.0).covered, 1.0)
    level = [dict(contest(noisy, record(1.0), record(1.1), attempts=n).checks) for n in (0, 4)]
    assert "Diebold-Mariano p < 0.0500" in level[0]
    assert "Diebold-Mariano p < 0.0100" in level[1]


def test_a_challenger_worse_than_har_is_refused() -> None:
    assert "no worse than har" in contest(record(0.98), record(1.0), record(0.9), attempts=0).why


def test_a_refit_whose_band_is_off_is_refused() -> None:
    assert refresh(0.9, 1.001).promoted
    assert not refresh(0.7, 1.001).promoted


def test_har_serves_only_after_2000_hours_behind_it() -> None:
    assert har_serves(np.full(HAR_WATCH_H, 1.1), np.ones(HAR_WATCH_H))
    assert not har_serves(np.full(HAR_WATCH_H - 1, 1.1), np.ones(HAR_WATCH_H - 1))
    assert not har_serves(np.full(HAR_WATCH_H, 0.9), np.ones(HAR_WATCH_H))


def test_version_names_come_from_content_alone() -> None:
    name = version_name("lstm-quantile", "2024-08-05T00:00:00.000Z", b"content")
    assert name.startswith("lstm-quantile-20240805T00-")
    assert name == version_name("lstm-quantile", "2024-08-05T00:00:00.000Z", b"content")
    assert name != version_name("lstm-quantile", "2024-08-05T00:00:00.000Z", b"other")


def outlook(samples: Samples) -> tuple[Prediction, ...]:
    at = newest_hour(samples)
    assert at is not None
    issued = int(samples.hours.start_ms[at]) + HOUR_MS + 1
    return look_ahead(samples, at, None, ForecastingSettings(), issued_at_ms=issued).predictions


def test_without_a_model_har_serves_and_says_why(samples: Samples) -> None:
    har, last = outlook(samples)
    assert (har.model_version, har.role, har.stale_reason) == ("har", "baseline", "no_model")
    assert (last.model_version, last.role, last.stale_reason) == ("last-price", "baseline", None)
    assert har.lower < har.pred_avg_price < har.upper
    assert last.pred_avg_price == pytest.approx(last.last_price)
    assert har.prediction_id == f"BTC-USD|{har.target_start}|1|har"
    assert har.data_through == har.target_start
    assert from_rfc3339(har.target_end) - from_rfc3339(har.target_start) == HOUR_MS
    assert decode(Prediction, encode(har)) == har


def test_a_late_prediction_is_never_called_live(samples: Samples) -> None:
    at = newest_hour(samples)
    assert at is not None
    over = int(samples.hours.start_ms[at]) + 2 * HOUR_MS
    made = [
        look_ahead(samples, at, None, ForecastingSettings(), issued_at_ms=ms).predictions[0].origin
        for ms in (over - 1, over)
    ]
    assert made == ["live", "backfill"]


def test_after_a_gap_the_last_price_serves_and_says_why() -> None:
    table = walk(1_000)
    broken = pa.concat_tables([table.slice(0, 990), table.slice(992)])
    (only,) = outlook(build_samples(to_hours(broken, "BTC-USD"), sequence_h=60))
    assert only.model_version == "last-price"
    assert only.stale_reason == "no_model"


def test_a_score_tells_errors_in_basis_points(samples: Samples) -> None:
    _, last = outlook(samples)
    actual = last.last_price * np.exp(0.001)
    made = score(last, actual=float(actual), n_ticks=60, coverage=1.0, scored_at_ms=from_rfc3339(last.target_end))
    assert made.error_bps == pytest.approx(-10.0)
    assert made.last_price_error_bps == pytest.approx(-10.0)
    assert made.covered == (last.lower <= actual <= last.upper)
    assert made.winkler_bps >= np.log(last.upper / last.lower) * 1e4 - 1e-6
    assert decode(Score, encode(made)) == made


def live_hours(n: int, *, absent: int | None = None) -> Hours:
    rows = walk(n, live=True)
    if absent is not None:
        rows = pa.concat_tables([rows.slice(0, absent), rows.slice(absent + 1)])
    return to_hours(rows, "BTC-USD")


def prediction_of(hours: Hours, at: int) -> Prediction:
    samples = build_samples(to_hours(walk(at, live=True), "BTC-USD"), sequence_h=60)
    issued = int(hours.start_ms[at])
    return look_ahead(samples, at - 1, None, ForecastingSettings(), issued_at_ms=issued).predictions[0]


def test_a_prediction_is_scored_however_late_its_truth_is_looked_at() -> None:
    hours = live_hours(500)
    made = prediction_of(hours, 400)  # as after 99 h in which no predictor ran
    assert known_truths([made], hours) == ([(made, 400)], [])


def test_a_prediction_without_a_truth_waits_and_is_given_up() -> None:
    made = prediction_of(live_hours(500), 400)
    assert known_truths([made], live_hours(400)) == ([], [])
    assert known_truths([made], live_hours(420, absent=400)) == ([], [])
    assert known_truths([made], live_hours(500, absent=400)) == ([], [made])


def test_the_scores_that_calibrate_are_counted_as_they_are_kept() -> None:
    samples = build_samples(to_hours(walk(3_000), "BTC-USD"), sequence_h=60)
    assert [p.n_calib for p in outlook(samples)] == [WINDOW_H, WINDOW_H]


def test_a_version_tells_its_model() -> None:
    assert model_of(version_name("lstm-plain", "2024-08-05T00:00:00.000Z", b"")) == "lstm-plain"
    assert model_of("last-price") == "last-price"


def test_the_report_shows_a_dash_where_nothing_can_be_told() -> None:
    text = markdown(
        {
            "symbol": "BTC-USD",
            "quick": True,
            "gap_h": 60,
            "scored_from": "a",
            "scored_to": "b",
            "epochs": 1,
            "seeds": [0],
            "data": {"rows": 2, "sha256": "0" * 64, "by_basis": {"ticks": 2}},
            "lines": [{"model": "last-price", "n": 2, "rmse_bps": 1.0, "direction_share": float("nan")}],
        }
    )
    assert "| last-price | 2 | 1.00 | – |" in text
