"""What is said of the next hour: the champion where it may be trusted, and the baselines always. No I/O, no clock.

The calibrator is not kept between hours but replayed from the version's own state over the hours since: the same rows
give the same band before and after a restart.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from config.sections import ForecastingSettings
from forecasting.data.hourly_grid import Ints
from forecasting.data.samples import Samples
from forecasting.evaluation.conformal import TRACKS, WINDOW_H, Calibrator
from forecasting.evaluation.scoring import level_name
from forecasting.evaluation.walk_forward import WalkForward, calibrate
from forecasting.models.baselines import LastPrice
from forecasting.models.har import Har
from forecasting.models.interface import LEVELS, Model
from forecasting.models.trailing import MIN_RESIDUALS
from forecasting.registry.versions import Loaded
from marketdata.errors import ForecastError
from marketdata.records import Prediction, Role
from marketdata.times import HOUR_MS, to_rfc3339

log = logging.getLogger(__name__)

HEADLINE_LEVEL = TRACKS[0][1]


@dataclass(frozen=True)
class Outlook:
    """Forecasts for one target hour, and the champion's way up to it for a plot (None where it does not serve)."""

    predictions: tuple[Prediction, ...]
    champion_run: WalkForward | None


def newest_hour(samples: Samples) -> int | None:
    """Position of the newest hour that has a price; None where there is none."""
    present = np.flatnonzero(samples.hours.present)
    return int(present[-1]) if present.size else None


def stale_reason(samples: Samples, at: int, loaded: Loaded | None, settings: ForecastingSettings) -> str | None:
    """Why the champion may not serve at the end of hour `at`; None where it may."""
    if loaded is None:
        return "no_model"
    end_ms = int(samples.hours.start_ms[at]) + HOUR_MS
    age_h = (end_ms - loaded.version.trained_through_ms) / HOUR_MS
    if age_h < 0:
        return "model_trained_past_this_hour"
    if age_h > settings.max_model_age_h:
        return f"model_too_old: {age_h:.0f} h, at most {settings.max_model_age_h} h"
    if at not in samples.anchors:
        return "gap_in_hours"
    config = loaded.version.config
    if config["sequence_h"] != samples.sequence_h or config["horizon_h"] != samples.horizon_h:
        return "model_of_another_shape"
    return None


def look_ahead(
    samples: Samples,
    at: int,
    loaded: Loaded | None,
    settings: ForecastingSettings,
    *,
    issued_at_ms: int,
    demoted: str | None = None,
    challengers: Sequence[Loaded] = (),
) -> Outlook:
    """All predictions of hour `at` + horizon.

    Args:
        samples: built from rows up to now.
        at: position of the newest closed hour.
        loaded: the champion, if any.
        settings: ages and lengths.
        issued_at_ms: event time now; where the target is over by then, the predictions are of origin `backfill`.
        demoted: why the champion, though usable, does not serve (it then speaks as challenger).
        challengers: versions of other models that speak beside it, as far as they may.
    """
    reason = stale_reason(samples, at, loaded, settings)
    out: list[Prediction] = []
    run: WalkForward | None = None
    identity: _Identity
    serving = reason or demoted
    if loaded is not None and reason is None:
        run, n_calib = _replayed(samples, at, loaded)
        role: Role = "challenger" if demoted else "champion"
        out.append(_prediction(samples, run, _identity(loaded, role), issued_at_ms, n_calib=n_calib))
    for challenger in challengers:
        if stale_reason(samples, at, challenger, settings) is None:
            beside, n_calib = _replayed(samples, at, challenger)
            identity = _identity(challenger, "challenger")
            out.append(_prediction(samples, beside, identity, issued_at_ms, n_calib=n_calib))
    for model in _baselines(samples, at):
        known = samples.anchors[samples.anchors <= at] if at in samples.anchors else _present(samples, at)
        anchors = known[-(WINDOW_H + 1) :]
        try:
            model.fit(samples, _learnable(samples, at, settings.train_hours))
            # Its own first hours may lack trailing residuals: only hours that have them are replayed.
            forecast = model.predict(samples, _with_residuals(model, samples, anchors))
            calibrator = Calibrator()
            baseline = calibrate(model.name, forecast, samples, calibrator)
        except ForecastError as error:
            log.warning("baseline=%s symbol=%s not issued: %s", model.name, samples.hours.symbol, error)
            continue
        identity = (model.name, None, "baseline", serving)
        out.append(_prediction(samples, baseline, identity, issued_at_ms, n_calib=len(calibrator)))
        serving = None  # only the first baseline stands in for the champion
    return Outlook(tuple(out), run)


