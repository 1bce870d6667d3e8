"""Quantiles for models with a centre and a scale, from their own trailing residuals. Pure numpy."""

from typing import Any

import numpy as np

from forecasting.data.hourly_grid import Floats, Ints
from forecasting.data.samples import Samples
from forecasting.models.interface import LEVELS, MEDIAN, Forecast, Progress, Saved, no_progress
from marketdata.errors import ForecastError

WINDOW_H = 1_440
MIN_RESIDUALS = 100
_CHUNK = 2_000


def trailing_quantiles(z: Floats, at: Ints, horizon_h: int) -> tuple[Floats, Floats]:
    """Quantiles and root mean square of z over the last WINDOW_H entries known at each position.

    Args:
        z: residual of the forecast made at each hour, NaN if unknown, shape (n,).
        at: positions t; entry j is known at t if j + horizon_h <= t.
        horizon_h: hours until a residual is known.

    Returns:
        Quantiles (m, 7) and root mean squares (m,); NaN if fewer than MIN_RESIDUALS entries are known.
    """
    padded = np.concatenate([np.full(WINDOW_H, np.nan), z])
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_H)
    quantiles = np.full((len(at), len(LEVELS)), np.nan)
    rms = np.full(len(at), np.nan)
    for start in range(0, len(at), _CHUNK):
        block = slice(start, start + _CHUNK)
        # Window k of `padded` is z[k - WINDOW_H : k], so k = t - horizon + 1 ends at t - horizon.
        view = np.sort(windows[at[block] - horizon_h + 1], axis=1)  # NaN sorts to the end
        count = np.isfinite(view).sum(axis=1)
        place = np.maximum(count - 1, 0)[:, None] * np.asarray(LEVELS)[None, :]
        low = np.floor(place).astype(int)
        high = np.ceil(place).astype(int)
        rows = np.arange(len(view))[:, None]
        value = view[rows, low] + (view[rows, high] - view[rows, low]) * (place - low)
        enough = count >= MIN_RESIDUALS
        quantiles[block] = np.where(enough[:, None], value, np.nan)
        squares = np.where(np.isfinite(view), view, 0.0) ** 2
        rms[block] = np.where(enough, np.sqrt(squares.sum(axis=1) / np.maximum(count, 1)), np.nan)
    return quantiles, rms


class TrailingModel:
    """Quantiles = centre + scale × trailing quantiles of (target - centre) / scale.

    The trailing median is subtracted, so that the median is the centre itself (for `last-price`, the last price).
    Subclasses define `_centre` and `_scale` on the whole hour grid, each entry from rows at or before it.
    """

    name = "trailing"

    def fit(self, samples: Samples, anchors: Ints, progress: Progress = no_progress) -> None:  # noqa: ARG002
        """No parameters by default."""
        return

    def _centre(self, samples: Samples) -> Floats:
        return np.zeros(len(samples.hours))

    def _scale(self, samples: Samples) -> Floats:
        return np.ones(len(samples.hours))

    def predict(self, samples: Samples, anchors: Ints) -> Forecast:
        """See `Model`.

        Raises:
            ForecastError: fewer than MIN_RESIDUALS residuals are known at an anchor.
        """
        centre = self._centre(samples)
        scale = self._scale(samples)
        z = (samples.target * samples.widening - centre) / scale
        quantiles, rms = trailing_quantiles(z, anchors, samples.horizon_h)
        if not np.isfinite(quantiles).all():
            raise ForecastError(
                f"{self.name}: fewer than {MIN_RESIDUALS} residuals known: expected more hours of history"
            )
        return Forecast(
            anchors=anchors,
            log_quantiles=centre[anchors, None] + scale[anchors, None] * (quantiles - quantiles[:, [MEDIAN]]),
            point=centre[anchors],
            sigma=scale[anchors] * rms,
            last_price=samples.hours.last_price[anchors],
        )

    def save(self) -> Saved:
        return Saved(config={"name": self.name, "state": self._state()})

    def load(self, saved: Saved) -> None:
        self._restore(saved.config["state"])

    def _state(self) -> dict[str, Any]:
        return {}

    def _restore(self, state: dict[str, Any]) -> None:
        pass
