"""Forecasts of the next hour by the champion, challengers and baselines. No I/O, no clock.

No calibrator is kept between hours. The version's stored calibration is replayed over the hours since, so that the same
rows give the same band before and after a restart.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
from marketdata.records import Prediction
from marketdata.times import HOUR_MS, to_rfc3339
from marketdata.vocabulary import Origin, Role, StaleReason

log = logging.getLogger(__name__)

HEADLINE_LEVEL = TRACKS[0][1]


@dataclass(frozen=True)
class ForecastSet:
    """Predictions of one target hour. champion_run: the replayed forecasts of a usable champion, for a plot."""

    predictions: tuple[Prediction, ...]
    champion_run: WalkForward | None


def newest_hour(samples: Samples) -> int | None:
    """Position of the newest hour with a price; None if there is none."""
    present = np.flatnonzero(samples.hours.present)
    return int(present[-1]) if present.size else None


def stale_reason(samples: Samples, at: int, loaded: Loaded | None, settings: ForecastingSettings) -> str | None:
    """Return why a version may not serve at the end of hour `at`; None if it may."""
    if loaded is None:
        return StaleReason.NO_MODEL
    end_ms = int(samples.hours.start_ms[at]) + HOUR_MS
    age_h = (end_ms - loaded.version.trained_through_ms) / HOUR_MS
    if age_h < 0:
        return StaleReason.MODEL_TRAINED_PAST_THIS_HOUR
    if age_h > settings.max_model_age_h:
        return f"{StaleReason.MODEL_TOO_OLD}: {age_h:.0f} h, at most {settings.max_model_age_h} h"
    if at not in samples.anchors:
        return StaleReason.GAP_IN_HOURS
    config = loaded.version.config
    if config["sequence_h"] != samples.sequence_h or config["horizon_h"] != samples.horizon_h:
        return StaleReason.MODEL_OF_ANOTHER_SHAPE
    return None


def forecast_set(
    samples: Samples,
    at: int,
    loaded: Loaded | None,
    settings: ForecastingSettings,
    *,
    issued_at_ms: int,
    demoted: str | None = None,
    challengers: Sequence[Loaded] = (),
) -> ForecastSet:
    """Return all predictions of hour `at` + horizon: champion, challengers, then baselines.

    If the champion does not serve, the first baseline has the reason as `stale_reason`.

    Args:
        samples: samples of all rows up to now.
        at: position of the newest closed hour.
        loaded: the champion, if any.
        settings: ages and lengths.
        issued_at_ms: event time now, in ms; if the target hour is over, the predictions have the origin `backfill`.
        demoted: why a usable champion does not serve; its prediction then has the role `challenger`.
        challengers: versions of other models; those that may not serve are left out.
    """
    reason = stale_reason(samples, at, loaded, settings)
    predictions: list[Prediction] = []
    champion_run: WalkForward | None = None
    if loaded is not None and reason is None:
        champion_run, n_calib = _replayed(samples, at, loaded)
        source = _source(loaded, Role.CHALLENGER if demoted else Role.CHAMPION)
        predictions.append(_prediction(samples, champion_run, source, issued_at_ms, n_calib=n_calib))
    for challenger in challengers:
        if stale_reason(samples, at, challenger, settings) is None:
            run, n_calib = _replayed(samples, at, challenger)
            source = _source(challenger, Role.CHALLENGER)
            predictions.append(_prediction(samples, run, source, issued_at_ms, n_calib=n_calib))
    predictions += _baseline_predictions(samples, at, settings.train_hours, issued_at_ms, reason or demoted)
    return ForecastSet(tuple(predictions), champion_run)


class _Source(NamedTuple):
    """The model of a prediction, as its record names it."""

    version: str
    trained_through: str | None
    role: Role
    stale_reason: str | None = None


def _source(loaded: Loaded, role: Role) -> _Source:
    return _Source(loaded.version.name, loaded.version.trained_through, role)


def _baseline_predictions(
    samples: Samples, at: int, train_hours: int, issued_at_ms: int, not_serving: str | None
) -> list[Prediction]:
    """Predictions of the baselines; the first one has `not_serving`, the reason against the champion, if any."""
    predictions: list[Prediction] = []
    for model in _baselines(samples, at):
        known = samples.anchors[samples.anchors <= at] if at in samples.anchors else _present(samples, at)
        anchors = known[-(WINDOW_H + 1) :]
        try:
            model.fit(samples, _learnable(samples, at, train_hours))
            # Replay only hours with enough trailing residuals.
            forecast = model.predict(samples, _with_residuals(model, samples, anchors))
            calibrator = Calibrator()
            run = calibrate(model.name, forecast, samples, calibrator)
        except ForecastError as error:
            log.warning("baseline=%s symbol=%s skipped: %s", model.name, samples.hours.symbol, error)
            continue
        source = _Source(model.name, None, Role.BASELINE, None if predictions else not_serving)
        predictions.append(_prediction(samples, run, source, issued_at_ms, n_calib=len(calibrator)))
    return predictions


def _replayed(samples: Samples, at: int, loaded: Loaded) -> tuple[WalkForward, int]:
    """Return a version's calibrated forecasts since its training, up to hour `at`, and the number of scores in use.

    The stored calibration contains the truths up to `trained_through`; the hours since then are replayed.
    """
    calibrated = (
        samples.hours.start_ms[samples.anchors] + (samples.horizon_h + 1) * HOUR_MS <= loaded.calibrated_from_ms
    )
    since = samples.anchors[~calibrated & (samples.anchors <= at)]
    calibrator = Calibrator.from_state(loaded.calibrator.state())
    run = calibrate(loaded.version.config["model"]["name"], loaded.model.predict(samples, since), samples, calibrator)
    return run, len(calibrator)


def _baselines(samples: Samples, at: int) -> list[Model]:
    """HAR, if its inputs are known, and the last price; the first one serves if the champion does not."""
    return [Har(), LastPrice()] if at in samples.anchors else [LastPrice()]


def _present(samples: Samples, at: int) -> Ints:
    """Positions of all hours with a price up to `at`."""
    out: Ints = np.flatnonzero(samples.hours.present[: at + 1]).astype(np.int64)
    return out


def _learnable(samples: Samples, at: int, train_hours: int) -> Ints:
    """The newest anchors whose targets are known at the end of hour `at`."""
    anchors = samples.anchors[samples.anchors + samples.horizon_h <= at]
    return anchors[np.isfinite(samples.target[anchors])][-train_hours:]


def _with_residuals(model: Model, samples: Samples, anchors: Ints) -> Ints:
    """Anchors at which at least MIN_RESIDUALS residuals of the model are known; if none, the last anchor."""
    residual = np.isfinite(samples.target)
    if not isinstance(model, LastPrice):
        residual = residual & np.isfinite(samples.har).all(axis=1)
    known = np.cumsum(residual)
    before = np.maximum(anchors - samples.horizon_h, 0)
    enough = anchors[known[before] >= MIN_RESIDUALS]
    return enough if enough.size else anchors[-1:]


def _prediction(samples: Samples, run: WalkForward, source: _Source, issued_at_ms: int, *, n_calib: int) -> Prediction:
    """Return the last forecast of a run as a record."""
    version, trained_through, role, stale = source
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
        origin=Origin.LIVE if issued_at_ms < target_start_ms + HOUR_MS else Origin.BACKFILL,
        stale_reason=stale,
    )
