"""The poll plan held against what each source allows. Pure."""

from collections.abc import Sequence

from exchanges.interface import Budget, CandleSource, Cost, QuoteSource
from marketdata.markets import Market

_MINUTE_S = 60.0
_MONTH_S = 30 * 24 * 3600.0
_CANDLE_INTERVAL_S = 60.0


def exceeded(name: str, budget: Budget, cost: Cost, every_s: float) -> list[str]:
    """What a cost every `every_s` real seconds exceeds, one line a limit."""
    per_minute = _MINUTE_S / every_s
    planned = (
        ("weight a minute", cost.weight * per_minute, budget.weight_per_minute),
        ("calls a minute", cost.calls * per_minute, budget.calls_per_minute),
        ("calls a month", cost.calls * _MONTH_S / every_s, budget.calls_per_month),
    )
    return [
        f"{name}: the poll plan asks for {asked:,.0f} {what}; allowed are {allowed:,}"
        for what, asked, allowed in planned
        if allowed is not None and asked > allowed
    ]


def plan_warnings(
    sources: Sequence[QuoteSource],
    candle_source: CandleSource | None,
    markets: Sequence[Market],
    interval_s: float,
    speed: float,
) -> list[str]:
    """Every limit that polling all markets would exceed.

    Args:
        sources: those that are polled every `interval_s` of exchange time.
        candle_source: the one that is asked for each market's candles every minute.
        markets: all of them.
        interval_s: of exchange time.
        speed: exchange seconds in a real second; limits count real time.
    """
    warnings: list[str] = []
    for source in sources:
        cost = source.poll_cost(markets)
        share = interval_s / _CANDLE_INTERVAL_S
        if candle_source is not None and candle_source.name == source.name:
            candles = candle_source.candles_cost
            calls = len(markets) * share  # of candles, in one interval of quotes
            cost = Cost(round(cost.calls + candles.calls * calls), round(cost.weight + candles.weight * calls))
        warnings += exceeded(source.name, source.budget, cost, interval_s / speed)
    return warnings
