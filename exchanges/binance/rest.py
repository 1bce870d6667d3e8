"""Binance spot REST: best bid and ask of all markets in one call, and closed one-minute candles.

Quotes come from /api/v3/ticker/bookTicker: prices are strings, and the HTTP Date header is the time of the quote.
Markets that do not fit into one URL need several calls. Binance refuses a whole request when one symbol does not exist
(code -1121). `poll` then searches for that symbol by halves and leaves it out of later requests.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from exchanges.binance import endpoints
from exchanges.binance.endpoints import NAME
from exchanges.binance.klines import as_of_ms, closed_minute_candles, klines_query
from exchanges.binance.resolver import SymbolResolver
from exchanges.binance.symbols import Symbols
from exchanges.fields import array_of_objects, decimal, index_by
from exchanges.grouping import split_by_size
from exchanges.http import JsonClient
from exchanges.interface import Budget, Cost, OnRefused, PollResult, Quote
from marketdata.errors import FatalSourceError, InvalidValueError, RetryableSourceError
from marketdata.markets import Market
from marketdata.records import Candle
from marketdata.times import from_http_date
from marketdata.vocabulary import SourceStatus

log = logging.getLogger(__name__)

RECHECK_UNKNOWN_S = 3600.0
"""Real seconds after which an unknown symbol is requested again: markets come back."""

_MAX_REQUESTS = 32  # of one poll that searches for unknown symbols: 128 of weight; one in 1,000 symbols takes 21


class Binance:
    """Market data without a key."""

    name = NAME
    candles_cost = Cost(calls=1, weight=endpoints.KLINES_WEIGHT)
    candles_per_call = endpoints.KLINES_PER_REQUEST

    def __init__(
        self,
        http: JsonClient,
        weight_per_minute: int,
        on_unknown: Callable[[str], None] = lambda _symbol: None,
        monotonic: Callable[[], float] = time.monotonic,
        resolver: SymbolResolver | None = None,
    ) -> None:
        """Send no request.

        Args:
            http: client of the REST API.
            weight_per_minute: limit of request weight; a lower one of the exchange replaces it.
            on_unknown: called with each market that Binance does not have, once until the market is back.
            monotonic: real seconds.
            resolver: of the exchange's symbols; None to concatenate base and quote.
        """
        self._http = http
        self._on_unknown = on_unknown
        self._monotonic = monotonic
        self._unknown: dict[str, float] = {}  # symbol to the monotonic time of the next request for it
        self._pending: list[list[Market]] = []  # groups left of the search for unknown symbols, last one first
        self._weight_per_minute = weight_per_minute
        self._resolver = resolver
        self._symbols = Symbols(()) if resolver is None else resolver.symbols

    @property
    def budget(self) -> Budget:
        """The lower limit of the settings and the exchange."""
        own = self._symbols.weight_per_minute
        return Budget(weight_per_minute=self._weight_per_minute if own is None else min(own, self._weight_per_minute))

    def poll_cost(self, markets: Sequence[Market]) -> Cost:
        one, many = endpoints.BOOK_TICKER_WEIGHT_ONE, endpoints.BOOK_TICKER_WEIGHT_MANY
        groups = self._split(markets)
        return Cost(calls=len(groups), weight=sum(one if len(group) == 1 else many for group in groups))

    async def poll(self, markets: Sequence[Market], timeout_s: float) -> PollResult:
        """bid_price, bid_qty, ask_price and ask_qty of each market that Binance has.

        Markets that this poll did not reach are `deferred`: a search for unknown symbols is limited, and a retryable
        error without `retry_after_s` ends the poll and keeps its quotes. The next poll continues with these markets.
        """
        deadline = self._monotonic() + timeout_s
        if self._resolver is not None:
            await self._resolver.ensure(timeout_s)
        quotes: dict[str, Quote] = {}
        invalid: dict[str, InvalidValueError] = {}
        absent: dict[str, SourceStatus] = {}
        self._pending = groups = self._groups(markets)
        failed = SourceStatus.MISSING
        for _request in range(len(self._split(markets)) - 1 + _MAX_REQUESTS):
            if not groups:
                break
            group = groups[-1]
            try:
                result = await self._book_ticker(group, max(deadline - self._monotonic(), 0.001))
            except FatalSourceError as error:
                if error.code != endpoints.INVALID_SYMBOL:
                    raise
                groups.pop()
                if len(group) == 1:
                    self._mark_unknown(group[0])
                else:
                    groups += [group[len(group) // 2 :], group[: len(group) // 2]]
                continue
            except RetryableSourceError as error:
                if not quotes or error.retry_after_s is not None:
                    raise
                log.warning("%s: the next poll continues with %d requests left: %s", NAME, len(groups), error)
                failed = SourceStatus(error.kind)
                break
            groups.pop()
            quotes |= result.quotes
            invalid |= result.invalid
            absent |= result.absent
            for market in group:
                self._mark_known(market)
        deferred = frozenset(market.symbol for group in groups for market in group)
        unknown = frozenset(market.symbol for market in markets if self._is_unknown(market))
        return PollResult(quotes, invalid, unknown, deferred, failed, absent)

    def _groups(self, markets: Sequence[Market]) -> list[list[Market]]:
        """One group of markets for each request, last one first; a pending search keeps its groups."""
        rest = {market.symbol: market for market in markets if self._is_requested(market)}
        pending = [[market for market in group if rest.pop(market.symbol, None)] for group in self._pending]
        return [*(group for group in pending if group), *reversed(self._split([*rest.values()]))]

    def _split(self, markets: Sequence[Market]) -> list[list[Market]]:
        """Markets by request: the URL is limited."""
        room = self._http.room(endpoints.BOOK_TICKER, _names([]))
        return split_by_size(markets, lambda market: _name_bytes(self._symbols.name(market)), room, len(markets))

    async def _book_ticker(self, markets: Sequence[Market], timeout_s: float) -> PollResult:
        names = [self._symbols.name(market) for market in markets]
        payload, headers = await self._http.get(endpoints.BOOK_TICKER, _names(names), timeout_s)
        try:
            rows = index_by(array_of_objects(payload, "bookTicker"), "symbol")
        except InvalidValueError as error:
            raise RetryableSourceError(f"{NAME}: {error}", SourceStatus.BAD_PAYLOAD) from error
        observed_at_ms = from_http_date(headers.get("date"))
        quotes: dict[str, Quote] = {}
        invalid: dict[str, InvalidValueError] = {}
        absent: dict[str, SourceStatus] = {}
        for market, name in zip(markets, names, strict=True):
            row = rows.get(name)
            try:
                fields = None if row is None else _book_fields(row)
            except InvalidValueError as error:
                invalid[market.symbol] = error
                continue
            if self._symbols.is_suspended(market) and (fields is None or not any(fields.values())):
                absent[market.symbol] = SourceStatus.NOT_TRADING
            elif fields is not None:
                quotes[market.symbol] = Quote(fields, observed_at_ms)
        return PollResult(quotes, invalid, absent=absent)

    async def candles(
        self, market: Market, start_ms: int, now_ms: int, timeout_s: float, on_refused: OnRefused | None = None
    ) -> list[Candle]:
        """The oldest 1,000 closed candles from `start_ms` on; minutes without a trade may be absent.

        Rows that are not valid are left out and passed to `on_refused`; without it, they are an error. The list is
        empty for a market that Binance does not have.
        """
        if self._resolver is not None:
            await self._resolver.ensure(timeout_s)
        if not self._is_requested(market):
            return []
        name = self._symbols.name(market)
        query = klines_query(name, "1m", start_ms)
        try:
            payload, headers = await self._http.get(endpoints.KLINES, query, timeout_s)
        except FatalSourceError as error:
            if error.code != endpoints.INVALID_SYMBOL:
                raise
            self._mark_unknown(market)
            return []
        self._mark_known(market)
        try:
            return closed_minute_candles(market.symbol, payload, as_of_ms(now_ms, headers), on_refused)
        except InvalidValueError as error:
            raise RetryableSourceError(f"{NAME}: {name} 1m: {error}", SourceStatus.BAD_PAYLOAD) from error

    def _is_unknown(self, market: Market) -> bool:
        return market.symbol in self._unknown or not self._symbols.is_listed(market)

    def _is_requested(self, market: Market) -> bool:
        if not self._symbols.is_listed(market):
            return False
        recheck_at = self._unknown.get(market.symbol)
        return recheck_at is None or recheck_at <= self._monotonic()

    def _mark_unknown(self, market: Market) -> None:
        if market.symbol not in self._unknown:
            self._on_unknown(market.symbol)
            log.error(
                "%s has no %s: %s is left out of requests and rechecked every %g s",
                NAME,
                self._symbols.name(market),
                market.symbol,
                RECHECK_UNKNOWN_S,
            )
        self._unknown[market.symbol] = self._monotonic() + RECHECK_UNKNOWN_S

    def _mark_known(self, market: Market) -> None:
        if self._unknown.pop(market.symbol, None) is not None:
            log.info("%s has %s again", NAME, self._symbols.name(market))


def _names(names: Sequence[str]) -> dict[str, str]:
    quoted = ",".join(f'"{name}"' for name in names)  # the API wants an array without spaces
    return {"symbols": f"[{quoted}]"}


def _name_bytes(name: str) -> int:
    return len(quote(f'"{name}",', safe=""))


def _book_fields(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        "bid_price": decimal(row.get("bidPrice"), "bidPrice"),
        "bid_qty": decimal(row.get("bidQty"), "bidQty"),
        "ask_price": decimal(row.get("askPrice"), "askPrice"),
        "ask_qty": decimal(row.get("askQty"), "askQty"),
    }
