"""A window's buckets to the numbers of a feature row; definitions and units stand in docs/features.md.

Pure; imports no room but its own, does no I/O and reads no clock.
"""

import math

from marketdata.records import WindowFeatures
from marketdata.times import MINUTE_MS
from marketdata.windows import (
    CLOSE,
    HIGH,
    IMBALANCE_SUM,
    IMBALANCES,
    LIQUIDITY_SUM,
    LOW,
    MIDS,
    MINUTES,
    OPEN,
    SIZES,
    SPREAD_MAX,
    SPREAD_SUM,
    TICKS,
    TRADES,
    VALUE,
    VOLUME,
    Ring,
)


def window_features(ring: Ring, decay: float) -> WindowFeatures:
    """The numbers of one window as of its newest slot. `decay`: see `Ring.closed`."""
    closed = ring.closed(decay)
    old, now = closed.bucket, ring.current
    mids = int(old[MIDS] + now[MIDS])
    n_ticks = int(old[TICKS] + now[TICKS])
    per_window = max(1, ring.window.length_ms // MINUTE_MS)
    seen = closed.cells
    if ring.window.slot_ms > MINUTE_MS:
        seen += int(now[MINUTES]).bit_count()
    elif closed.newest_cell or now[MIDS]:
        seen += 1
    trades = old[TRADES] + now[TRADES]
    volume = old[VOLUME] + now[VOLUME] if trades else None
    vwap = (old[VALUE] + now[VALUE]) / volume if volume else None
    if not mids:
        return WindowFeatures(n_ticks=n_ticks, coverage=0.0, volume=volume, vwap=vwap)
    first = now[OPEN] if closed.first_open is None else closed.first_open
    last, variance = closed.last_close, closed.variance
    if now[MIDS]:
        previous = now[OPEN] if closed.first_open is None else last
        last = now[CLOSE]
        variance += math.log(last / previous) ** 2
    sizes, imbalances = old[SIZES] + now[SIZES], old[IMBALANCES] + now[IMBALANCES]
    return WindowFeatures(
        n_ticks=n_ticks,
        coverage=seen / per_window,
        open=first,
        high=max(old[HIGH], now[HIGH]),
        low=min(old[LOW], now[LOW]),
        last=last,
        log_return=math.log(last / first) if mids > 1 else None,
        realised_volatility=math.sqrt(variance) if mids > 1 else None,
        mean_spread_bps=(old[SPREAD_SUM] + now[SPREAD_SUM]) / mids,
        max_spread_bps=max(old[SPREAD_MAX], now[SPREAD_MAX]),
        mean_liquidity=(old[LIQUIDITY_SUM] + now[LIQUIDITY_SUM]) / sizes if sizes else None,
        imbalance=(old[IMBALANCE_SUM] + now[IMBALANCE_SUM]) / imbalances if imbalances else None,
        vwap=vwap,
        volume=volume,
    )
