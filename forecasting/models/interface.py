"""The interface of all models, and the form of their forecasts. Pure numpy.

Models are fitted to `samples.target * samples.widening`: their forecasts are for hours known by minutes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from forecasting.data.hourly_grid import Floats, Ints
from forecasting.data.samples import Samples

LEVELS: tuple[float, ...] = (0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95)
MEDIAN = 3

Progress = Callable[[str, int, int], None]


def no_progress(what: str, done: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Forecast:
    """Forecasts made at the ends of the hours `anchors` (m,).

    log_quantiles: of log(average price of the target hour / last price), shape (m, 7), ascending, levels LEVELS.
    point: point forecast of the same, shape (m,); not necessarily the median.
    sigma: standard deviation of the same, shape (m,).
    last_price: shape (m,).
    """

    anchors: Ints
    log_quantiles: Floats
    point: Floats
    sigma: Floats
    last_price: Floats

    @property
    def prices(self) -> Floats:
        """The quantiles in price space, shape (m, 7)."""
        out: Floats = self.last_price[:, None] * np.exp(self.log_quantiles)
        return out

    def narrowed(self, widening: Floats) -> "Forecast":
        """Divide everything by `widening` (m,), for targets of a coarser basis."""
        return Forecast(
            self.anchors,
            self.log_quantiles / widening[:, None],
            self.point / widening,
            self.sigma / widening,
            self.last_price,
        )


@dataclass(frozen=True)
class Saved:
    """A fitted model as plain data: JSON values, and named binary files (`model.keras`)."""

    config: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


class Model(Protocol):
    """A model. `name` identifies its kind."""

    name: str

    def fit(self, samples: Samples, anchors: Ints, progress: Progress = no_progress) -> None:
        """Fit to the anchors (ascending positions on the hour grid with known targets), without using later rows."""
        ...

    def predict(self, samples: Samples, anchors: Ints) -> Forecast:
        """Forecast at anchors, each from the rows at or before it."""
        ...

    def save(self) -> Saved:
        """Return the fitted model for `load`."""
        ...

    def load(self, saved: Saved) -> None:
        """Restore a saved model.

        Raises:
            ForecastError: a part is missing or invalid.
        """
        ...
