"""Scores of published predictions, once the row of their target hour exists. Pure."""

import math
from collections.abc import Iterable

import numpy as np

from forecasting.data.hourly_grid import Hours
from forecasting.evaluation.metrics import BPS, pinball, winkler
from forecasting.models.interface import LEVELS
from marketdata.records import Prediction, Score
from marketdata.times import HOUR_MS, from_rfc3339, to_rfc3339

WAIT_H = 48
"""Hours to wait for the live row of a target hour."""


REVISED_BPS = 1.0
"""A score is issued again if its hour's average price changed by more than this, in basis points of log price."""


def level_name(level: float) -> str:
    """The key of a quantile in a Prediction: two decimals."""
    return f"{level:.2f}"


def known_truths(pending: Iterable[Prediction], hours: Hours) -> tuple[list[tuple[Prediction, int]], list[Prediction]]:
    """Split pending predictions by whether the truth is known.

    The truth is a row of origin `live`, of any age. A prediction without one expires after WAIT_H.

    Returns:
        Predictions that can be scored, each with the grid position of its target hour; and expired predictions.
    """
    ready: list[tuple[Prediction, int]] = []
    expired: list[Prediction] = []
    for prediction in sorted(pending, key=lambda p: p.target_start):
        start_ms = from_rfc3339(prediction.target_start)
        at = (start_ms - int(hours.start_ms[0])) // HOUR_MS
        if _is_known(hours, at):
            ready.append((prediction, at))
        elif at < 0 or hours.end_ms - start_ms > WAIT_H * HOUR_MS:
            expired.append(prediction)
    return ready, expired


def _is_known(hours: Hours, at: int) -> bool:
    return bool(0 <= at < len(hours) and hours.present[at] and hours.live[at])


def changed_truths(scored: Iterable[tuple[Prediction, Score]], hours: Hours) -> list[tuple[Prediction, int, Score]]:
    """Return the predictions whose hour was rewritten by more than REVISED_BPS since their newest score.

    Args:
        scored: predictions with their newest scores.
        hours: the rows now.

    Returns:
        Each with the grid position of its target hour and its newest score, oldest hour first.
    """
    changed = []
    for prediction, known in scored:
        at = (from_rfc3339(prediction.target_start) - int(hours.start_ms[0])) // HOUR_MS
        if _is_known(hours, at) and abs(math.log(hours.avg_price[at] / known.actual_avg_price)) * BPS > REVISED_BPS:
            changed.append((prediction, at, known))
    return sorted(changed, key=lambda one: one[1])


def score(
    prediction: Prediction, *, actual: float, n_ticks: int, coverage: float, scored_at_ms: int, revision: int = 0
) -> Score:
    """Score a prediction. Errors are log(forecast / actual); all in basis points.

    Args:
        prediction: the published record.
        actual: the average price of its target hour.
        n_ticks: ticks in that hour.
        coverage: share of that hour's minutes with data, 0 to 1.
        scored_at_ms: event time now, in ms.
        revision: number of earlier scores of the prediction.
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
        revision=revision,
    )
