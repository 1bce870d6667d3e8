"""HAR regression of log variance (Corsi 2009; 1, 24 and 168 h, hour of day), used as a scale of the target."""

from typing import Any

import numpy as np

from forecasting.data.hourly_grid import Floats, Ints
from forecasting.data.samples import Samples
from forecasting.models.interface import Progress, no_progress
from forecasting.models.trailing import TrailingModel
from marketdata.errors import ForecastError

RIDGE = 1.0
MIN_ROWS = 200


def ridge(x: Floats, y: Floats, strength: float = RIDGE) -> Floats:
    """Ridge regression; return the coefficients, intercept first.

    The penalty applies to standardised columns; the intercept has no penalty.
    """
    mean, sd = x.mean(axis=0), x.std(axis=0)
    sd = np.where(sd > 0, sd, 1.0)
    z = (x - mean) / sd
    slopes = np.linalg.solve(z.T @ z + strength * np.eye(z.shape[1]), z.T @ (y - y.mean())) / sd
    return np.concatenate([[y.mean() - mean @ slopes], slopes])


class HarScale:
    """sqrt(exp(fitted log variance of the target hour)), normalised to E[(target / scale)²] = 1 on the training span.

    Args:
        rich: add 3 and 6 h, EWMA, volume, the same hour of past days, and weekday.
    """

    def __init__(self, *, rich: bool) -> None:
        self.rich = rich
        self._coefficients: Floats | None = None
        self._factor = 1.0

    def _design(self, samples: Samples) -> Floats:
        return samples.har_rich if self.rich else samples.har

    def fit(self, samples: Samples, anchors: Ints) -> None:
        """Fit to anchors.

        Raises:
            ForecastError: fewer than MIN_ROWS hours have known inputs and targets.
        """
        h = samples.horizon_h
        x = self._design(samples)[anchors]
        v = samples.log_variance[anchors + h]
        y = (samples.target * samples.widening)[anchors]
        known = np.isfinite(x).all(axis=1) & np.isfinite(v) & np.isfinite(y)
        if known.sum() < MIN_ROWS:
            raise ForecastError(f"har: {int(known.sum())} training hours: expected at least {MIN_ROWS}")
        self._coefficients = ridge(x[known], v[known])
        variance = np.exp(self._linear(x[known]))
        self._factor = float(np.mean(y[known] ** 2 / variance))

    def _linear(self, x: Floats) -> Floats:
        if self._coefficients is None:
            raise ForecastError("har: used before it was fitted")
        out: Floats = self._coefficients[0] + x @ self._coefficients[1:]
        return out

    def at(self, samples: Samples) -> Floats:
        """Return the scale at every hour of the grid: shape (n,), log price, NaN if inputs are unknown."""
        # Limit the scale to 1 bp – 30 % per hour, for inputs far outside the training range.
        return np.clip(np.sqrt(self._factor * np.exp(self._linear(self._design(samples)))), 1e-4, 0.3)

    def state(self) -> dict[str, Any]:
        if self._coefficients is None:
            raise ForecastError("har: saved before it was fitted")
        return {"rich": self.rich, "coefficients": self._coefficients.tolist(), "factor": self._factor}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "HarScale":
        made = cls(rich=bool(state["rich"]))
        made._coefficients = np.asarray(state["coefficients"], dtype=float)
        made._factor = float(state["factor"])
        return made


class Har(TrailingModel):
    """Centre: the last price. Scale: the HAR scale."""

    def __init__(self, *, rich: bool = False) -> None:
        self.name = "har-rich" if rich else "har"
        self._har = HarScale(rich=rich)

    def fit(self, samples: Samples, anchors: Ints, progress: Progress = no_progress) -> None:  # noqa: ARG002
        self._har.fit(samples, anchors)

    def _scale(self, samples: Samples) -> Floats:
        return self._har.at(samples)

    def _state(self) -> dict[str, Any]:
        return self._har.state()

    def _restore(self, state: dict[str, Any]) -> None:
        self._har = HarScale.from_state(state)
