"""Compare the poll plan with the limits of each source. Pure."""

from collections.abc import Sequence

from exchanges.interface import Budget, CandleSource, Cost, QuoteSource
from marketdata.markets import Market

_MINUTE_S = 60.0
_MONTH_S = 30 * 24 * 3600.0
_CANDLE_INTERVAL_S = 60.0


def exceeded(name: str, budget: Budget, cost: Cost, every_s: float) -> list[str]:
    """One line for each limit that a poll of `cost` every `every_s` real seconds exceeds."""
    per_minute = _MINUTE_S / every_s
    rates = (
        ("weight per minute", cost.weight * per_minute, budget.weight_per_minute),
        ("calls per minute", cost.calls * per_minute, budget.calls_per_minute),
        ("calls per month", cost.calls * _MONTH_S / every_s, budget.calls_per_month),
    )
    return [
        f"{name}: the poll plan needs {planned:,.0f} {what}; the limit is {limit:,}"
        for what, planned, limit in rates
        if limit is not None and planned > limit
    ]


def plan_warnings(
    sources: Sequence[QuoteSource],
    candle_source: CandleSource | None,
    markets: Sequence[Market],
    interval_s: float,
    speed: float,
) -> list[str]:
    """One line for each limit that polling all markets exceeds.

    Args:
        sources: polled every `interval_s`.
        candle_source: requested for the candles of each market every minute.
        markets: all markets.
        interval_s: exchange time.
        speed: exchange seconds per real second; limits count real time.
    """
    warnings: list[str] = []
    for source in sources:
        cost = source.poll_cost(markets)
        share = interval_s / _CANDLE_INTERVAL_S
        if candle_source is not None and candle_source.name == source.name:
            candles = candle_source.candles_cost
            calls = len(markets) * share  # for candles, per poll of quotes
            cost = Cost(round(cost.calls + candles.calls * calls), round(cost.weight + candles.weight * calls))
        warnings += exceeded(source.name, source.budget, cost, interval_s / speed)
    return warnings
