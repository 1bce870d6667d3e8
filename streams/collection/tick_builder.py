"""Build the tick of a market from the data of its sources. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exchanges.interface import PollResult, Quote
from marketdata import tick_rules
from marketdata.enrichment import mid_price
from marketdata.errors import InvalidValueError
from marketdata.markets import Market
from marketdata.records import SourceState, Tick
from marketdata.times import to_rfc3339
from marketdata.vocabulary import SourceStatus, TickFlag, stale_flag
from streams.collection.conflation import Interval

_BPS = 10_000.0


@dataclass(frozen=True, slots=True)
class Polled:
    """A source's outcome of one poll; `result` is None unless `status` is ok. `received_at_ms` is event time."""

    status: str
    result: PollResult | None = None
    received_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Flagging thresholds: age of a source's data by its name, in ms, and divergence of prices, in basis points."""

    stale_ms: Mapping[str, float] = field(default_factory=dict)
    divergence_bps: float = float("inf")


def build_tick(market: Market, timestamp_ms: int, polled: Mapping[str, Polled], bounds: Bounds) -> Tick:
    """Build the tick of a poll; a failed source leaves its fields null and sets its status.

    So does a source whose numbers violate the rules of a clean tick, if the other sources have a price. Otherwise its
    numbers stay in the tick, so that its dead letter shows them.

    Args:
        market: of the tick.
        timestamp_ms: the instant of the grid, event time.
        polled: outcome of each source by its name.
        bounds: flagging thresholds.
    """
    fields: dict[str, float | str | None] = {}
    states: dict[str, SourceState] = {}
    invalid: dict[str, float | str | None] = {}
    for name, outcome in polled.items():
        states[name], found = _one(market.symbol, outcome)
        (invalid if states[name].status == SourceStatus.INVALID else fields).update(found)
    if not _has_price(fields):
        fields |= invalid
    given: dict[str, Any] = {**fields}  # the sources' fields are Tick's own names
    divergence = divergence_bps(given.get("price"), mid_price(given.get("bid_price"), given.get("ask_price")))
    return _tick(market, timestamp_ms, states, divergence, bounds, given)


def stream_tick(market: Market, interval: Interval, source: str, bounds: Bounds, others: Mapping[str, str]) -> Tick:
    """Build the tick of a stream's interval.

    Args:
        market: of the tick.
        interval: with a quote.
        source: name of the stream's source.
        bounds: flagging thresholds.
        others: status of the sources that do not contribute.

    Raises:
        TypeError: the interval has no quote.
    """
    quote = interval.quote
    if quote is None:
        raise TypeError(f"{interval.symbol}: interval without a quote: expected one with a quote")
    own = SourceState(
        status=SourceStatus.OK,
        observed_at=to_rfc3339(interval.quoted_at_ms),
        received_at=to_rfc3339(interval.end_ms),
        staleness_ms=interval.end_ms - interval.quoted_at_ms,
    )
    states = {name: SourceState(status=status) for name, status in others.items()} | {source: own}
    given: dict[str, Any] = {
        "bid_price": quote.bid_price,
        "bid_qty": quote.bid_qty,
        "ask_price": quote.ask_price,
        "ask_qty": quote.ask_qty,
        "n_updates": interval.n_updates,
        "n_trades": interval.n_trades,
        "traded_volume": interval.volume,
        "vwap": interval.value / interval.volume if interval.volume else None,
    }
    return _tick(market, interval.end_ms, states, None, bounds, given)


def invalid_quotes(result: PollResult) -> dict[str, InvalidValueError]:
    """Return the errors of the markets whose data is not valid, by symbol: as parsed, or by the rules of a tick."""
    broken = {symbol: error for symbol, quote in result.quotes.items() if (error := _broken_rule(quote)) is not None}
    return {**result.invalid, **broken}


def divergence_bps(price: float | None, mid: float | None) -> float | None:
    """Return (price - mid) / mid in basis points; None if one is missing."""
    return None if price is None or mid is None else (price - mid) / mid * _BPS


def _tick(
    market: Market,
    timestamp_ms: int,
    states: dict[str, SourceState],
    divergence: float | None,
    bounds: Bounds,
    given: dict[str, Any],
) -> Tick:
    timestamp = to_rfc3339(timestamp_ms)
    return Tick(
        symbol=market.symbol,
        tick_id=Tick.make_id(market.symbol, timestamp),
        timestamp=timestamp,
        quote=market.quote,
        price_usd=given.get("price") if market.quote == "USD" else None,
        divergence_bps=divergence,
        sources=states,
        flags=_flags(states, divergence, bounds),
        **given,
    )


def _flags(states: Mapping[str, SourceState], divergence: float | None, bounds: Bounds) -> tuple[str, ...]:
    flags = [
        stale_flag(name)
        for name, state in states.items()
        if state.staleness_ms is not None and state.staleness_ms > bounds.stale_ms.get(name, float("inf"))
    ]
    if divergence is not None and abs(divergence) > bounds.divergence_bps:
        flags.append(TickFlag.DIVERGENT)
    return tuple(flags)


def _one(symbol: str, outcome: Polled) -> tuple[SourceState, Mapping[str, float | str | None]]:
    received = None if outcome.received_at_ms is None else to_rfc3339(outcome.received_at_ms)
    if outcome.status != SourceStatus.OK or outcome.result is None:
        return SourceState(status=outcome.status, received_at=received), {}
    quote = outcome.result.quotes.get(symbol)
    if quote is None:
        return SourceState(status=_absent(symbol, outcome.result), received_at=received), {}
    if _broken_rule(quote) is not None:
        return SourceState(status=SourceStatus.INVALID, received_at=received), quote.fields
    staleness_ms = None
    if quote.observed_at_ms is not None and outcome.received_at_ms is not None:
        staleness_ms = outcome.received_at_ms - quote.observed_at_ms
    state = SourceState(
        status=SourceStatus.OK,
        observed_at=None if quote.observed_at_ms is None else to_rfc3339(quote.observed_at_ms),
        received_at=received,
        staleness_ms=staleness_ms,
    )
    return state, quote.fields


def _broken_rule(quote: Quote) -> InvalidValueError | None:
    try:
        tick_rules.check_numbers(quote.fields)
    except InvalidValueError as error:
        return error
    return None


def _has_price(fields: Mapping[str, float | str | None]) -> bool:
    return fields.get("price") is not None or None not in (fields.get("bid_price"), fields.get("ask_price"))


def _absent(symbol: str, result: PollResult) -> str:
    """Why an answer has no quote of a market."""
    if symbol in result.invalid:
        return SourceStatus.INVALID
    if symbol in result.deferred:
        return result.deferred_status
    if symbol in result.unknown:
        return SourceStatus.UNKNOWN_SYMBOL
    return result.absent.get(symbol, SourceStatus.MISSING)
