"""Columns derived from a single tick: mid, spread, liquidity. The streams use them; parity tests compare Spark's.

Every function returns None if an input is missing or the quote is invalid (valid: bid > 0 and ask >= bid).
"""

from msgspec import Struct

from marketdata.records import Tick
from marketdata.times import to_datetime


class Enriched(Struct, frozen=True, kw_only=True):
    """The columns that `raw_data` adds to those of a tick.

    date (`YYYY-MM-DD`) and hour (0-23): event time in UTC. mid_price and spread: in the quote currency.
    spread_percentage: spread / mid x 100. total_liquidity: bid_qty + ask_qty, in the base coin. price_volatility:
    (high_24h - low_24h) / mid x 100.
    """

    date: str
    hour: int
    mid_price: float | None
    spread: float | None
    spread_percentage: float | None
    total_liquidity: float | None
    price_volatility: float | None


def mid_price(bid: float | None, ask: float | None) -> float | None:
    """(bid + ask) / 2, in the quote currency."""
    if bid is None or ask is None or not 0 < bid <= ask:
        return None
    return (bid + ask) / 2


def spread_bps(bid: float | None, ask: float | None) -> float | None:
    """(ask - bid) / mid in basis points."""
    mid = mid_price(bid, ask)
    if mid is None or bid is None or ask is None:
        return None
    return (ask - bid) / mid * 10_000


def enrich(tick: Tick) -> Enriched:
    """Return the derived columns of one tick; without a valid quote only `date` and `hour` are not None."""
    at = to_datetime(tick.timestamp_ms)
    mid = mid_price(tick.bid_price, tick.ask_price)
    spread = (
        None if mid is None or tick.ask_price is None or tick.bid_price is None else tick.ask_price - tick.bid_price
    )
    both = mid is not None and tick.bid_qty is not None and tick.ask_qty is not None
    ranged = mid is not None and tick.high_24h is not None and tick.low_24h is not None
    return Enriched(
        date=at.strftime("%Y-%m-%d"),
        hour=at.hour,
        mid_price=mid,
        spread=spread,
        spread_percentage=None if spread is None or mid is None else spread / mid * 100,
        total_liquidity=(tick.bid_qty + tick.ask_qty) if both else None,  # type: ignore[operator]  # `both`: not None
        price_volatility=(tick.high_24h - tick.low_24h) / mid * 100 if ranged else None,  # type: ignore[operator]
    )
