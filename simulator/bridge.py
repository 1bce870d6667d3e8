"""The seeded bridge: 60 minute candles that aggregate exactly to a known hour. Pure functions, no I/O."""

import numpy as np

from marketdata.times import HOUR_MS, MINUTE_MS
from simulator.candles import Candles, Floats
from simulator.derive import MAX_DECIMALS, decimals_of, price_decimals, stream_key, uniforms, volume_unit

MINUTES = 60
_DRAWS = 512  # draw positions reserved per hour


def _reflected(path: Floats, low: float, high: float) -> Floats:
    """Reflect a path at the bounds until it is within them; values within the bounds do not change."""
    width = high - low
    if width <= 0:
        return np.full_like(path, low)
    place = np.mod(path - low, 2 * width)
    folded: Floats = low + np.where(place > width, 2 * width - place, place)
    return folded


def bridge_hour(seed: int, symbol: str, hour: Candles) -> Candles:
    """Generate the 60 minutes of one hour candle.

    The first open, the highest high, the lowest low, the last close and the summed volume equal those of the hour. Each
    minute opens at the close of the previous one. The path is a Brownian bridge from open to close, reflected into
    [low, high], with seeded wicks and volumes. Prices have the decimals of the hour. Volumes are multiples of its last
    decimal, so they add up exactly as decimals (and within rounding as floats).

    Args:
        seed: seed of the exchange.
        symbol: exchange symbol.
        hour: one candle (arrays of length 1) with low <= open, close <= high.
    """
    hour_ms = int(hour.time_ms[0])
    open_, high, low, close = (float(column[0]) for column in hour.prices())
    volume = float(hour.volume[0])
    key = stream_key(seed, symbol, "bridge")
    draws = uniforms(key, hour_ms // HOUR_MS * _DRAWS + np.arange(5 * MINUTES + 2, dtype=np.int64))
    decimals = max(price_decimals(high), *(decimals_of(price) for price in (open_, high, low, close)))

    # Box-Muller transform (1958) to normal steps.
    angle, radius = 2 * np.pi * draws[:MINUTES], np.sqrt(-2 * np.log(1 - draws[MINUTES : 2 * MINUTES]))
    walk = np.concatenate(([0.0], np.cumsum(radius * np.cos(angle))))
    part = np.arange(MINUTES + 1) / MINUTES
    sigma = (high - low) / np.sqrt(MINUTES) * 0.8  # matches the expected range of such an hour approximately
    path = open_ + (close - open_) * part + sigma * (walk - part * walk[-1])
    path = np.clip(np.round(_reflected(path, low, high), decimals), low, high)
    path[0], path[-1] = open_, close

    opens, closes = path[:-1], path[1:]
    tops, bottoms = np.maximum(opens, closes), np.minimum(opens, closes)
    wick = sigma * 0.5
    highs = np.clip(np.round(tops + wick * draws[2 * MINUTES : 3 * MINUTES], decimals), tops, high)
    lows = np.clip(np.round(bottoms - wick * draws[3 * MINUTES : 4 * MINUTES], decimals), low, bottoms)
    highs[int(np.argmax(tops))] = high
    lows[int(np.argmin(bottoms))] = low

    unit = volume_unit(volume, high)
    weights = 0.2 + draws[4 * MINUTES : 5 * MINUTES]
    bounds = np.round(np.cumsum(weights) / weights.sum() * round(volume * unit)).astype(np.int64)
    bounds[-1] = round(volume * unit)
    volumes = np.diff(bounds, prepend=np.int64(0)) / unit
    quotes = np.round(volumes * (opens + highs + lows + closes) / 4, MAX_DECIMALS)
    times = hour_ms + np.arange(MINUTES, dtype=np.int64) * MINUTE_MS
    return Candles(times, opens, highs, lows, closes, volumes, quotes)
