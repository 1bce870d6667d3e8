"""One tick out of what each source said of one market at one instant of the grid. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marketdata.markets import Market
from marketdata.records import SourceState, Tick
from marketdata.times import to_rfc3339
from streams.sources.contracts import MISSING, OK, Reading

DISABLED = "disabled"
BAD_PAYLOAD = "bad_payload"


@dataclass(frozen=True, slots=True)
class Polled:
    """A source's outcome of one poll; `reading` is None unless `status` is ok. `received_at_ms` is event time."""

    status: str
    reading: Reading | None = None
    received_at_ms: int | None = None


def build_tick(market: Market, timestamp_ms: int, polled: Mapping[str, Polled]) -> Tick:
    """The tick of a market; a source that failed leaves its fields null and its status."""
    timestamp = to_rfc3339(timestamp_ms)
    fields: dict[str, float | str | None] = {}
    states: dict[str, SourceState] = {}
    for name, outcome in polled.items():
        states[name], found = _one(market.symbol, outcome)
        fields.update(found)
    given: dict[str, Any] = {**fields}  # the sources' fields are Tick's own names
    return Tick(
        symbol=market.symbol,
        tick_id=Tick.make_id(market.symbol, timestamp),
        timestamp=timestamp,
        quote=market.quote,
        price_usd=given.get("price") if market.quote == "USD" else None,
        sources=states,
        **given,
    )


def _one(symbol: str, outcome: Polled) -> tuple[SourceState, Mapping[str, float | str | None]]:
    received = None if outcome.received_at_ms is None else to_rfc3339(outcome.received_at_ms)
    if outcome.status != OK or outcome.reading is None:
        return SourceState(status=outcome.status, received_at=received), {}
    quote = outcome.reading.quotes.get(symbol)
    if quote is None:
        status = BAD_PAYLOAD if symbol in outcome.reading.refused else MISSING
        return SourceState(status=status, received_at=received), {}
    staleness_ms = None
    if quote.observed_at_ms is not None and outcome.received_at_ms is not None:
        staleness_ms = outcome.received_at_ms - quote.observed_at_ms
    state = SourceState(
        status=OK,
        observed_at=None if quote.observed_at_ms is None else to_rfc3339(quote.observed_at_ms),
        received_at=received,
        staleness_ms=staleness_ms,
    )
    return state, quote.fields