_Identity = tuple[str, str | None, Role, str | None]


def _identity(loaded: Loaded, role: Role) -> _Identity:
    return (loaded.version.name, loaded.version.trained_through, role, None)


def _replayed(samples: Samples, at: int, loaded: Loaded) -> tuple[WalkForward, int]:
    """A version's forecasts since it was made, up to hour `at`, and how many scores calibrate the last.

    Its calibration knows the truths up to trained_through; the hours since are replayed.
    """
    seen = samples.hours.start_ms[samples.anchors] + (samples.horizon_h + 1) * HOUR_MS <= loaded.calibrated_from_ms
    since = samples.anchors[~seen & (samples.anchors <= at)]
    calibrator = Calibrator.from_state(loaded.calibrator.state())
    run = calibrate(loaded.version.config["model"]["name"], loaded.model.predict(samples, since), samples, calibrator)
    return run, len(calibrator)


def _baselines(samples: Samples, at: int) -> list[Model]:
    """HAR where its inputs are known, and the last price, in the order in which they stand in for the champion."""
    return [Har(), LastPrice()] if at in samples.anchors else [LastPrice()]


def _present(samples: Samples, at: int) -> Ints:
    out: Ints = np.flatnonzero(samples.hours.present[: at + 1]).astype(np.int64)
    return out


def _learnable(samples: Samples, at: int, train_hours: int) -> Ints:
    anchors = samples.anchors[samples.anchors + samples.horizon_h <= at]
    return anchors[np.isfinite(samples.target[anchors])][-train_hours:]


def _with_residuals(model: Model, samples: Samples, anchors: Ints) -> Ints:
    residual = np.isfinite(samples.target)
    if not isinstance(model, LastPrice):
        residual = residual & np.isfinite(samples.har).all(axis=1)
    known = np.cumsum(residual)
    before = np.maximum(anchors - samples.horizon_h, 0)
    enough = anchors[known[before] >= MIN_RESIDUALS]
    return enough if enough.size else anchors[-1:]


def _prediction(
    samples: Samples, run: WalkForward, identity: _Identity, issued_at_ms: int, *, n_calib: int
) -> Prediction:
    """The last forecast of a run as a record."""
    version, trained_through, role, stale = identity
    at = int(run.raw.anchors[-1])
    last = float(samples.hours.last_price[at])
    prices = last * np.exp(run.calibrated.quantiles[-1])
    point = last * np.exp(run.raw.point[-1] / samples.widening[at])
    data_through_ms = int(samples.hours.start_ms[at]) + HOUR_MS
    target_start_ms = data_through_ms + (samples.horizon_h - 1) * HOUR_MS
    target_start = to_rfc3339(target_start_ms)
    symbol = samples.hours.symbol
    return Prediction(
        symbol=symbol,
        prediction_id=f"{symbol}|{target_start}|{samples.horizon_h}|{version}",
        issued_at=to_rfc3339(issued_at_ms),
        data_through=to_rfc3339(data_through_ms),
        target_start=target_start,
        target_end=to_rfc3339(target_start_ms + HOUR_MS),
        horizon_h=samples.horizon_h,
        last_price=last,
        pred_avg_price=float(np.clip(point, prices[0], prices[-1])),
        quantiles={level_name(level): float(price) for level, price in zip(LEVELS, prices, strict=True)},
        lower=float(prices[0]),
        upper=float(prices[-1]),
        interval_level=HEADLINE_LEVEL,
        sigma=float(run.sigma[-1]),
        n_calib=n_calib,
        model_version=version,
        trained_through=trained_through,
        role=role,
        origin="live" if issued_at_ms < target_start_ms + HOUR_MS else "backfill",
        stale_reason=stale,
    )
