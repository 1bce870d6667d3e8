"""The formulas of an hourly row in plain Python: the reference for Spark's aggregates.

The observations of an hour are its ticks with a price (the mid if the quote is valid, else the tick's price) and, for
each minute without such a tick, the candle of that minute if it is known. They are ordered by time: a tick at its
timestamp, a filling candle at the last millisecond of its minute.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from marketdata.enrichment import Enriched, enrich
from marketdata.records import Candle, HourlyRow, Tick
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, floor_to, to_rfc3339
from marketdata.vocabulary import Basis, Origin

MINUTES_PER_HOUR = 60
# The share of its candles that a trailing day needs, besides the first: exchanges halt for an hour now and then.
KNOWN_SHARE = 0.9
BASIS_RANK: Mapping[Basis, int] = {basis: rank for rank, basis in enumerate(Basis)}


@dataclass(frozen=True, slots=True)
class _Observation:
    at_ms: int
    opening: float  # the price at the start of the observation; for a candle its open
    price: float
    high: float
    low: float


def observed_price(tick: Tick, enriched: Enriched | None = None) -> float | None:
    """Return the price of a tick: its mid, else its `price`, else None."""
    mid = (enriched or enrich(tick)).mid_price
    return tick.price if mid is None else mid


def mean(values: Iterable[float | None]) -> float | None:
    """Return the arithmetic mean of the values that are not None, summed exactly (`math.fsum`); None without values."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def trailing_volatility(candles: Mapping[int, Candle], open_ms: int, step_ms: int) -> float | None:
    """Return (high - low) / close x 100 of the 24 h that end with the candle opened at `open_ms`.

    Args:
        candles: one market's candles of one interval by open time.
        open_ms: the open time of the last candle of the window, ms.
        step_ms: the interval, ms.

    Returns:
        None unless the window's first candle and at least nine tenths of all its candles are known.
    """
    first_ms = open_ms - DAY_MS + step_ms
    if first_ms not in candles:
        return None
    window = [candles[at] for at in range(first_ms, open_ms + 1, step_ms) if at in candles]
    if len(window) < KNOWN_SHARE * (DAY_MS // step_ms):
        return None
    return (max(c.high for c in window) - min(c.low for c in window)) / candles[open_ms].close * 100


def trailing_volatilities(candles: Mapping[int, Candle], step_ms: int) -> dict[int, float | None]:
    """Return `trailing_volatility` of every candle, in one pass with monotonic queues of highs and lows."""
    found: dict[int, float | None] = {}
    highs: deque[tuple[int, float]] = deque()
    lows: deque[tuple[int, float]] = deque()
    window: deque[int] = deque()
    for at in sorted(candles):
        candle, first_ms = candles[at], at - DAY_MS + step_ms
        while highs and highs[-1][1] <= candle.high:
            highs.pop()
        while lows and lows[-1][1] >= candle.low:
            lows.pop()
        highs.append((at, candle.high))
        lows.append((at, candle.low))
        window.append(at)
        for queue in (highs, lows):
            while queue[0][0] < first_ms:
                queue.popleft()
        while window[0] < first_ms:
            window.popleft()
        known = window[0] == first_ms and len(window) >= KNOWN_SHARE * (DAY_MS // step_ms)
        found[at] = (highs[0][1] - lows[0][1]) / candle.close * 100 if known else None
    return found


def hour_row(
    symbol: str,
    hour_start_ms: int,
    ticks: Iterable[Tick],
    candles: Iterable[Candle],
    volatilities: Mapping[int, float | None] | None = None,
) -> HourlyRow | None:
    """Return the row of one market and hour [hour_start_ms, hour_start_ms + 1 h).

    Args:
        symbol: the market.
        hour_start_ms: UTC, on the hour.
        ticks: the market's ticks; ticks of other hours are ignored.
        candles: the market's one-minute candles of the hour, and of the 24 h before it for `avg_volatility` of an
            hour without ticks.
        volatilities: `trailing_volatilities` of the candles, if already computed.

    Returns:
        None if the hour has neither a tick with a price nor a known candle.
    """
    end_ms = hour_start_ms + HOUR_MS
    by_time = {c.open_time_ms: c for c in candles}
    known = [by_time[at] for at in range(hour_start_ms, end_ms, MINUTE_MS) if at in by_time]
    used = [(tick, enrich(tick)) for tick in ticks if hour_start_ms <= tick.timestamp_ms < end_ms]
    used = [(tick, enriched) for tick, enriched in used if observed_price(tick, enriched) is not None]
    used.sort(key=lambda pair: pair[0].timestamp_ms)
    minutes = {floor_to(tick.timestamp_ms, MINUTE_MS) for tick, _ in used}
    filling = [candle for candle in known if candle.open_time_ms not in minutes]
    observations = _observations(used, filling)
    if not observations:
        return None
    if used:
        volatility = mean(enriched.price_volatility for _, enriched in used)
    elif volatilities is not None:
        volatility = mean(volatilities.get(candle.open_time_ms) for candle in filling)
    else:
        volatility = mean(trailing_volatility(by_time, candle.open_time_ms, MINUTE_MS) for candle in filling)
    caps = [tick.market_cap for tick, _ in used if tick.market_cap is not None]
    return HourlyRow(
        symbol=symbol,
        hour_start=to_rfc3339(hour_start_ms),
        avg_price=mean(o.price for o in observations),
        avg_spread=mean(enriched.spread for _, enriched in used),
        avg_spread_percentage=mean(enriched.spread_percentage for _, enriched in used),
        total_liquidity=mean(enriched.total_liquidity for _, enriched in used),
        avg_volatility=volatility,
        high_price=max(o.high for o in observations),
        low_price=min(o.low for o in observations),
        avg_volume=mean(candle.volume for candle in known),
        avg_volume_24h=mean(tick.volume_24h for tick, _ in used),
        last_market_cap=caps[-1] if caps else None,
        open_price=observations[0].opening,
        last_price=observations[-1].price,
        realised_variance=_realised_variance(observations),
        n_ticks=len(used),
        n_candles=len(filling),
        coverage=(len(minutes) + len(filling)) / MINUTES_PER_HOUR,
        origin=Origin.LIVE if used else Origin.BACKFILL,
        basis=Basis.TICKS if used else Basis.CANDLES_1M,
    )


def _observations(used: Sequence[tuple[Tick, Enriched]], filling: Sequence[Candle]) -> list[_Observation]:
    observations = []
    for tick, enriched in used:
        price = observed_price(tick, enriched)
        if price is not None:
            observations.append(_Observation(tick.timestamp_ms, price, price, price, price))
    observations.extend(_Observation(c.open_time_ms + MINUTE_MS - 1, c.open, c.close, c.high, c.low) for c in filling)
    return sorted(observations, key=lambda o: o.at_ms)


def _realised_variance(observations: Sequence[_Observation]) -> float:
    """Return the sum of squared log returns from the opening price through every observation."""
    prices = [observations[0].opening, *(o.price for o in observations)]
    return math.fsum(math.log(b / a) ** 2 for a, b in pairwise(prices))


def hour_rows(ticks: Iterable[Tick], candles: Iterable[Candle]) -> list[HourlyRow]:
    """Return the rows of all markets and hours with a priced tick or a one-minute candle, by symbol and time."""
    ticks_of: dict[tuple[str, int], list[Tick]] = defaultdict(list)
    candles_of: dict[str, dict[int, Candle]] = defaultdict(dict)
    for tick in ticks:
        ticks_of[tick.symbol, floor_to(tick.timestamp_ms, HOUR_MS)].append(tick)
    for candle in candles:
        candles_of[candle.symbol][candle.open_time_ms] = candle
    volatilities = {symbol: trailing_volatilities(known, MINUTE_MS) for symbol, known in candles_of.items()}
    hours = set(ticks_of) | {(s, floor_to(at, HOUR_MS)) for s, known in candles_of.items() for at in known}
    rows = []
    for symbol, hour_ms in sorted(hours):
        known = candles_of.get(symbol, {})
        own = [known[at] for at in range(hour_ms, hour_ms + HOUR_MS, MINUTE_MS) if at in known]
        row = hour_row(symbol, hour_ms, ticks_of.get((symbol, hour_ms), ()), own, volatilities.get(symbol, {}))
        if row is not None:
            rows.append(row)
    return rows


def kline_row(kline: Candle, known: Mapping[int, Candle]) -> HourlyRow:
    """Return the row of an hour of which only the one-hour candle is known.

    Args:
        kline: the hour's candle.
        known: the market's one-hour candles by open time, including this one, for the trailing 24 h.
    """
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
        avg_volume=kline.volume / MINUTES_PER_HOUR,
        avg_volume_24h=None,
        last_market_cap=None,
        open_price=kline.open,
        last_price=kline.close,
        realised_variance=None,
        n_ticks=0,
        n_candles=0,
        coverage=1.0,
        origin=Origin.BACKFILL,
        basis=Basis.CANDLES_1H,
    )


def replaces(new: Basis, old: Basis) -> bool:
    """Return whether a row of basis `new` may replace a row of basis `old`: only if `new` ranks at least as high."""
    return BASIS_RANK[new] >= BASIS_RANK[old]
