"""Probes: stored inputs of a model with their forecasts, which the reloaded model must reproduce."""

import io
from typing import Any

import numpy as np

from forecasting.data.hourly_grid import NUMBERS, Floats, Hours, Ints
from forecasting.data.samples import WEEK_H, Samples, build_samples
from forecasting.models.interface import Model
from marketdata.errors import ForecastError

PROBES = 8
TRAILING_H = 1_600
"""Hours before the probe's windows, enough for the trailing residuals of every model."""
TOLERANCE = 1e-4
"""In sigmas of the probe. Floating point of another machine differs by far less, another net by far more."""


def _npz(arrays: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)
    return sink.getvalue()


def _arrays(data: bytes, names: tuple[str, ...], file: str) -> dict[str, Floats]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except Exception as error:  # also of zipfile and zlib
        raise ForecastError(f"{file}: not a probe: {error!r}") from error


def make_probe(model: Model, samples: Samples, anchors: Ints) -> tuple[bytes, bytes]:
    """Return the hours that PROBES forecasts up to the last anchor need, and those forecasts, as `.npz` files."""
    need = samples.sequence_h + 2 * WEEK_H + TRAILING_H
    stop = int(anchors[-1]) + 1
    hours = samples.hours.slice(max(0, stop - need), stop)
    inputs = {name: getattr(hours, name) for name in NUMBERS}
    inputs |= {"start_ms": hours.start_ms, "present": hours.present, "live": hours.live, "basis": hours.basis}
    own = build_samples(hours, sequence_h=samples.sequence_h, horizon_h=samples.horizon_h)
    forecast = model.predict(own, own.anchors[-PROBES:])
    return _npz(inputs), _npz({"log_quantiles": forecast.log_quantiles, "sigma": forecast.sigma})


def check_probe(model: Model, inputs: bytes, output: bytes, *, symbol: str, sequence_h: int, horizon_h: int) -> None:
    """Check that the model reproduces the stored output for the stored input.

    Raises:
        ForecastError: it does not, or a file is not a probe.
    """
    arrays = _arrays(inputs, ("start_ms", "present", "live", "basis", *NUMBERS), "probe_input.npz")
    expected = _arrays(output, ("log_quantiles", "sigma"), "probe_output.npz")
    samples = build_samples(Hours(symbol=symbol, **arrays), sequence_h=sequence_h, horizon_h=horizon_h)  # type: ignore[arg-type]
    got = model.predict(samples, samples.anchors[-PROBES:])
    if got.log_quantiles.shape != expected["log_quantiles"].shape:
        raise ForecastError(
            f"probe: {len(got.log_quantiles)} forecasts: expected {len(expected['log_quantiles'])} as stored"
        )
    worst = float(np.max(np.abs(got.log_quantiles - expected["log_quantiles"]) / expected["sigma"][:, None]))
    if not worst <= TOLERANCE:
        raise ForecastError(f"probe: forecasts differ by {worst:.3g} sigma: expected at most {TOLERANCE:g}")
