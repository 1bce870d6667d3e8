"""Walk-forward forecasts with expanding refits, and their online calibration. Pure numpy except for the models."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from forecasting.data.hourly_grid import Floats
from forecasting.data.samples import Samples
from forecasting.evaluation.conformal import Calibrator, Replay
from forecasting.models.interface import Forecast, Model, Progress, no_progress
from marketdata.errors import ForecastError

MIN_GAP_H = 60


@dataclass(frozen=True)
class WalkForward:
    """Out-of-sample forecasts with their truths; one row per anchor, in order of time.

    name: the model. raw: the model's forecasts, for widened targets (see `samples.BASIS_WIDENING`). calibrated: after
    narrowing and calibration. truth: log target (m,), NaN if unknown. sigma (m,) and raw_quantiles (m, 7): narrowed,
    not calibrated, log price.
    """

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
    """Forecast each block of hours with a model fitted to all hours up to a gap before the block.

    Args:
        make: returns a new, unfitted model.
        samples: inputs and targets.
        first: position on the hour grid of the first scored anchor.
        refit_every_h: length of a block in hours.
        gap_h: hours between the last training target and the first hour of the block.
        progress: called after each refit.

    Returns:
        The model's name, and its forecasts of all blocks.

    Raises:
        ForecastError: the gap is shorter than MIN_GAP_H, or there are no hours to score.
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
    """Narrow forecasts to the basis of their truth and calibrate them online, as serving does.

    Args:
        name: the model.
        forecast: its raw forecasts.
        samples: targets and widening.
        calibrator: continued and updated in place; default: a new one.
    """
    widening = samples.widening[forecast.anchors]
    narrowed = forecast.narrowed(widening)
    truth = samples.target[forecast.anchors]
    used = Calibrator() if calibrator is None else calibrator  # not `or`: an empty calibrator is falsy
    replay = used.replay(narrowed.log_quantiles, narrowed.sigma, truth, lag=samples.horizon_h)
    return WalkForward(name, forecast, replay, truth, narrowed.sigma, narrowed.log_quantiles)
