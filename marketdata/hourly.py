"""Hourly rows from ticks and candles: the one implementation of their formulas (docs/features.md), in numpy.

The minute is the unit. A minute's prices are the mids of its ticks; where no mid is known, the exchange's candle; where
that is not known either, CoinGecko's price, which `n_reference_minutes` counts. An hour's row is computed from its
minutes, so it does not depend on the number of ticks.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.minutes import (
    Bools,
    Floats,
    Ints,
    Prices,
    Steps,
    candles_on_grid,
    floats,
    ordered_ticks,
    times_ms,
    trailing_volatility,
)
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS
from marketdata.vocabulary import Basis, Origin

MINUTES_PER_HOUR = 60
DEFINITION = 2
"""Version of the formulas, stored with each row. Rows without a version are of definition 1: means over ticks and
closes, CoinGecko's price before the candle."""
BASIS_RANK: Mapping[Basis, int] = {basis: rank for rank, basis in enumerate(Basis)}

TICKS = pa.schema(
    [
        ("symbol", pa.string()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("tick_id", pa.string()),
        *(
            (name, pa.float64())
            for name in (
                "mid_price",
                "price",
                "spread",
                "spread_percentage",
                "total_liquidity",
                "price_volatility",
                "volume_24h",
                "market_cap",
            )
        ),
    ]
)
"""The columns of raw_data that hourly rows are computed from."""
CANDLES = pa.schema(
    [
        ("symbol", pa.string()),
        ("open_time", pa.timestamp("us", "UTC")),
        *((name, pa.float64()) for name in ("open", "high", "low", "close", "volume")),
    ]
)
"""The columns of minute_candles that hourly rows are computed from."""
_MEANS = {
    "avg_spread": "spread",
    "avg_spread_percentage": "spread_percentage",
    "total_liquidity": "total_liquidity",
    "avg_volatility": "price_volatility",
    "avg_volume_24h": "volume_24h",
}
"""Columns that are means of a tick's column."""
_NUMBERS = (
    "avg_price",
    "avg_spread",
    "avg_spread_percentage",
    "total_liquidity",
    "avg_volatility",
    "high_price",
    "low_price",
    "avg_volume",
    "avg_volume_24h",
    "last_market_cap",
    "open_price",
    "last_price",
    "realised_variance",
)
SCHEMA = pa.schema(
    [
        ("symbol", pa.string()),
        ("hour_start", pa.timestamp("us", "UTC")),
        *((name, pa.float64()) for name in _NUMBERS),
        ("n_ticks", pa.int64()),
        ("n_candles", pa.int64()),
        ("n_reference_minutes", pa.int64()),
        ("coverage", pa.float64()),
        ("origin", pa.string()),
        ("basis", pa.string()),
        ("definition", pa.int32()),
    ]
)
"""The columns of an hourly row (`marketdata.records.HourlyRow`)."""


def hour_rows(ticks: pa.Table, candles: pa.Table, from_ms: int, to_ms: int) -> pa.Table:
    """Return the rows of all markets and hours in [from_ms, to_ms) with a priced tick or a one-minute candle.

    Args:
        ticks: rows of raw_data in any order, with at least the columns TICKS; those of other hours are ignored.
        candles: rows of minute_candles in any order, with at least the columns CANDLES: those of the hours and, for
            `avg_volatility`, of the 24 h before them.
        from_ms: Unix time in ms, a whole hour.
        to_ms: like `from_ms`, exclusive.

    Returns:
        Rows with the columns SCHEMA, by symbol and hour.
    """
    ticks_of, candles_of = dict(_markets(ticks)), dict(_markets(candles))
    return _joined(
        _market_hours(symbol, ticks_of.get(symbol, ticks[:0]), candles_of.get(symbol, candles[:0]), from_ms, to_ms)
        for symbol in sorted(ticks_of.keys() | candles_of.keys())
    )


def kline_rows(klines: pa.Table) -> pa.Table:
    """Return the rows of hours of which only the one-hour candle is known.

    Args:
        klines: one-hour candles of all markets in any order with at least the columns CANDLES, including the 23 h
            before the first requested row, and a boolean column `wanted` that selects the rows to return.

    Returns:
        Rows with the columns SCHEMA, by symbol and hour.
    """
    return _joined(_market_klines(symbol, own) for symbol, own in sorted(_markets(klines)))


def _markets(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Split a table by symbol."""
    if table.num_rows == 0:
        return
    symbols = table["symbol"].combine_chunks().dictionary_encode()
    if len(symbols.dictionary) == 1:
        yield symbols.dictionary[0].as_py(), table
        return
    codes = symbols.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(symbols.dictionary) + 1))
    for code, symbol in enumerate(symbols.dictionary.to_pylist()):
        yield symbol, table.take(pa.array(order[bounds[code] : bounds[code + 1]]))


def _joined(tables: Iterator[pa.Table]) -> pa.Table:
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


def _market_hours(symbol: str, ticks: pa.Table, candles: pa.Table, from_ms: int, to_ms: int) -> pa.Table:
    n, day = (to_ms - from_ms) // MINUTE_MS, DAY_MS // MINUTE_MS
    known_candles, volume = candles_on_grid(candles, from_ms - DAY_MS, day + n)
    trailing = trailing_volatility(known_candles, day)[day:]
    traded = known_candles.since(day)

    ticks, at_ms = ordered_ticks(ticks, from_ms, to_ms)
    steps = Steps(n, (at_ms - from_ms) // MINUTE_MS, at_ms - from_ms)
    mid, price, market_cap, *reported = floats(ticks, ("mid_price", "price", "market_cap", *_MEANS.values()))
    quoted = steps.prices(mid)
    prices = quoted.or_else(traded).or_else(steps.prices(price))
    means = {name: steps.mean(values) for name, values in zip(_MEANS, reported, strict=True)}
    is_filled = ~quoted.known & traded.known
    means["avg_volatility"] = np.where(is_filled, trailing, means["avg_volatility"])
    means |= {"avg_price": prices.mean, "avg_volume": volume[day:]}

    hour_of_tick = (at_ms - from_ms) // HOUR_MS
    last_market_cap = np.full(n // MINUTES_PER_HOUR, np.nan)
    has_cap = ~np.isnan(market_cap)
    last_market_cap[hour_of_tick[has_cap]] = market_cap[has_cap]  # the last assignment to an hour remains
    n_ticks = np.bincount(hour_of_tick, minlength=n // MINUTES_PER_HOUR)
    n_minutes = _hours(prices.known).sum(axis=1)
    columns = {
        **{name: _known_mean(_hours(values)) for name, values in means.items()},
        **_hour_prices(prices),
        "last_market_cap": last_market_cap,
        "n_ticks": n_ticks,
        "n_candles": _hours(is_filled).sum(axis=1),
        "n_reference_minutes": _hours(prices.known & ~quoted.known & ~traded.known).sum(axis=1),
        "coverage": n_minutes / MINUTES_PER_HOUR,
        "origin": np.where(n_ticks > 0, Origin.LIVE, Origin.BACKFILL),
        "basis": np.where(n_ticks > 0, Basis.TICKS, Basis.CANDLES_1M),
    }
    return _table(symbol, np.arange(from_ms, to_ms, HOUR_MS), columns, n_minutes > 0)


def _hours(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Arrange values per minute in rows of an hour: shape (hours, 60)."""
    return values.reshape(-1, MINUTES_PER_HOUR)


def _known_mean(hours: Floats) -> Floats:
    """Return the mean of the known values of each row; NaN without any."""
    with np.errstate(invalid="ignore"):
        mean: Floats = np.nansum(hours, axis=1) / (~np.isnan(hours)).sum(axis=1)
    return mean


def _hour_prices(prices: Prices) -> dict[str, Floats]:
    """Return the columns of each hour that need the order of its minutes, or their extremes."""
    minutes = np.flatnonzero(prices.known)
    hour = minutes // MINUTES_PER_HOUR
    opening, close = prices.open[minutes], prices.close[minutes]
    first, last, high, low = np.full((4, len(prices.close) // MINUTES_PER_HOUR), np.nan)
    first[hour[::-1]], last[hour] = opening[::-1], close  # of several assignments to an hour the last remains
    np.fmax.at(high, hour, prices.high[minutes])
    np.fmin.at(low, hour, prices.low[minutes])
    is_first = np.diff(hour, prepend=-1) > 0
    previous = np.where(is_first, opening, np.append(np.nan, close[:-1])[: len(close)])
    variance = np.bincount(hour, np.log(close / previous) ** 2, len(first))
    return {
        "open_price": first,
        "last_price": last,
        "high_price": high,
        "low_price": low,
        "realised_variance": variance,
    }


def _market_klines(symbol: str, klines: pa.Table) -> pa.Table:
    starts = times_ms(klines["open_time"])
    from_ms = int(starts.min())
    n = (int(starts.max()) - from_ms) // HOUR_MS + 1
    prices, volume = candles_on_grid(klines, from_ms, n, HOUR_MS)
    wanted = np.zeros(n, dtype=bool)
    wanted[(starts - from_ms) // HOUR_MS] = klines["wanted"].to_numpy()
    columns = {
        "avg_price": prices.mean,
        "avg_volatility": trailing_volatility(prices, DAY_MS // HOUR_MS),
        "high_price": prices.high,
        "low_price": prices.low,
        "avg_volume": volume / MINUTES_PER_HOUR,
        "open_price": prices.open,
        "last_price": prices.close,
        **dict.fromkeys(("n_ticks", "n_candles", "n_reference_minutes"), np.zeros(n, dtype=np.int64)),
        "coverage": np.ones(n),
        "origin": np.full(n, Origin.BACKFILL),
        "basis": np.full(n, Basis.CANDLES_1H),
    }
    return _table(symbol, from_ms + HOUR_MS * np.arange(n), columns, wanted)


def _table(symbol: str, starts_ms: Ints, columns: Mapping[str, npt.NDArray[Any]], chosen: Bools) -> pa.Table:
    """Return the chosen hours as rows with the columns SCHEMA; NaN and columns that are not given become null."""
    n = int(chosen.sum())
    given = {
        "symbol": np.full(n, symbol),
        "hour_start": starts_ms[chosen] * 1000,
        "definition": np.full(n, DEFINITION),
        **{name: values[chosen] for name, values in columns.items()},
    }
    average = given["avg_price"]
    given["avg_price"] = np.clip(average, given["low_price"], given["high_price"])  # a mean may be off by its rounding
    arrays = [
        pa.array(given[field.name], from_pandas=True).cast(field.type)
        if field.name in given
        else pa.nulls(n, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def replaces(new: Basis, old: Basis) -> bool:
    """Return whether a row of basis `new` may replace a row of basis `old`: only if `new` ranks at least as high."""
    return BASIS_RANK[new] >= BASIS_RANK[old]
