"""The formulas of an hourly row (docs/features.md) in plain Python: slow, and written to be read.

Tests hold the vectorised kernel of `marketdata.hourly` to it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from marketdata.enrichment import enrich
from marketdata.hourly import DEFINITION
from marketdata.records import Candle, HourlyRow, Tick
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, floor_to, to_rfc3339
from marketdata.vocabulary import Basis, Origin


@dataclass(frozen=True)
class Minute:
    """The values of one minute; None where unknown."""

    source: str  # `mid`, `candle` or `reference`
    mean: float
    open: float
    high: float
    low: float
    close: float
    volatility: float | None


def step_mean(points: list[tuple[int, float]], end_ms: int) -> float | None:
    """Return the mean of a step function over [first point, end_ms); points are (time, value), ascending."""
    if not points:
        return None
    until = [at for at, _ in points[1:]] + [end_ms]
    weighted = [(end - at) * value for (at, value), end in zip(points, until, strict=True)]
    return math.fsum(weighted) / (end_ms - points[0][0])


def mean(values: Iterable[float | None]) -> float | None:
    """Return the arithmetic mean of the values that are not None."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def trailing_volatility(candles: Mapping[int, Candle], open_ms: int, step_ms: int) -> float | None:
    """Return (high - low) / close x 100 of the 24 h that end with the candle opened at `open_ms`."""
    first_ms = open_ms - DAY_MS + step_ms
    window = [candles[at] for at in range(first_ms, open_ms + 1, step_ms) if at in candles]
    if first_ms not in candles or len(window) < 0.9 * (DAY_MS // step_ms):
        return None
    return (max(c.high for c in window) - min(c.low for c in window)) / candles[open_ms].close * 100


def _points(ticks: Iterable[Tick], name: str) -> list[tuple[int, float]]:
    """Return (time, value) of the ticks that report a value, which is a field of the tick or of its enrichment."""
    values = [(t.timestamp_ms, getattr(t, name) if hasattr(t, name) else getattr(enrich(t), name)) for t in ticks]
    return [(at, value) for at, value in values if value is not None]


def _minute_of_ticks(source: str, points: list[tuple[int, float]], end_ms: int, volatility: float | None) -> Minute:
    prices = [price for _, price in points]
    average = step_mean(points, end_ms)
    assert average is not None
    return Minute(source, average, prices[0], max(prices), min(prices), prices[-1], volatility)


def minute_of(ticks: list[Tick], candles: Mapping[int, Candle], open_ms: int) -> Minute | None:
    """Return the minute opened at `open_ms`; `ticks` are those of this minute."""
    end_ms = open_ms + MINUTE_MS
    mids, prices = _points(ticks, "mid_price"), _points(ticks, "price")
    if mids:
        return _minute_of_ticks("mid", mids, end_ms, step_mean(_points(ticks, "price_volatility"), end_ms))
    if open_ms in candles:
        c = candles[open_ms]
        volatility = trailing_volatility(candles, open_ms, MINUTE_MS)
        return Minute("candle", (c.open + c.high + c.low + c.close) / 4, c.open, c.high, c.low, c.close, volatility)
    if prices:
        return _minute_of_ticks("reference", prices, end_ms, None)
    return None


def hour_row(symbol: str, hour_ms: int, ticks: Iterable[Tick], candles: Iterable[Candle]) -> HourlyRow | None:
    """Return the row of one market and hour; ticks of other hours and markets are ignored."""
    used = {}
    for tick in sorted(ticks, key=lambda tick: (tick.timestamp_ms, tick.tick_id)):
        priced = tick.price is not None or enrich(tick).mid_price is not None
        if tick.symbol == symbol and hour_ms <= tick.timestamp_ms < hour_ms + HOUR_MS and priced:
            used[tick.timestamp_ms] = tick  # of several at the same time the last
    known = {c.open_time_ms: c for c in candles if c.symbol == symbol}
    opens = range(hour_ms, hour_ms + HOUR_MS, MINUTE_MS)
    ticks_of = {at: [t for t in used.values() if floor_to(t.timestamp_ms, MINUTE_MS) == at] for at in opens}
    minutes = [minute for at in opens if (minute := minute_of(ticks_of[at], known, at)) is not None]
    if not minutes:
        return None
    closes = [minutes[0].open, *(minute.close for minute in minutes)]
    caps = _points(used.values(), "market_cap")

    def mean_of_ticks(name: str) -> float | None:
        return mean(step_mean(_points(ticks_of[at], name), at + MINUTE_MS) for at in opens)

    return HourlyRow(
        symbol=symbol,
        hour_start=to_rfc3339(hour_ms),
        avg_price=mean(minute.mean for minute in minutes),
        avg_spread=mean_of_ticks("spread"),
        avg_spread_percentage=mean_of_ticks("spread_percentage"),
        total_liquidity=mean_of_ticks("total_liquidity"),
        avg_volatility=mean(minute.volatility for minute in minutes),
        high_price=max(minute.high for minute in minutes),
        low_price=min(minute.low for minute in minutes),
        avg_volume=mean(known[at].volume for at in opens if at in known),
        avg_volume_24h=mean_of_ticks("volume_24h"),
        last_market_cap=caps[-1][1] if caps else None,
        open_price=minutes[0].open,
        last_price=minutes[-1].close,
        realised_variance=math.fsum(math.log(b / a) ** 2 for a, b in pairwise(closes)),
        n_ticks=len(used),
        n_candles=sum(minute.source == "candle" for minute in minutes),
        n_reference_minutes=sum(minute.source == "reference" for minute in minutes),
        coverage=len(minutes) / 60,
        origin=Origin.LIVE if used else Origin.BACKFILL,
        basis=Basis.TICKS if used else Basis.CANDLES_1M,
        definition=DEFINITION,
    )


def hour_rows(ticks: Iterable[Tick], candles: Iterable[Candle]) -> list[HourlyRow]:
    """Return the rows of all markets and hours with a priced tick or a candle, by symbol and time."""
    all_ticks: dict[tuple[str, int], list[Tick]] = {}
    all_candles: dict[str, list[Candle]] = {}
    for tick in ticks:
        all_ticks.setdefault((tick.symbol, floor_to(tick.timestamp_ms, HOUR_MS)), []).append(tick)
    for candle in candles:
        all_candles.setdefault(candle.symbol, []).append(candle)
    hours = {*all_ticks, *((s, floor_to(c.open_time_ms, HOUR_MS)) for s, known in all_candles.items() for c in known)}
    rows = (hour_row(s, at, all_ticks.get((s, at), []), all_candles.get(s, [])) for s, at in sorted(hours))
    return [row for row in rows if row is not None]


def kline_row(kline: Candle, known: Mapping[int, Candle]) -> HourlyRow:
    """Return the row of an hour of which only the one-hour candle is known; `known`: the market's, by open time."""
    return HourlyRow(
        symbol=kline.symbol,
        hour_start=kline.open_time,
        avg_price=(kline.open + kline.high + kline.low + kline.close) / 4,
        avg_spread=None,
        avg_spread_percentage=None,
        total_liquidity=None,
        avg_volatility=trailing_volatility(known, kline.open_time_ms, HOUR_MS),
        high_price=kline.high,
        low_price=kline.low,
        avg_volume=kline.volume / 60,
        avg_volume_24h=None,
        last_market_cap=None,
        open_price=kline.open,
        last_price=kline.close,
        realised_variance=None,
        n_ticks=0,
        n_candles=0,
        n_reference_minutes=0,
        coverage=1.0,
        origin=Origin.BACKFILL,
        basis=Basis.CANDLES_1H,
        definition=DEFINITION,
    )
