"""Compute the features of one window from its buckets; definitions and units are in docs/features.md."""

import math

from marketdata.records import WindowFeatures
from marketdata.times import MINUTE_MS
from marketdata.windows import Ring


def window_features(ring: Ring, decay: float) -> WindowFeatures:
    """Return the features of one window as of its newest slot. `decay`: see `Ring.closed`."""
    closed = ring.closed(decay)
    # Unpacked once: indexing a list by a module constant costs more than a local variable.
    n1, mids1, _, _, _, _, high1, low1, sum1, most1, s1, l1, i1, m1, d1, v1, x1, *_ = closed.bucket
    n2, mids2, _, _, start, end, high2, low2, sum2, most2, s2, l2, i2, m2, d2, v2, x2, minutes = ring.current
    mids, n_ticks, trades = int(mids1 + mids2), int(n1 + n2), d1 + d2
    seen = closed.cells
    if ring.window.slot_ms > MINUTE_MS:
        seen += int(minutes).bit_count()
    elif closed.newest_cell or mids2:
        seen += 1
    volume = v1 + v2 if trades else None
    vwap = (x1 + x2) / volume if volume else None
    if not mids:
        return WindowFeatures(n_ticks=n_ticks, coverage=0.0, volume=volume, vwap=vwap)
    first, last, variance = closed.first_open, closed.last_close, closed.variance
    if first is None:
        first = last = start
    if mids2:
        variance += math.log(end / last) ** 2
        last = end
    sizes, imbalances = s1 + s2, i1 + i2
    # FURB136: calls of max() and min() take a tenth of this function's time.
    return WindowFeatures(
        n_ticks=n_ticks,
        coverage=seen / max(1, ring.window.length_ms // MINUTE_MS),
        open=first,
        high=high1 if high1 > high2 else high2,  # noqa: FURB136
        low=low1 if low1 < low2 else low2,  # noqa: FURB136
        last=last,
        log_return=math.log(last / first) if mids > 1 else None,
        realised_volatility=math.sqrt(variance) if mids > 1 else None,
        mean_spread_bps=(sum1 + sum2) / mids,
        max_spread_bps=most1 if most1 > most2 else most2,  # noqa: FURB136
        mean_liquidity=(l1 + l2) / sizes if sizes else None,
        imbalance=(m1 + m2) / imbalances if imbalances else None,
        vwap=vwap,
        volume=volume,
    )
