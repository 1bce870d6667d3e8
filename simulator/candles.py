"""Candles as columns of one length. Pure; must never import the server or do I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def _sums(volumes: Floats, starts: Ints) -> Floats:
    """Sums of runs; rounded to the 8 decimals that volumes have."""
    sums: Floats = np.add.reduceat(volumes, starts)
    return np.round(sums, 8)


@dataclass(frozen=True, slots=True)
class Candles:
    """Candles ascending by their open time; one array element a candle.

    `time_ms` int64, the open time, UTC; the rest float64: `open`, `high`, `low`, `close` in quote currency, `volume` in
    coins, `quote_volume` in quote currency.
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
        """No candle."""
        return cls(np.empty(0, np.int64), *(np.empty(0) for _ in range(6)))

    @classmethod
    def joined(cls, parts: Sequence["Candles"]) -> "Candles":
        """All candles of the parts, in the order of time."""
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
        """How many candles."""
        return len(self.time_ms)

    def __getitem__(self, rows: "slice | Ints | npt.NDArray[np.bool_]") -> "Candles":
        """The chosen candles."""
        times, *rest = self.columns()
        return Candles(times[rows], *(column[rows] for column in rest))

    def columns(self) -> tuple[Ints, Floats, Floats, Floats, Floats, Floats, Floats]:
        """The seven arrays, in the order of the fields."""
        return (self.time_ms, self.open, self.high, self.low, self.close, self.volume, self.quote_volume)

    def prices(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Open, high, low, close."""
        return (self.open, self.high, self.low, self.close)

    def between(self, start_ms: int, end_ms: int) -> "Candles":
        """Those that open in [start, end)."""
        first, last = np.searchsorted(self.time_ms, [start_ms, end_ms])
        return self[slice(int(first), int(last))]

    def grouped(self, step_ms: int, origin_ms: int = 0) -> tuple["Candles", Ints]:
        """Candles of `step_ms` on the grid through `origin_ms`, and of each the number of those it was made from."""
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
