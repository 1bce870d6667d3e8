"""Candles as NumPy columns of equal length. Pure functions, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def _sums(volumes: Floats, starts: Ints) -> Floats:
    """Sum each group, rounded to the 8 decimals of volumes."""
    sums: Floats = np.add.reduceat(volumes, starts)
    return np.round(sums, 8)


@dataclass(frozen=True, slots=True)
class Candles:
    """Candles ascending by open time; one array element per candle.

    `time_ms` is int64, the open time in Unix ms. The others are float64: `open`, `high`, `low`, `close` and
    `quote_volume` in quote currency, `volume` in coins.
    """

    time_ms: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    quote_volume: Floats

    @classmethod
    def empty(cls) -> "Candles":
        """Return zero candles."""
        return cls(np.empty(0, np.int64), *(np.empty(0) for _ in range(6)))

    @classmethod
    def joined(cls, parts: Sequence["Candles"]) -> "Candles":
        """Return all candles of the parts, ordered by time."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return cls.empty()
        if len(parts) == 1:
            return parts[0]
        whole = cls(*(np.concatenate(columns) for columns in zip(*(part.columns() for part in parts), strict=True)))
        if (np.diff(whole.time_ms) < 0).any():
            return whole[np.argsort(whole.time_ms, kind="stable")]
        return whole

    def __len__(self) -> int:
        """Return the number of candles."""
        return len(self.time_ms)

    def __getitem__(self, rows: "slice | Ints | npt.NDArray[np.bool_]") -> "Candles":
        """Return the selected candles."""
        times, *rest = self.columns()
        return Candles(times[rows], *(column[rows] for column in rest))

    def columns(self) -> tuple[Ints, Floats, Floats, Floats, Floats, Floats, Floats]:
        """Return the seven arrays in field order."""
        return (self.time_ms, self.open, self.high, self.low, self.close, self.volume, self.quote_volume)

    def prices(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Return the open, high, low and close arrays."""
        return (self.open, self.high, self.low, self.close)

    def between(self, start_ms: int, end_ms: int) -> "Candles":
        """Return the candles that open in [start, end)."""
        first, last = np.searchsorted(self.time_ms, [start_ms, end_ms])
        return self[slice(int(first), int(last))]

    def grouped(self, step_ms: int, origin_ms: int = 0) -> tuple["Candles", Ints]:
        """Aggregate to candles of `step_ms` aligned to `origin_ms`; return them and the number of inputs of each."""
        if not len(self):
            return self, np.empty(0, np.int64)
        slots = (self.time_ms - origin_ms) // step_ms
        starts = np.flatnonzero(np.diff(slots, prepend=slots[0] - 1))
        ends = np.append(starts[1:], len(slots))
        return Candles(
            slots[starts] * step_ms + origin_ms,
            self.open[starts],
            np.maximum.reduceat(self.high, starts),
            np.minimum.reduceat(self.low, starts),
            self.close[ends - 1],
            _sums(self.volume, starts),
            _sums(self.quote_volume, starts),
        ), ends - starts
