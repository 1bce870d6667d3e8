"""Binance spot REST: best bid and ask of all markets in one call, and closed one-minute candles.

Wire formats: /api/v3/ticker/bookTicker (prices as strings, no time; the HTTP Date header says when it was true) and
/api/v3/klines (rows of 12). Weight is counted by the header X-MBX-USED-WEIGHT-1M. One symbol that Binance does not have
(code -1121) makes it refuse a request whole: it is searched for by halves, and left out from then on.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from exchanges.fields import array_of_objects, decimal, index_by, integer
from exchanges.http import JsonClient
from exchanges.interface import Budget, Cost, PollResult, Quote
from marketdata.errors import FatalSourceError, InvalidValueError, RetryableSourceError
from marketdata.markets import Market
from marketdata.records import Candle
from marketdata.times import MINUTE_MS, from_http_date, to_rfc3339

log = logging.getLogger(__name__)

NAME = "binance"
ASK_AGAIN_S = 3600.0
"""Real seconds after which a symbol that was unknown is asked for once more: markets come back."""
CANDLES_PER_CALL = 1000

_BOOK = "/api/v3/ticker/bookTicker"
_KLINES = "/api/v3/klines"
_BOOK_WEIGHT_ONE = 2
_BOOK_WEIGHT_MANY = 4
_KLINES_WEIGHT = 2
_KLINE_FIELDS = 12
_INVALID_SYMBOL = -1121
_MOST_ASKS = 32  # of one poll that searches for unknown symbols, 128 of weight; one among 1,000 takes 21
_MICROSECONDS_FROM = 100_000_000_000_000  # as ms this would be the year 5138


class Binance:
    """Market data without a key."""

    name = NAME
    candles_cost = Cost(calls=1, weight=_KLINES_WEIGHT)
    candles_per_call = CANDLES_PER_CALL

    def __init__(
        self,
        http: JsonClient,
        weight_per_minute: int,
        on_weight: Callable[[int], None] = lambda _weight: None,
        on_unknown: Callable[[str], None] = lambda _symbol: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet.

        Args:
            http: the client.
            weight_per_minute: that Binance allows.
            on_weight: told of the weight used in this minute, as Binance counts it.
            on_unknown: told of each market that Binance says it does not have, once until it is back.
            monotonic: the machine's, but for tests.
        """
        self._http = http
        self._on_weight = on_weight
        self._on_unknown = on_unknown
        self._monotonic = monotonic
        self._unknown: dict[str, float] = {}  # symbol to the monotonic time at which it is asked for again
        self._unsearched: list[list[Market]] = []  # where the search for unknown symbols goes on, the last one first
        self.budget = Budget(weight_per_minute=weight_per_minute)

    def poll_cost(self, markets: Sequence[Market]) -> Cost:
        return Cost(calls=1, weight=_BOOK_WEIGHT_ONE if len(markets) == 1 else _BOOK_WEIGHT_MANY)

    async def poll(self, markets: Sequence[Market], timeout_s: float) -> PollResult:
        """bid_price, bid_qty, ask_price and ask_qty of each market that Binance has.

        While unknown symbols are searched for, markets that this poll did not come to are `deferred`. An error that
        names no time to wait ends the search of this poll and keeps the quotes that it has; the next poll goes on where
        this one ended.
        """
        deadline = self._monotonic() + timeout_s
        quotes: dict[str, Quote] = {}
        invalid: dict[str, InvalidValueError] = {}
        self._unsearched = groups = self._groups(markets)
        for _ask in range(_MOST_ASKS):
            if not groups:
                break
            group = groups[-1]
            try:
                result = await self._books(group, max(deadline - self._monotonic(), 0.001))
            except FatalSourceError as error:
                if error.code != _INVALID_SYMBOL:
                    raise
                groups.pop()
                if len(group) == 1:
                    self._leave_out(group[0])
                else:
                    groups += [group[len(group) // 2 :], group[: len(group) // 2]]
                continue
            except RetryableSourceError as error:
                if not quotes or error.retry_after_s is not None:
                    raise
                log.warning("the search for what %s does not have goes on with the next poll: %s", NAME, error)
                break
            groups.pop()
            quotes |= result.quotes
            invalid |= result.invalid
            for market in group:
                self._is_there(market)
        deferred = frozenset(market.symbol for group in groups for market in group)
        unknown = frozenset(market.symbol for market in markets) & self._unknown.keys()
        return PollResult(quotes, invalid, unknown, deferred)

    def _groups(self, markets: Sequence[Market]) -> list[list[Market]]:
        """What to ask for in one request each, the last one first: all at once, but for what is being searched."""
        asked = {market.symbol: market for market in markets if self._is_asked(market)}
        searched = [[market for market in group if asked.pop(market.symbol, None)] for group in self._unsearched]
        return [group for group in (*searched, [*asked.values()]) if group]

    async def _books(self, markets: Sequence[Market], timeout_s: float) -> PollResult:
        names = ",".join(f'"{market.binance}"' for market in markets)  # an array without spaces, as the API wants it
        payload, headers = await self._get(_BOOK, {"symbols": f"[{names}]"}, timeout_s)
        try:
            rows = index_by(array_of_objects(payload, "bookTicker"), "symbol")
        except InvalidValueError as error:
            raise RetryableSourceError(f"{NAME}: {error}", "bad_payload") from error
        observed_at_ms = from_http_date(headers.get("date"))
        quotes: dict[str, Quote] = {}
        invalid: dict[str, InvalidValueError] = {}
        for market in markets:
            row = rows.get(market.binance)
            if row is None:
                continue
            try:
                quotes[market.symbol] = Quote(
                    {
                        "bid_price": decimal(row.get("bidPrice"), "bidPrice"),
                        "bid_qty": decimal(row.get("bidQty"), "bidQty"),
                        "ask_price": decimal(row.get("askPrice"), "askPrice"),
                        "ask_qty": decimal(row.get("askQty"), "askQty"),
                    },
                    observed_at_ms,
                )
            except InvalidValueError as error:
                invalid[market.symbol] = error
        return PollResult(quotes, invalid)

    async def candles(self, market: Market, start_ms: int, now_ms: int, timeout_s: float) -> list[Candle]:
        """The oldest 1,000 closed candles from `start_ms` on; minutes in which nothing traded can be absent.

        A candle is closed when the exchange's own clock (the Date header) says so: ours may be ahead of it. A market
        that Binance does not have has none.
        """
        if not self._is_asked(market):
            return []
        params = {
            "symbol": market.binance,
            "interval": "1m",
            "startTime": str(start_ms),
            "limit": str(CANDLES_PER_CALL),
        }
        try:
            payload, headers = await self._get(_KLINES, params, timeout_s)
        except FatalSourceError as error:
            if error.code != _INVALID_SYMBOL:
                raise
            self._leave_out(market)
            return []
        self._is_there(market)
        date_ms = from_http_date(headers.get("date"))
        as_of_ms = now_ms if date_ms is None else min(now_ms, date_ms)
        try:
            return closed_candles(market.symbol, payload, as_of_ms)
        except InvalidValueError as error:
            raise RetryableSourceError(f"{NAME}: klines {market.binance}: {error}", "bad_payload") from error

    def _is_asked(self, market: Market) -> bool:
        until = self._unknown.get(market.symbol)
        return until is None or until <= self._monotonic()

    def _leave_out(self, market: Market) -> None:
        if market.symbol not in self._unknown:
            self._on_unknown(market.symbol)
            log.error(
                "%s has no %s: %s is left out of what it is asked, and asked for again every %g s",
                NAME,
                market.binance,
                market.symbol,
                ASK_AGAIN_S,
            )
        self._unknown[market.symbol] = self._monotonic() + ASK_AGAIN_S

    def _is_there(self, market: Market) -> None:
        if self._unknown.pop(market.symbol, None) is not None:
            log.info("%s has %s again", NAME, market.binance)

    async def _get(self, path: str, params: dict[str, str], timeout_s: float) -> tuple[Any, httpx.Headers]:
        payload, headers = await self._http.get(path, params, timeout_s)
        used = headers.get("x-mbx-used-weight-1m", "")
        if used.isdecimal():
            self._on_weight(int(used))
        return payload, headers


def closed_candles(symbol: str, payload: Any, now_ms: int) -> list[Candle]:
    """The rows of a klines answer whose minute is over.

    Raises:
        InvalidValueError: the payload is not what Binance documents.
    """
    if not isinstance(payload, list):
        raise InvalidValueError("klines", payload, "an array of arrays")
    candles = []
    for row in payload:
        if not isinstance(row, list) or len(row) != _KLINE_FIELDS:
            raise InvalidValueError("kline", row, f"an array of {_KLINE_FIELDS}")
        open_ms, close_ms = _ms(row[0], "openTime"), _ms(row[6], "closeTime")
        if open_ms % MINUTE_MS or close_ms != open_ms + MINUTE_MS - 1:
            raise InvalidValueError("openTime", row[0], "a whole minute whose closeTime is its last ms")
        if close_ms >= now_ms:
            continue
        candles.append(
            Candle(
                symbol=symbol,
                open_time=to_rfc3339(open_ms),
                open=decimal(row[1], "open"),
                high=decimal(row[2], "high"),
                low=decimal(row[3], "low"),
                close=decimal(row[4], "close"),
                volume=decimal(row[5], "volume"),
                quote_volume=decimal(row[7], "quoteVolume"),
                n_trades=integer(row[8], "trades"),
                taker_buy_volume=decimal(row[9], "takerBuyBase"),
                taker_buy_quote_volume=decimal(row[10], "takerBuyQuote"),
            )
        )
    return candles


def _ms(value: Any, field: str) -> int:
    return milliseconds(integer(value, field))


def milliseconds(time: int) -> int:
    """A time of Binance's, in ms or µs, in ms."""
    return time // 1000 if time >= _MICROSECONDS_FROM else time
