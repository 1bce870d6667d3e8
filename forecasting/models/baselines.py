"""The baselines that every model is compared with."""

from typing import Any

import numpy as np

from forecasting.data.hourly_grid import Floats, Ints
from forecasting.data.samples import Samples
from forecasting.models.har import ridge
from forecasting.models.interface import LEVELS, MEDIAN, Forecast, Progress, Saved, no_progress
from forecasting.models.trailing import TrailingModel
from marketdata.errors import ForecastError


class LastPrice(TrailingModel):
    """The main baseline: the last price, with the residual quantiles of the trailing 1,440 h (constant width)."""

    name = "last-price"


class Persistence(TrailingModel):
    """Naive: the next average equals the last one. Averages of a random walk are autocorrelated (Working 1960)."""

    name = "persistence-of-average (naive)"

    def _centre(self, samples: Samples) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(samples.hours.avg_price / samples.hours.last_price)


class Ewma(TrailingModel):
    """The last price, scaled by an EWMA of hourly returns (24 h half-life)."""

    name = "ewma"

    def _scale(self, samples: Samples) -> Floats:
        return samples.sigma


class Drift(Ewma):
    """The last price plus the mean target of the training span."""

    name = "drift"

    def __init__(self) -> None:
        self._mean = 0.0

    def fit(self, samples: Samples, anchors: Ints, progress: Progress = no_progress) -> None:  # noqa: ARG002
        self._mean = float(np.mean((samples.target * samples.widening)[anchors]))

    def _centre(self, samples: Samples) -> Floats:
        return np.full(len(samples.hours), self._mean)

    def _state(self) -> dict[str, Any]:
        return {"mean": self._mean}

    def _restore(self, state: dict[str, Any]) -> None:
        self._mean = float(state["mean"])


def _table(samples: Samples) -> Floats:
    """The nets' inputs of the last four hours and HAR's inputs, as one row per hour."""
    net = np.nan_to_num(samples.net[:, :6])
    lags = [net[:, :2]]
    for lag in (1, 2, 3):
        shifted = np.zeros_like(net[:, :2])
        shifted[lag:] = net[:-lag, :2]
        lags.append(shifted)
    return np.column_stack([net[:, 2:], *lags, np.nan_to_num(samples.har_rich)])


class Ridge(Ewma):
    """Ridge regression of target / sigma."""

    name = "ridge"

    def __init__(self) -> None:
        self._coefficients: Floats | None = None

    def fit(self, samples: Samples, anchors: Ints, progress: Progress = no_progress) -> None:  # noqa: ARG002
        z = (samples.target * samples.widening / samples.sigma)[anchors]
        self._coefficients = ridge(_table(samples)[anchors], z, 100.0)

    def _centre(self, samples: Samples) -> Floats:
        if self._coefficients is None:
            raise ForecastError("ridge: used before it was fitted")
        out: Floats = samples.sigma * (self._coefficients[0] + _table(samples) @ self._coefficients[1:])
        return out

    def _state(self) -> dict[str, Any]:
        return {"coefficients": [] if self._coefficients is None else self._coefficients.tolist()}

    def _restore(self, state: dict[str, Any]) -> None:
        self._coefficients = np.asarray(state["coefficients"], dtype=float)


class Boosting:
    """Histogram gradient boosting (scikit-learn) with one booster per quantile of target / sigma. For reports only."""

    name = "gradient-boosting"

    def __init__(self, iterations: int = 100) -> None:
        self._iterations = iterations
        self._boosters: list[Any] = []
        self._spread_to_sd = 1.0

    def fit(self, samples: Samples, anchors: Ints, progress: Progress = no_progress) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        x = _table(samples)[anchors]
        z = (samples.target * samples.widening / samples.sigma)[anchors]
        self._boosters = []
        for done, level in enumerate(LEVELS, start=1):
            booster = HistGradientBoostingRegressor(
                loss="quantile",
                quantile=level,
                max_iter=self._iterations,
                learning_rate=0.06,
                max_leaf_nodes=15,
                min_samples_leaf=60,
                l2_regularization=1.0,
                random_state=0,
            )
            self._boosters.append(booster.fit(x, z))
            progress("boosting quantile", done, len(LEVELS))
        raw = self._raw(samples, anchors)
        self._spread_to_sd = spread_to_sd(raw, z)

    def _raw(self, samples: Samples, anchors: Ints) -> Floats:
        x = _table(samples)[anchors]
        return np.sort(np.column_stack([booster.predict(x) for booster in self._boosters]), axis=1)

    def predict(self, samples: Samples, anchors: Ints) -> Forecast:
        raw = self._raw(samples, anchors)
        scale = samples.sigma[anchors]
        return Forecast(
            anchors=anchors,
            log_quantiles=raw * scale[:, None],
            point=raw[:, MEDIAN] * scale,
            sigma=(raw[:, -1] - raw[:, 0]) * self._spread_to_sd * scale,
            last_price=samples.hours.last_price[anchors],
        )

    def save(self) -> Saved:
        """Not supported: the registry stores no pickles."""
        raise ForecastError(f"{self.name}: cannot be published: it is for reports only")

    def load(self, saved: Saved) -> None:  # noqa: ARG002
        raise ForecastError(f"{self.name}: cannot be published: it is for reports only")


def spread_to_sd(quantiles: Floats, truth: Floats) -> float:
    """Fit the factor from (0.95 quantile - 0.05 quantile) to the standard deviation, in mean square."""
    width = np.maximum(quantiles[:, -1] - quantiles[:, 0], 1e-9)
    return float(np.sqrt(np.mean((truth / width) ** 2)))
