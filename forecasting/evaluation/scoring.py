"""How a prediction fared, when its hour is known. Pure."""

import math
from collections.abc import Iterable

import numpy as np

from forecasting.data.hourly_grid import Hours
from forecasting.evaluation.walk_forward import BPS, pinball, winkler
from forecasting.models.interface import LEVELS
from marketdata.records import Prediction, Score
from marketdata.times import HOUR_MS, from_rfc3339, to_rfc3339

WAIT_H = 48
"""For so long the live row of a target hour may be late."""


def level_name(level: float) -> str:
    """The key of a quantile in a Prediction: two decimals."""
    return f"{level:.2f}"


def known_truths(pending: Iterable[Prediction], hours: Hours) -> tuple[list[tuple[Prediction, int]], list[Prediction]]:
    """Which predictions can be scored, with the position of their target hour, and which never will be.

    A truth is a row that holds ticks, however long ago it came; without one a prediction is given up after WAIT_H.
    """
    ready: list[tuple[Prediction, int]] = []
    given_up: list[Prediction] = []
    for prediction in sorted(pending, key=lambda p: p.target_start):
        start_ms = from_rfc3339(prediction.target_start)
        at = (start_ms - int(hours.start_ms[0])) // HOUR_MS
        if 0 <= at < len(hours) and hours.present[at] and hours.live[at]:
            ready.append((prediction, at))
        elif at < 0 or hours.end_ms - start_ms > WAIT_H * HOUR_MS:
            given_up.append(prediction)
    return ready, given_up


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
