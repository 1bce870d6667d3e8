"""Interface of the sources: protocols, the messages they return, and the limits they have. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec import Struct

from marketdata.errors import InvalidValueError
from marketdata.markets import Market
from marketdata.records import Candle
from marketdata.vocabulary import SourceStatus


@dataclass(frozen=True, slots=True)
class Quote:
    """Data of one source about one market.

    fields: of `Tick`, by name; numbers are floats, times RFC 3339, a null of the source is None.
    observed_at_ms: time of the data at the source; None when unknown.
    """

    fields: Mapping[str, float | str | None]
    observed_at_ms: int | None


@dataclass(frozen=True, slots=True)
class PollResult:
    """Result of one poll.

    quotes: by symbol; a market that the source returned no data for is absent.
    invalid: errors of markets whose data was not valid, by symbol.
    unknown: symbols that the source does not have; later polls do not request them.
    deferred: symbols that this poll did not reach; a later poll requests them. deferred_status: their status, the kind
    of an error that ended the poll or `missing`.
    absent: why the source has no quote of a market, by symbol, where it is another reason.
    """

    quotes: Mapping[str, Quote]
    invalid: Mapping[str, InvalidValueError] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    deferred: frozenset[str] = frozenset()
    deferred_status: SourceStatus = SourceStatus.MISSING
    absent: Mapping[str, SourceStatus] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a source; None for no limit."""

    weight_per_minute: int | None = None
    calls_per_minute: int | None = None
    calls_per_month: int | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Requests of one poll of all markets, and their weight."""

    calls: int
    weight: int = 0


class QuoteSource(Protocol):
    """An exchange that can be polled for quotes."""

    name: str

    @property
    def budget(self) -> Budget:
        """Limits of the source."""
        ...

    def poll_cost(self, markets: Sequence[Market]) -> Cost:
        """Cost of one `poll`."""
        ...

    async def poll(self, markets: Sequence[Market], timeout_s: float) -> PollResult:
        """Request the quotes of all markets once, with as few requests as the exchange allows.

        Raises:
            RetryableSourceError: a retry may succeed.
            FatalSourceError: the source refuses; it is requested again after a pause.
        """
        ...


OnRefused = Callable[[Any, InvalidValueError], None]
"""Called with a row of a response that is not valid, as decoded JSON, and its error; the row is left out."""


class CandleSource(Protocol):
    """An exchange that stores candles."""

    name: str
    candles_cost: Cost
    candles_per_call: int

    @property
    def budget(self) -> Budget:
        """Limits of the source."""
        ...

    async def candles(
        self, market: Market, start_ms: int, now_ms: int, timeout_s: float, on_refused: OnRefused
    ) -> list[Candle]:
        """The oldest closed one-minute candles from `start_ms` on, ascending, at most `candles_per_call`.

        Rows that are not valid are left out and passed to `on_refused`.

        Raises:
            RetryableSourceError: a retry may succeed.
            FatalSourceError: the source refuses; it is requested again after a pause.
        """
        ...


class QuoteUpdate(Struct, frozen=True, gc=False):
    """Best bid and ask from a stream; `number` increases within the stream."""

    stream: str
    number: int
    symbol: str
    bid_price: float
    bid_qty: float
    ask_price: float
    ask_qty: float


class TradeUpdate(Struct, frozen=True, gc=False):
    """One trade from a stream; `price` in the quote currency, `qty` in the base coin; `number` increases."""

    stream: str
    number: int
    symbol: str
    price: float
    qty: float


class ServerShutdown(Struct, frozen=True):
    """Announcement that the exchange will close this connection soon; another one should take over."""


class SubscriptionAck(Struct, frozen=True):
    """Acknowledgement of the subscription `number`; `refusal` is None when it is accepted."""

    number: int
    refusal: str | None = None


StreamEvent = QuoteUpdate | TradeUpdate | Candle | ServerShutdown | SubscriptionAck


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Limits of one client; messages and connects are counted in real time."""

    streams_per_connection: int
    messages_per_s: int
    connects_per_5_min: int


class StreamSource(Protocol):
    """An exchange that pushes quotes, trades and closed one-minute candles over a WebSocket."""

    name: str
    url: str
    limits: StreamLimits

    @property
    def version(self) -> int:
        """A number that changes when the streams of a market get other names."""
        ...

    def streams(self, market: Market) -> Sequence[str]:
        """Names of the streams of a market; none if the exchange does not list it."""
        ...

    def subscription(self, streams: Sequence[str], number: int) -> str:
        """The message that subscribes to streams; its acknowledgement has the same number."""
        ...

    def parse(self, message: str | bytes) -> StreamEvent | None:
        """The event of a message; None for a message without one.

        Raises:
            InvalidValueError: the message does not have a documented format.
        """
        ...
