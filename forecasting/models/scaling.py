"""Scalers of the nets' inputs, fitted to the training span only. Pure numpy.

A missing value becomes 0 after scaling, and its flag, if the net has one, becomes 1. A column that was never known in
training stays masked in forecasts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from forecasting.data.hourly_grid import Bools, Floats

CLIP = 8.0


@dataclass(frozen=True)
class Scaler:
    """(x - shift) / scale. seen: columns that were known in training. Each has shape (columns,)."""

    shift: Floats
    scale: Floats
    seen: Bools

    @classmethod
    def standard(cls, rows: Floats) -> "Scaler":
        """Mean 0 and standard deviation 1 over the known values of rows (n, columns)."""
        known = np.isfinite(rows)
        count = known.sum(axis=0)
        seen = count > 0
        total = np.maximum(count, 1)
        shift = np.where(known, rows, 0.0).sum(axis=0) / total
        scale = np.sqrt((np.where(known, rows - shift, 0.0) ** 2).sum(axis=0) / total)
        return cls(shift, np.where(scale > 0, scale, 1.0), seen)

    @classmethod
    def min_max(cls, rows: Floats) -> "Scaler":
        """Scale the smallest known value to 0 and the largest to 1."""
        known = np.isfinite(rows)
        seen: Bools = np.any(known, axis=0)
        low = np.where(seen, np.where(known, rows, np.inf).min(axis=0), 0.0)
        high = np.where(seen, np.where(known, rows, -np.inf).max(axis=0), 1.0)
        return cls(low, np.where(high > low, high - low, 1.0), seen)

    def apply(self, rows: Floats, *, clip: float | None = None) -> tuple[Floats, Bools]:
        """Return the scaled rows, 0 if missing, and the mask of missing values; both have the shape of `rows`."""
        missing = ~np.isfinite(rows) | ~self.seen
        scaled = (np.where(missing, self.shift, rows) - self.shift) / self.scale
        if clip is not None:
            scaled = np.clip(scaled, -clip, clip)
        return scaled, missing

    def state(self) -> dict[str, Any]:
        return {"shift": self.shift.tolist(), "scale": self.scale.tolist(), "seen": self.seen.tolist()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Scaler":
        return cls(
            np.asarray(state["shift"], float), np.asarray(state["scale"], float), np.asarray(state["seen"], bool)
        )
