"""What the predictor keeps of a market, and when a model is due: no stack, no Keras."""

import pytest
from pydantic import ValidationError

from clients.webhdfs import Storage
from config.sections import ForecastingSettings, HdfsSettings
from forecasting.data.hourly_store import HourlyStore
from forecasting.evaluation.conformal import Calibrator
from forecasting.models.baselines import LastPrice
from forecasting.registry.promotion import HAR_WATCH_H
from forecasting.registry.versions import Loaded, Registry, Version
from forecasting.serving.market_state import Market
from marketdata.records import Role, Score
from marketdata.times import HOUR_MS, to_rfc3339

CHAMPION = "lstm-quantile-20240805T00-0123456789"


def market() -> Market:
    storage = Storage(HdfsSettings())
    version = Version("BTC-USD", CHAMPION, "2024-08-05T00:00:00.000Z", "recipe", {}, {})
    made = Market("BTC-USD", HourlyStore(storage, "/hours", "BTC-USD"), Registry(storage, "/models", "BTC-USD"))
    made.loaded = Loaded(version, LastPrice(), Calibrator(), 0)
    return made


def score(version: str, hour: int, pinball: float, role: Role) -> Score:
    start = to_rfc3339(hour * HOUR_MS)
    return Score(
        symbol="BTC-USD",
        prediction_id=f"{version}{hour}",
        issued_at=start,
        target_start=start,
        target_end=start,
        scored_at=start,
        horizon_h=1,
        model_version=version,
        role=role,
        origin="live",
        actual_avg_price=1.0,
        pred_avg_price=1.0,
        last_price=1.0,
        n_ticks=60,
        coverage=1.0,
        error_bps=0.0,
        last_price_error_bps=0.0,
        covered=True,
        interval_level=0.9,
        pinball_bps=pinball,
        winkler_bps=1.0,
    )


def test_hours_that_the_champion_missed_do_not_end_its_comparison_with_har() -> None:
    made = market()
    for hour in range(HAR_WATCH_H + 60):
        if hour % 50:
            made.note_score(score(CHAMPION, hour, 1.1, "champion"))
        made.note_score(score("har", hour, 1.0, "baseline"))
    assert made.demotion() == f"champion_trails_har over {HAR_WATCH_H} h"


def test_a_challenger_of_another_model_does_not_count_against_the_champion() -> None:
    made = market()
    for hour in range(HAR_WATCH_H + 10):
        made.note_score(score(CHAMPION, hour, 0.9, "champion"))
        made.note_score(score("har", hour, 1.0, "baseline"))
        made.note_score(score("lstm-plain-20240805T00-0123456789", hour, 50.0, "challenger"))
    assert made.demotion() is None


def test_a_model_is_trained_anew_before_it_is_too_old_to_serve() -> None:
    own = ForecastingSettings()
    assert own.retrain_every_h + 24 <= own.max_model_age_h
    with pytest.raises(ValidationError, match="retrain_every_h 200: expected at most max_model_age_h 168"):
        ForecastingSettings(retrain_every_h=200)
