"""How a prediction fared, when its hour is known. Pure."""

import math

import numpy as np

from forecasting.evaluation import BPS, pinball, winkler
from forecasting.models.interface import LEVELS
from marketdata.records import Prediction, Score
from marketdata.times import to_rfc3339


def level_name(level: float) -> str:
    """The key of a quantile in a Prediction: two decimals."""
    return f"{level:.2f}"


def score(prediction: Prediction, *, actual: float, n_ticks: int, coverage: float, scored_at_ms: int) -> Score:
    """The score of a prediction; errors are log(forecast / actual), all in bp.

    Args:
        prediction: as it was published.
        actual: the average price of its target hour.
        n_ticks: of that hour's row.
        coverage: of that hour's row.
        scored_at_ms: event time now.
    """
    last = prediction.last_price
    truth = np.array([math.log(actual / last)])
    quantiles = np.array([[math.log(prediction.quantiles[level_name(level)] / last) for level in LEVELS]])
    lower, upper = (np.array([math.log(side / last)]) for side in (prediction.lower, prediction.upper))
    return Score(
        symbol=prediction.symbol,
        prediction_id=prediction.prediction_id,
        issued_at=prediction.issued_at,
        target_start=prediction.target_start,
        target_end=prediction.target_end,
        scored_at=to_rfc3339(scored_at_ms),
        horizon_h=prediction.horizon_h,
        model_version=prediction.model_version,
        role=prediction.role,
        origin=prediction.origin,
        actual_avg_price=actual,
        pred_avg_price=prediction.pred_avg_price,
        last_price=last,
        n_ticks=n_ticks,
        coverage=coverage,
        error_bps=math.log(prediction.pred_avg_price / actual) * BPS,
        last_price_error_bps=math.log(last / actual) * BPS,
        covered=bool(prediction.lower <= actual <= prediction.upper),
        interval_level=prediction.interval_level,
        pinball_bps=float(pinball(quantiles, truth)[0]) * BPS,
        winkler_bps=float(winkler(lower, upper, truth, prediction.interval_level)[0]) * BPS,
    )
