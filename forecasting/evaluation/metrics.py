"""Metrics of forecasts. Pure numpy.

Losses and errors are in log price unless the name ends with `_bps` (basis points of log price).
"""

from math import erf, sqrt
from typing import Any

import numpy as np

from forecasting.data.hourly_grid import Floats, Ints
from forecasting.data.samples import WEEK_H, Samples
from forecasting.evaluation.walk_forward import WalkForward
from forecasting.models.interface import LEVELS

BPS = 1e4
HAC_LAGS = 24


def pinball(quantiles: Floats, truth: Floats) -> Floats:
    """Mean pinball loss over LEVELS of each row: quantiles (m, 7), truth (m,); shape (m,), unit of the truth."""
    error = truth[:, None] - quantiles
    levels = np.asarray(LEVELS)
    out: Floats = np.maximum(levels * error, (levels - 1) * error).mean(axis=1)
    return out


def winkler(lower: Floats, upper: Floats, truth: Floats, level: float) -> Floats:
    """Interval score (Winkler 1972; Gneiting and Raftery 2007): width plus 2 / alpha times the distance outside."""
    penalty = np.maximum(lower - truth, 0.0) + np.maximum(truth - upper, 0.0)
    out: Floats = (upper - lower) + 2.0 / (1.0 - level) * penalty
    return out


def hac_t(values: Floats, lags: int = HAC_LAGS) -> float:
    """T statistic of the mean with the Newey-West standard error (1987, Bartlett weights); NaN without variance."""
    n = len(values)
    if n < 2:  # noqa: PLR2004  one value has no variance
        return float("nan")
    centred = values - values.mean()
    variance = float(centred @ centred) / n
    for lag in range(1, min(lags, n - 1) + 1):
        variance += 2.0 * (1.0 - lag / (lags + 1)) * float(centred[lag:] @ centred[:-lag]) / n
    return float(values.mean() / sqrt(variance / n)) if variance > 0 else float("nan")


def upper_tail(t: float) -> float:
    """P(Z > t) of a standard normal."""
    return 0.5 * (1.0 - erf(t / sqrt(2.0)))


def clark_west_t(truth: Floats, centre: Floats) -> float:
    """Clark-West (2007) t against a forecast of 0 (the last price); above 1.645 the gain is significant at 5 %."""
    return hac_t(truth**2 - ((truth - centre) ** 2 - centre**2))


def directions(truth: Floats, centre: Floats) -> tuple[float, float, int]:
    """Direction against the last price: share of hits, Pesaran-Timmermann (1992) one-sided p, number of hours.

    Hours whose truth or forecast is exactly 0 have no direction and are not counted.
    """
    has_direction = (centre != 0) & (truth != 0)
    n = int(has_direction.sum())
    if n == 0:
        return float("nan"), float("nan"), 0
    up, predicted_up = truth[has_direction] > 0, centre[has_direction] > 0
    hit, p_up, p_predicted = float(np.mean(up == predicted_up)), float(up.mean()), float(predicted_up.mean())
    chance = p_up * p_predicted + (1 - p_up) * (1 - p_predicted)
    v_hit = chance * (1 - chance) / n
    v_chance = (
        (2 * p_up - 1) ** 2 * p_predicted * (1 - p_predicted) / n
        + (2 * p_predicted - 1) ** 2 * p_up * (1 - p_up) / n
        + 4 * p_up * p_predicted * (1 - p_up) * (1 - p_predicted) / n**2
    )
    if v_hit <= v_chance:
        return hit, float("nan"), n
    return hit, upper_tail((hit - chance) / sqrt(v_hit - v_chance)), n


def worst_week(covered: Floats, anchors: Ints) -> float:
    """Lowest coverage of any week (block of 168 h on the grid) with at least half of its hours; NaN without one."""
    weeks = anchors // WEEK_H
    shares = [covered[weeks == week].mean() for week in np.unique(weeks) if (weeks == week).sum() >= WEEK_H // 2]
    return float(min(shares)) if shares else float("nan")


def qlike(sigma: Floats, proxy: Floats) -> float:
    """QLIKE (Patton 2011): mean of v / s² - ln(v / s²) - 1, for standard deviations s and variance proxies v."""
    ratio = np.maximum(proxy, 1e-12) / sigma**2
    return float(np.mean(ratio - np.log(ratio) - 1.0))


def evaluate(run: WalkForward, samples: Samples, references: dict[str, Floats] | None = None) -> dict[str, Any]:
    """Return all metrics of a model by name, as in a line of the report.

    Args:
        run: the model's forecasts.
        samples: source of the variance proxy, which is scaled to the mean of the squared target.
        references: pinball losses (m,) of other models at the same anchors, by name; adds skill and t over each.
    """
    truth, quantiles = run.truth, run.calibrated.quantiles
    centre = run.raw.point / samples.widening[run.raw.anchors]
    loss = pinball(quantiles, truth)
    raw_loss = pinball(run.raw_quantiles, truth)
    proxy = np.exp(samples.log_variance[run.raw.anchors + samples.horizon_h])
    proxy = proxy * float(np.mean(truth**2) / np.mean(proxy))
    share, p_value, n_directions = directions(truth, centre)
    rmse, naive = float(np.sqrt(np.mean((truth - centre) ** 2))), float(np.sqrt(np.mean(truth**2)))
    wide = run.calibrated.interval_95
    line: dict[str, Any] = {
        "model": run.name,
        "n": len(truth),
        "rmse_bps": rmse * BPS,
        "rmse_over_last_price": rmse / naive,
        "clark_west_t": clark_west_t(truth, centre),
        "direction_share": share,
        "direction_p": p_value,
        "direction_n": n_directions,
        "pinball_bps": float(loss.mean()) * BPS,
        "pinball_raw_bps": float(raw_loss.mean()) * BPS,
        "coverage_80": float(np.mean((truth >= quantiles[:, 1]) & (truth <= quantiles[:, -2]))),
        "coverage_90": float(np.mean(run.calibrated.covered)),
        "coverage_95": float(np.mean((truth >= wide[:, 0]) & (truth <= wide[:, 1]))),
        "coverage_90_raw": float(np.mean((truth >= run.raw_quantiles[:, 0]) & (truth <= run.raw_quantiles[:, -1]))),
        "worst_week_coverage_90": worst_week(run.calibrated.covered.astype(float), run.raw.anchors),
        "winkler_90_bps": float(winkler(quantiles[:, 0], quantiles[:, -1], truth, 0.9).mean()) * BPS,
        "qlike": qlike(run.sigma, proxy),
    }
    for name, other in (references or {}).items():
        line[f"pinball_skill_over_{name}"] = 1.0 - float(loss.mean() / other.mean())
        line[f"pinball_t_over_{name}"] = hac_t(other - loss)
    return line
