"""Walk-forward evaluation and its metrics. Pure numpy but for the models it is handed.

Errors, pinball and Winkler scores are in basis points of log price.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import erf, sqrt
from typing import Any

import numpy as np

from forecasting.data.hourly_grid import Floats, Ints
from forecasting.data.samples import WEEK_H, Samples
from forecasting.evaluation.conformal import Calibrator, Replay
from forecasting.models.interface import LEVELS, Forecast, Model, Progress, no_progress
from marketdata.errors import ForecastError

BPS = 1e4
HAC_LAGS = 24
MIN_GAP_H = 60


@dataclass(frozen=True)
class WalkForward:
    """Out-of-sample forecasts, raw and calibrated online, with their truths; rows are anchors in order of time."""

    name: str
    raw: Forecast
    calibrated: Replay
    truth: Floats
    sigma: Floats
    raw_quantiles: Floats


def walk_forward(
    make: Callable[[], Model],
    samples: Samples,
    *,
    first: int,
    refit_every_h: int,
    gap_h: int = MIN_GAP_H,
    progress: Progress = no_progress,
) -> tuple[str, Forecast]:
    """Expanding refits: each block of hours is forecast by a model fitted to what ends a gap before the block.

    Args:
        make: gives a fresh model.
        samples: inputs and targets.
        first: position on the hour grid from which on anchors are scored.
        refit_every_h: length of a block in hours.
        gap_h: hours between the last target that is learnt and the first hour of the block.
        progress: told of each refit.

    Raises:
        ForecastError: the gap is shorter than MIN_GAP_H, or nothing can be scored.
    """
    if gap_h < MIN_GAP_H:
        raise ForecastError(f"gap_h: {gap_h}: expected at least {MIN_GAP_H}")
    known = samples.anchors[samples.learnable]
    scored = known[known >= first]
    if not scored.size:
        raise ForecastError(f"walk-forward: no hours to score from position {first} on")
    starts = range(int(scored[0]), int(scored[-1]) + 1, refit_every_h)
    parts: list[Forecast] = []
    name = ""
    for done, start in enumerate(starts, start=1):
        block = scored[(scored >= start) & (scored < start + refit_every_h)]
        if not block.size:
            continue
        model = make()
        name = model.name
        model.fit(samples, known[known + samples.horizon_h <= start - gap_h])
        parts.append(model.predict(samples, block))
        progress(f"walk-forward {name} refit", done, len(starts))
    return name, Forecast(
        anchors=np.concatenate([p.anchors for p in parts]),
        log_quantiles=np.concatenate([p.log_quantiles for p in parts]),
        point=np.concatenate([p.point for p in parts]),
        sigma=np.concatenate([p.sigma for p in parts]),
        last_price=np.concatenate([p.last_price for p in parts]),
    )


def calibrate(name: str, forecast: Forecast, samples: Samples, calibrator: Calibrator | None = None) -> WalkForward:
    """Put online calibration over forecasts, as serving does, and narrow them to how the truth is known."""
    widening = samples.widening[forecast.anchors]
    narrowed = forecast.narrowed(widening)
    truth = samples.target[forecast.anchors]
    used = Calibrator() if calibrator is None else calibrator  # an empty one is falsy, and must be filled all the same
    replay = used.replay(narrowed.log_quantiles, narrowed.sigma, truth, lag=samples.horizon_h)
    return WalkForward(name, forecast, replay, truth, narrowed.sigma, narrowed.log_quantiles)


def pinball(quantiles: Floats, truth: Floats) -> Floats:
    """Mean pinball loss over LEVELS of each row: quantiles (m, 7), truth (m,); shape (m,), unit of the truth."""
    error = truth[:, None] - quantiles
    levels = np.asarray(LEVELS)
    out: Floats = np.maximum(levels * error, (levels - 1) * error).mean(axis=1)
    return out


def winkler(lower: Floats, upper: Floats, truth: Floats, level: float) -> Floats:
    """Interval score (Winkler 1972; Gneiting and Raftery 2007): width plus 2 / alpha times what lies outside."""
    penalty = np.maximum(lower - truth, 0.0) + np.maximum(truth - upper, 0.0)
    out: Floats = (upper - lower) + 2.0 / (1.0 - level) * penalty
    return out


def hac_t(values: Floats, lags: int = HAC_LAGS) -> float:
    """T of the mean with Newey-West's standard error (1987, Bartlett weights); NaN where it has no variance."""
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
    """Clark and West 2007 against a forecast of 0 (the last price): t above 1.645 tells a gain at 5 %."""
    return hac_t(truth**2 - ((truth - centre) ** 2 - centre**2))


def directions(truth: Floats, centre: Floats) -> tuple[float, float, int]:
    """Share of right directions against the last price, Pesaran and Timmermann's (1992) one-sided p, and how many."""
    told = (centre != 0) & (truth != 0)
    n = int(told.sum())
    if n == 0:
        return float("nan"), float("nan"), 0
    up, said = truth[told] > 0, centre[told] > 0
    hit, p_up, p_said = float(np.mean(up == said)), float(up.mean()), float(said.mean())
    chance = p_up * p_said + (1 - p_up) * (1 - p_said)
    v_hit = chance * (1 - chance) / n
    v_chance = (
        (2 * p_up - 1) ** 2 * p_said * (1 - p_said) / n
        + (2 * p_said - 1) ** 2 * p_up * (1 - p_up) / n
        + 4 * p_up * p_said * (1 - p_up) * (1 - p_said) / n**2
    )
    if v_hit <= v_chance:
        return hit, float("nan"), n
    return hit, upper_tail((hit - chance) / sqrt(v_hit - v_chance)), n


def worst_week(covered: Floats, anchors: Ints) -> float:
    """The lowest coverage of a calendar-like week (168 h blocks of the grid) that holds at least half its hours."""
    weeks = anchors // WEEK_H
    shares = [covered[weeks == week].mean() for week in np.unique(weeks) if (weeks == week).sum() >= WEEK_H // 2]
    return float(min(shares)) if shares else float("nan")


def qlike(sigma: Floats, proxy: Floats) -> float:
    """Mean of v / s² - ln(v / s²) - 1 (Patton 2011); the proxy is scaled so that its mean is that of the target²."""
    ratio = np.maximum(proxy, 1e-12) / sigma**2
    return float(np.mean(ratio - np.log(ratio) - 1.0))


def metrics(run: WalkForward, samples: Samples, references: dict[str, Floats] | None = None) -> dict[str, Any]:
    """The report's line of one model.

    Args:
        run: its forecasts.
        samples: for the variance of the target hours.
        references: name to the pinball loss (m,) of another model at the same anchors, for the skill and its t.
    """
    truth, quantiles = run.truth, run.calibrated.quantiles
    centre = run.raw.point / samples.widening[run.raw.anchors]
    loss = pinball(quantiles, truth)
    raw_loss = pinball(run.raw_quantiles, truth)
    proxy = np.exp(samples.log_variance[run.raw.anchors + samples.horizon_h])
    proxy = proxy * float(np.mean(truth**2) / np.mean(proxy))
    share, p_value, n_told = directions(truth, centre)
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
        "direction_n": n_told,
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
