"""What a source is: the interface, what it answers, and what it may ask for.

Pure: it must never do I/O.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from marketdata.errors import InvalidValueError
from marketdata.markets import Market
from marketdata.records import Candle

OK = "ok"
MISSING = "missing"
"""The source answered, but not for this market."""
UNKNOWN_SYMBOL = "unknown_symbol"
"""The source says that it has no such market (any more)."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What one source said of one market: fields of `Tick` by name, and when it was true (ms), None where unknown.

    Numbers are floats, times RFC 3339; a null of the source's stays None.
    """

    fields: Mapping[str, float | str | None]
    observed_at_ms: int | None


@dataclass(frozen=True, slots=True)
class PollResult:
    """The answer to one poll: quotes by symbol, and the kind of error of markets whose part was not valid.

    unknown: symbols that the exchange says it does not have; they are left out of what it is asked. deferred: symbols
    that this poll did not come to: it tells nothing new of them.
    """

    quotes: Mapping[str, Quote]
    invalid: Mapping[str, InvalidValueError] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    deferred: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a source may be asked; None where there is no such limit."""

    weight_per_minute: int | None = None
    calls_per_minute: int | None = None
    calls_per_month: int | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What one poll of all markets asks for."""

    calls: int
    weight: int = 0


class QuoteSource(Protocol):
    """An exchange that can be polled for quotes."""

    name: str
    budget: Budget

    def poll_cost(self, markets: Sequence[Market]) -> Cost:
        """What `poll` asks for."""
        ...

    async def poll(self, markets: Sequence[Market], timeout_s: float) -> PollResult:
        """Ask once for all markets, with as few requests as the exchange allows.

        Raises:
            RetryableSourceError: it may go well later.
            FatalSourceError: it will not go well by trying again.
        """
        ...


class CandleSource(Protocol):
    """An exchange that keeps candles."""

    name: str
    budget: Budget
    candles_cost: Cost
    candles_per_call: int

    async def candles(self, market: Market, start_ms: int, now_ms: int, timeout_s: float) -> list[Candle]:
        """Closed one-minute candles from `start_ms` on, ascending; `candles_per_call` at most, all there are if fewer.

        Raises:
            RetryableSourceError: it may go well later.
            FatalSourceError: it will not go well by trying again.
        """
        ...


class QuoteUpdate(Struct, frozen=True, gc=False):
    """A best quote that a stream told. `number` grows from one to the next of its stream."""

    stream: str
    number: int
    symbol: str
    bid_price: float
    bid_qty: float
    ask_price: float
    ask_qty: float


class TradeUpdate(Struct, frozen=True, gc=False):
    """One trade that a stream told; `price` in the quote currency, `qty` in the base coin."""

    stream: str
    number: int
    symbol: str
    price: float
    qty: float


class ServerShutdown(Struct, frozen=True):
    """The exchange will close this connection soon: another should take over now."""


class SubscriptionAck(Struct, frozen=True):
    """The exchange's answer to the subscription of that number; `refusal` is None where it is accepted."""

    number: int
    refusal: str | None = None


StreamEvent = QuoteUpdate | TradeUpdate | Candle | ServerShutdown | SubscriptionAck


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What one client may do; messages and connects are counted in real time."""

    streams_per_connection: int
    messages_per_s: int
    connects_per_5_min: int


class StreamSource(Protocol):
    """An exchange that tells by itself: quotes, trades and closed one-minute candles over a WebSocket."""

    name: str
    url: str
    limits: StreamLimits

    def streams(self, market: Market) -> Sequence[str]:
        """The streams that tell of a market."""
        ...

    def subscription(self, streams: Sequence[str], number: int) -> str:
        """The message that asks for streams; its answer carries the number."""
        ...

    def parse(self, message: str | bytes) -> StreamEvent | None:
        """What a message tells, None where it is nothing that is kept.

        Raises:
            InvalidValueError: it is not what the exchange documents.
        """
        ...
