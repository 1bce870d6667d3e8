"""The one interface of all models, and what their forecasts hold. Pure numpy.

Models learn `samples.target * samples.widening`; their forecasts are of hours known by minutes.
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
    """For callers who do not show any."""


@dataclass(frozen=True)
class Forecast:
    """Forecasts made at the ends of the hours `anchors` (m,).

    log_quantiles: of log(average price of the target hour / last price), shape (m, 7), ascending, levels LEVELS.
    point: the one value that is told of the same, shape (m,); it need not be the median.
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
        """For targets whose truth is known less finely: everything over `widening`, shape (m,)."""
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
    """Fit on anchors, forecast at anchors. `name` identifies the recipe."""

    name: str

    def fit(self, samples: Samples, anchors: Ints, progress: Progress = no_progress) -> None:
        """Learn from the anchors (positions on the hour grid, ascending, targets known), from nothing later."""
        ...

    def predict(self, samples: Samples, anchors: Ints) -> Forecast:
        """Forecast at anchors, each from rows at or before it."""
        ...

    def save(self) -> Saved:
        """Everything `load` needs."""
        ...

    def load(self, saved: Saved) -> None:
        """Become the saved model.

        Raises:
            ForecastError: the parts do not fit.
        """
        ...
