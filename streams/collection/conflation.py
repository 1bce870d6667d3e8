"""Conflate a stream's events to one interval per market and time step. Pure: times are passed in.

Memory is bounded: a market holds one open interval and at most `MAX_CLOSED` closed ones. When those are not taken in
time, the open interval is extended, so that no event is dropped or queued. An event belongs to the interval in which it
arrived, by event time, because quotes carry no timestamp.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from exchanges.interface import QuoteUpdate, TradeUpdate

MAX_CLOSED = 16  # intervals of one market that were not taken yet
_AHEAD = 2  # intervals between the present and the latest end of an interval


@dataclass(slots=True)
class Interval:
    """A market's events since its previous interval, up to `end_ms` (on the grid).

    quote: the last one, None if none is known. quoted_at_ms: event time of its arrival. n_updates: quotes. volume:
    traded quantity in the base coin. value: traded price × quantity in the quote currency.
    """

    symbol: str
    end_ms: int
    quote: QuoteUpdate | None
    quoted_at_ms: int
    n_updates: int = 0
    n_trades: int = 0
    volume: float = 0.0
    value: float = 0.0


@dataclass(slots=True)
class _Market:
    quote: QuoteUpdate | None = None
    quoted_at_ms: int = 0
    open: Interval | None = None
    closed: list[Interval] = field(default_factory=list)


class Conflation:
    """Conflates all markets. Intervals end at multiples of `interval_ms`, but never at multiples of `polls_ms`.

    A market has one tick per instant, and a poll's instant belongs to the poll: an interval that would end there is
    extended to the next end.
    """

    def __init__(self, symbols: Iterable[str], interval_ms: int, polls_ms: int | None = None) -> None:
        self._interval_ms = interval_ms
        self._polls_ms = polls_ms
        self._markets = {symbol: _Market() for symbol in symbols}
        self._moved: dict[str, None] = {}

    def add(self, event: QuoteUpdate | TradeUpdate, now_ms: int) -> None:
        """Add an event that arrived at `now_ms`."""
        market = self._markets[event.symbol]
        end_ms = self._end(now_ms)
        opened = market.open
        if opened is None or (end_ms > opened.end_ms and not self._is_extended(market, opened)):
            if opened is not None:
                market.closed.append(opened)
            opened = market.open = Interval(event.symbol, end_ms, market.quote, market.quoted_at_ms)
            self._moved[event.symbol] = None
        elif end_ms > opened.end_ms:
            opened.end_ms = end_ms
        if isinstance(event, TradeUpdate):
            opened.n_trades += 1
            opened.volume += event.qty
            opened.value += event.price * event.qty
            return
        opened.n_updates += 1
        # During the handover between two connections an older quote may arrive after a newer one.
        if market.quote is None or event.number > market.quote.number:
            market.quote, market.quoted_at_ms = event, now_ms
        opened.quote, opened.quoted_at_ms = market.quote, market.quoted_at_ms

    def forget_quotes(self, symbols: Iterable[str]) -> None:
        """Discard the quotes of a lost connection: new intervals have no quote until one arrives."""
        for symbol in symbols:
            self._markets[symbol].quote = None

    def take(self, now_ms: int) -> list[Interval]:
        """Remove and return the intervals that ended by `now_ms`, those of one market in order.

        Trades without a known quote wait for the first quote, because a tick needs a price.
        """
        taken: list[Interval] = []
        for symbol in list(self._moved):
            market = self._markets[symbol]
            taken += market.closed
            market.closed = []
            opened = market.open
            if opened is not None and opened.quote is not None and self._is_over(opened, now_ms):
                taken.append(opened)
                opened = market.open = None
            if opened is None:
                del self._moved[symbol]
        return taken

    def rest(self) -> list[Interval]:
        """Remove and return all remaining intervals, ended or not."""
        left: list[Interval] = []
        for symbol in self._moved:
            market = self._markets[symbol]
            left += market.closed if market.open is None else [*market.closed, market.open]
            market.closed, market.open = [], None
        self._moved.clear()
        return left

    def _is_over(self, opened: Interval, now_ms: int) -> bool:
        """Whether an interval has ended, or ends so far ahead that the clock was set back since it was opened."""
        return not now_ms < opened.end_ms <= now_ms + _AHEAD * self._interval_ms

    def _is_extended(self, market: _Market, opened: Interval) -> bool:
        return opened.quote is None or len(market.closed) >= MAX_CLOSED

    def _end(self, now_ms: int) -> int:
        """Return the first interval end at or after a time."""
        end_ms = -(-now_ms // self._interval_ms) * self._interval_ms
        if self._polls_ms is not None and end_ms % self._polls_ms == 0:
            end_ms += self._interval_ms
        return end_ms
