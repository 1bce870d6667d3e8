"""One market's ticks and candles as values per minute, in numpy: the input of the hourly rows (`marketdata.hourly`).

Every array has one entry per minute of a gapless grid; NaN marks an unknown value. A value that ticks report is a step
function within its minute: each known value holds until the market's next known one in the minute, or until the
minute's end. Nothing is carried into another minute. So neither the number of ticks nor a repeated tick has an effect,
only what they report and for how long.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.times import MINUTE_MS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# The share of its candles that a trailing day needs, besides the first: exchanges halt for an hour now and then.
KNOWN_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Prices:
    """The price within each minute, shape (minutes,) each, in the quote currency; all NaN where it is unknown."""

    mean: Floats
    open: Floats
    high: Floats
    low: Floats
    close: Floats

    @property
    def known(self) -> Bools:
        return ~np.isnan(self.close)

    def since(self, first: int) -> "Prices":
        """Return the minutes from position `first` on."""
        return Prices(*(getattr(self, name)[first:] for name in self.__slots__))

    def or_else(self, other: "Prices") -> "Prices":
        """Return these prices, and those of `other` for the minutes that are unknown here."""
        known = self.known
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__slots__)
        return Prices(*(np.where(known, own, others) for own, others in pairs))


@dataclass(frozen=True, slots=True)
class Steps:
    """Ticks of one market on a grid of `n` minutes, in order of time, with distinct times.

    minute: position on the grid, shape (ticks,). at_ms: time since the grid's start, shape (ticks,).
    """

    n: int
    minute: Ints
    at_ms: Ints

    def mean(self, values: Floats) -> Floats:
        """Return the time-weighted mean of a step function in each minute.

        Args:
            values: one value per tick, NaN where the tick does not report it, shape (ticks,).

        Returns:
            Shape (n,); NaN for a minute in which no value is known.
        """
        known = ~np.isnan(values)
        minute, at_ms, values = self.minute[known], self.at_ms[known], values[known]
        end_ms = (minute + 1) * MINUTE_MS
        held = np.minimum(np.append(at_ms[1:], end_ms[-1:]), end_ms) - at_ms
        with np.errstate(invalid="ignore"):
            mean: Floats = np.bincount(minute, held * values, self.n) / np.bincount(minute, held, self.n)
        return mean

    def prices(self, values: Floats) -> Prices:
        """Return the prices of each minute; arguments as for `mean`."""
        known = ~np.isnan(values)
        minute, first, last, high, low = self.minute[known], *np.full((4, self.n), np.nan)
        first[minute[::-1]] = values[known][::-1]  # of several assignments to one minute the last remains
        last[minute] = values[known]
        np.fmax.at(high, minute, values[known])
        np.fmin.at(low, minute, values[known])
        return Prices(np.clip(self.mean(values), low, high), first, high, low, last)


def times_ms(column: pa.ChunkedArray) -> Ints:
    """Return a column of timestamps as ms since the epoch."""
    milliseconds = pc.cast(column, pa.timestamp("ms", "UTC"), safe=False)
    return np.asarray(pc.cast(milliseconds, pa.int64()).to_numpy(), dtype=np.int64)


def floats(table: pa.Table, names: Sequence[str]) -> list[Floats]:
    """Return numeric columns as arrays, with NaN for null."""
    return [np.asarray(pc.cast(table[name], pa.float64()).to_numpy(), dtype=np.float64) for name in names]


def ordered_ticks(ticks: pa.Table, from_ms: int, to_ms: int) -> tuple[pa.Table, Ints]:
    """Return the ticks in [from_ms, to_ms) that have a price, in order of time, and their times (ms).

    Of ticks with the same time the last by `tick_id` is kept, which also drops repeated ticks.
    """
    at_ms = times_ms(ticks["timestamp"])
    priced = pc.is_valid(pc.coalesce(ticks["mid_price"], ticks["price"])).to_numpy()
    wanted = (at_ms >= from_ms) & (at_ms < to_ms) & priced
    if not wanted.all():
        ticks, at_ms = ticks.filter(pa.array(wanted)), at_ms[wanted]
    if np.any(np.diff(at_ms) <= 0):
        order = pc.sort_indices(ticks, [("timestamp", "ascending"), ("tick_id", "ascending")])
        ticks, at_ms = ticks.take(order), at_ms[order.to_numpy()]
        last = np.append(np.diff(at_ms) > 0, values=True)
        ticks, at_ms = ticks.filter(pa.array(last)), at_ms[last]
    return ticks, at_ms


def candles_on_grid(candles: pa.Table, from_ms: int, n: int, step_ms: int = MINUTE_MS) -> tuple[Prices, Floats]:
    """Return prices and volumes of candles on the grid of `n` intervals of `step_ms` from `from_ms` on.

    The mean price of a candle is (open + high + low + close) / 4, which is closer to the time-weighted mean than its
    close is (docs/features.md).
    """
    slots = (times_ms(candles["open_time"]) - from_ms) // step_ms
    inside = (slots >= 0) & (slots < n)
    opening, high, low, close, volume = grid = np.full((5, n), np.nan)
    for column, values in zip(grid, floats(candles, ("open", "high", "low", "close", "volume")), strict=True):
        column[slots[inside]] = values[inside]
    return Prices(np.clip((opening + high + low + close) / 4, low, high), opening, high, low, close), volume


def trailing_volatility(candles: Prices, window: int) -> Floats:
    """Return (high - low) / close x 100 of the `window` candles that end with each candle, shape (candles,).

    Highs and lows of a window are those of its part in one block and its part in the next, which running extremes from
    both ends of each block contain (van Herk 1992; Gil and Werman 1993).

    Args:
        candles: prices on a gapless grid.
        window: number of candles.

    Returns:
        NaN unless the candle itself, its window's first candle and at least KNOWN_SHARE of all its candles are known.
    """
    n = len(candles.close)
    volatility = np.full(n, np.nan)
    if n < window:
        return volatility
    known = candles.known
    padding = (0, -n % window)
    highs, lows = (
        np.pad(side, padding, constant_values=np.nan).reshape(-1, window) for side in (candles.high, candles.low)
    )
    first, last = slice(0, n - window + 1), slice(window - 1, n)

    def extreme(pick: np.ufunc, blocks: Floats) -> Floats:
        until = pick.accumulate(blocks, axis=1).ravel()
        since = pick.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].ravel()
        found: Floats = pick(since[first], until[last])
        return found

    before = np.concatenate([[0], np.cumsum(known)])
    enough = known[first] & (before[window:] - before[:-window] >= KNOWN_SHARE * window)
    spread = extreme(np.fmax, highs) - extreme(np.fmin, lows)
    volatility[last] = np.where(enough, spread / candles.close[last] * 100, np.nan)
    return volatility
