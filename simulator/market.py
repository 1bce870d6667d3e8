"""The market at a point in time: quotes, 24 h statistics and candles up to then, without look-ahead.

Computed from `MarketHistory` by the rules of `derive`; pure except for caches.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, floor_to
from simulator import derive
from simulator.candles import Candles
from simulator.history import MarketHistory

RECENT_MS = HOUR_MS
"""The high-low range of this period before a minute determines the spread of its quote."""
LOOK_BACK_MS = 7 * DAY_MS
"""How far back to search for the last price if a minute has no candle."""
_CHUNK_ROWS = 2000


@dataclass(frozen=True, slots=True)
class DayStats:
    """24 h statistics during one minute: the 1,440 minutes before it, and its first price.

    `start_ms` is the start of the minute; the window is [start - 24 h, start). Prices and `quote_volume` are in quote
    currency, `volume` in coins. `range_1h` is the high-low range of the last 60 minutes. `previous_close` is the last
    close before the window.
    """

    start_ms: int
    last_price: float
    open: float
    high: float
    low: float
    previous_close: float
    volume: float
    quote_volume: float
    count: int
    range_1h: float

    @property
    def change(self) -> float:
        """Return last price minus the price 24 hours ago."""
        return self.last_price - self.open

    @property
    def change_percent(self) -> float:
        """Return the change in percent of the price 24 hours ago."""
        return self.change / self.open * 100


class SimulatedMarket:
    """The exchange's view of the market at any time. Every result is a function of (history, seed, time)."""

    def __init__(self, history: MarketHistory) -> None:
        self.history = history
        self.seed = history.seed
        self.symbols = history.symbols
        self._stats = lru_cache(maxsize=2048)(self._compute_stats)
        self._trades = lru_cache(maxsize=512)(self._compute_trades)
        self._quotes = lru_cache(maxsize=2048)(self._compute_quote)

    def stats(self, symbol: str, now_ms: int) -> DayStats | None:
        """Return the 24 h statistics during the minute of `now_ms`; None if the symbol has no price yet."""
        return self._stats(symbol, floor_to(now_ms, MINUTE_MS))

    def quote(self, symbol: str, now_ms: int) -> derive.Quote | None:
        """Return the best bid and ask during the minute of `now_ms`; None if the symbol has no price yet."""
        return self._quotes(symbol, floor_to(now_ms, MINUTE_MS))

    def _compute_quote(self, symbol: str, minute_ms: int) -> derive.Quote | None:
        stats = self._stats(symbol, minute_ms)
        if stats is None:
            return None
        return derive.quote(self.seed, symbol, stats.last_price, stats.range_1h, minute_ms)

    def _last_close(self, symbol: str, before_ms: int) -> float | None:
        """Return the close of the last minute that opens before `before_ms`."""
        end_ms = before_ms
        step_ms = MINUTE_MS
        while end_ms > before_ms - LOOK_BACK_MS:
            found = self.history.minutes(symbol, end_ms - step_ms, end_ms)
            if len(found):
                return float(found.close[-1])
            end_ms -= step_ms
            step_ms = min(step_ms * 8, DAY_MS)
        return None

    def _compute_stats(self, symbol: str, minute_ms: int) -> DayStats | None:
        window = self.history.minutes(symbol, minute_ms - DAY_MS, minute_ms)
        # Only the first price of the running minute is known.
        running = self.history.minutes(symbol, minute_ms, minute_ms + MINUTE_MS)
        if len(running):
            last = float(running.open[0])
        elif len(window):
            last = float(window.close[-1])
        else:
            known = self._last_close(symbol, minute_ms)
            if known is None:
                return None
            last = known
        if not len(window):
            return DayStats(minute_ms, last, last, last, last, last, 0.0, 0.0, 0, 0.0)
        recent = window.between(minute_ms - RECENT_MS, minute_ms)
        previous = self._last_close(symbol, minute_ms - DAY_MS)
        return DayStats(
            start_ms=minute_ms,
            last_price=last,
            open=float(window.open[0]),
            high=max(float(window.high.max()), last),
            low=min(float(window.low.min()), last),
            previous_close=float(window.open[0]) if previous is None else previous,
            volume=round(float(window.volume.sum()), 8),
            quote_volume=round(float(window.quote_volume.sum()), 8),
            count=int(derive.trade_counts(self.seed, symbol, window).sum()),
            range_1h=float(recent.high.max() - recent.low.min()) if len(recent) else 0.0,
        )

    def trades(self, symbol: str, minute_ms: int) -> derive.Trades | None:
        """Return all trades of a minute, including those after the current time; None if it has no candle."""
        return self._trades(symbol, minute_ms)

    def _compute_trades(self, symbol: str, minute_ms: int) -> derive.Trades | None:
        candle = self.history.minutes(symbol, minute_ms, minute_ms + MINUTE_MS)
        return derive.minute_trades(self.seed, symbol, candle) if len(candle) else None

    def running_minute(self, symbol: str, now_ms: int) -> Candles:
        """Return the unfinished candle of the minute of `now_ms`, from the trades so far; empty without trades."""
        minute_ms = floor_to(now_ms, MINUTE_MS)
        trades = self.trades(symbol, minute_ms)
        if trades is None:
            return Candles.empty()
        count = int(np.searchsorted(trades.time_ms, now_ms, side="right"))
        if count == 0:
            # A minute without volume has a candle of one price, which is published when the minute closes.
            return Candles.empty()
        prices = trades.price[:count]
        volume = round(float(trades.qty[:count].sum()), 8)
        row = (prices[0], prices.max(), prices.min(), prices[-1], volume)
        quote_volume = round(volume * (row[0] + row[1] + row[2] + row[3]) / 4, 8)
        return Candles(np.array([minute_ms]), *(np.array([float(value)]) for value in (*row, quote_volume)))

    def _known(self, symbol: str, start_ms: int, end_ms: int, now_ms: int, step_ms: int) -> Candles:
        """Return the candles of `step_ms` that open in [start, end), as known now; `start_ms` is on their grid."""
        minute_ms = floor_to(now_ms, MINUTE_MS)
        hour_ms = floor_to(now_ms, HOUR_MS)
        parts = []
        if step_ms < HOUR_MS:
            parts.append(self.history.minutes(symbol, start_ms, min(end_ms, minute_ms)))
        else:
            parts.append(self.history.hours(symbol, start_ms, min(end_ms, hour_ms)))
            if end_ms > hour_ms:
                parts.append(self.history.minutes(symbol, max(start_ms, hour_ms), min(end_ms, minute_ms)))
        if start_ms <= minute_ms < end_ms:
            parts.append(self.running_minute(symbol, now_ms))
        return Candles.joined(parts)

    def klines(
        self,
        symbol: str,
        step_ms: int,
        now_ms: int,
        *,
        limit: int,
        start_ms: int | None,
        end_ms: int | None,
        origin_ms: int = 0,
    ) -> Candles:
        """Return up to `limit` candles of `step_ms`, ascending, as known now; the last may be unfinished.

        With `start_ms` these are the oldest that open at or after it, otherwise the newest. None opens after `end_ms`.
        """
        first_ms = self._grid(self.history.first_ms(symbol), step_ms, origin_ms)
        last_ms = self._grid(min(now_ms, now_ms if end_ms is None else end_ms), step_ms, origin_ms) + step_ms
        rows = max(limit, 1)
        span_ms = min(rows, _CHUNK_ROWS) * step_ms
        found: list[Candles] = []
        count = 0
        if start_ms is not None:
            at = max(self._grid(start_ms + step_ms - 1, step_ms, origin_ms), first_ms)
            while at < last_ms and count < rows:
                until = min(at + span_ms, last_ms)
                found.append(self._known(symbol, at, until, now_ms, step_ms).grouped(step_ms, origin_ms)[0])
                count += len(found[-1])
                at = until
            return Candles.joined(found)[:rows]
        until = last_ms
        while until > first_ms and count < rows:
            at = max(until - span_ms, first_ms)
            found.insert(0, self._known(symbol, at, until, now_ms, step_ms).grouped(step_ms, origin_ms)[0])
            count += len(found[0])
            until = at
        return Candles.joined(found)[-rows:]

    @staticmethod
    def _grid(ms: int, step_ms: int, origin_ms: int) -> int:
        return floor_to(ms - origin_ms, step_ms) + origin_ms
