"""What a stream tells of each market, conflated to at most one interval's worth a market and interval.

Bounded by design: a market holds one open interval and a few that wait to be taken; when those are not taken in time,
the open one goes on and stands for longer, so that nothing is dropped and nothing queues. An event belongs to the
interval in which it came, by the exchange's clock: quotes carry no time of their own. Pure: times are handed in.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from exchanges.interface import QuoteUpdate, TradeUpdate

MOST_CLOSED = 16  # intervals of one market that wait to be taken


@dataclass(slots=True)
class Interval:
    """A market's events up to `end_ms` (on the grid) since its interval before.

    quote: the last one known then, None where none is known. quoted_at_ms: when it came. `volume` in the base coin,
    `value` (price × quantity) in the quote currency.
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
    """All markets. Ends of intervals are multiples of `interval_ms`, but never of `polls_ms`.

    A poll's instant belongs to the poll's tick, for a market and an instant make one tick: an interval that would end
    there goes on to the next end.
    """

    def __init__(self, symbols: Iterable[str], interval_ms: int, polls_ms: int | None = None) -> None:
        self._interval_ms = interval_ms
        self._polls_ms = polls_ms
        self._markets = {symbol: _Market() for symbol in symbols}
        self._moved: dict[str, None] = {}

    def add(self, event: QuoteUpdate | TradeUpdate, now_ms: int) -> None:
        """Take in an event that came at `now_ms`."""
        market = self._markets[event.symbol]
        end_ms = self._end(now_ms)
        opened = market.open
        if opened is None or (end_ms > opened.end_ms and not self._goes_on(market, opened)):
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
        # While one connection takes over from another, an older quote may come after a newer one.
        if market.quote is None or event.number > market.quote.number:
            market.quote, market.quoted_at_ms = event, now_ms
        opened.quote, opened.quoted_at_ms = market.quote, market.quoted_at_ms

    def forget_quotes(self, symbols: Iterable[str]) -> None:
        """Their connection is lost: what comes next stands without a quote until there is a fresh one."""
        for symbol in symbols:
            self._markets[symbol].quote = None

    def take(self, now_ms: int) -> list[Interval]:
        """The intervals that have ended by `now_ms`, those of one market in order.

        Trades that no quote is known for wait for the first quote: a tick without a price is of no use.
        """
        taken: list[Interval] = []
        for symbol in list(self._moved):
            market = self._markets[symbol]
            taken += market.closed
            market.closed = []
            opened = market.open
            if opened is not None and opened.end_ms <= now_ms and opened.quote is not None:
                taken.append(opened)
                opened = market.open = None
            if opened is None:
                del self._moved[symbol]
        return taken

    def rest(self) -> list[Interval]:
        """All that was not taken, whether it has ended or not; nothing is left."""
        left: list[Interval] = []
        for symbol in self._moved:
            market = self._markets[symbol]
            left += market.closed if market.open is None else [*market.closed, market.open]
            market.closed, market.open = [], None
        self._moved.clear()
        return left

    def _goes_on(self, market: _Market, opened: Interval) -> bool:
        return opened.quote is None or len(market.closed) >= MOST_CLOSED

    def _end(self, now_ms: int) -> int:
        """The first end at or after a time."""
        end_ms = -(-now_ms // self._interval_ms) * self._interval_ms
        if self._polls_ms is not None and end_ms % self._polls_ms == 0:
            end_ms += self._interval_ms
        return end_ms
