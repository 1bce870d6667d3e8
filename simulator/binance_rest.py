"""Binance's spot REST API, public market data (https://developers.binance.com, Spot API).

Prices and quantities are JSON strings. Times are ms, or µs if the header X-MBX-TIME-UNIT requests it.
"""

import numpy as np
from aiohttp import web

from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS
from simulator import derive
from simulator.binance_wire import (
    BinanceError,
    answer,
    decimal,
    integer,
    listed_symbols,
    missing,
    requested_symbols,
    time_of,
    unit_of,
)
from simulator.candles import Candles
from simulator.faults import Fault
from simulator.listing import Listed
from simulator.market import DayStats
from simulator.state import STATE, ExchangeState, as_of_ms, json_bytes

INTERVALS_MS = {
    "1m": MINUTE_MS,
    "3m": 3 * MINUTE_MS,
    "5m": 5 * MINUTE_MS,
    "15m": 15 * MINUTE_MS,
    "30m": 30 * MINUTE_MS,
    "1h": HOUR_MS,
    "2h": 2 * HOUR_MS,
    "4h": 4 * HOUR_MS,
    "6h": 6 * HOUR_MS,
    "8h": 8 * HOUR_MS,
    "12h": 12 * HOUR_MS,
    "1d": DAY_MS,
    "3d": 3 * DAY_MS,
    "1w": 7 * DAY_MS,
}
WEEK_ORIGIN_MS = 4 * DAY_MS  # weeks start on Monday; the epoch was a Thursday
DEFAULT_ROWS, MAX_ROWS = 500, 1000
MINI_FIELDS = (
    *("symbol", "openPrice", "highPrice", "lowPrice", "lastPrice", "volume", "quoteVolume"),
    *("openTime", "closeTime", "firstId", "lastId", "count"),
)

_ROW = '[%d,"%.8f","%.8f","%.8f","%.8f","%s",%d,"%s",%d,"%s","%s","0"]'


def apply_quote_fault(quote: derive.Quote, fault: Fault | None) -> derive.Quote:
    """Apply a fault to a quote: crossed or zero."""
    if fault is None:
        return quote
    if fault.name == "zero":
        return derive.Quote(0.0, 0.0, 0.0, 0.0)
    return derive.Quote(quote.ask_price, quote.bid_qty, quote.bid_price, quote.ask_qty)


NO_QUOTE = derive.Quote(0.0, 0.0, 0.0, 0.0)
"""Binance's quote of a symbol that does not trade."""


def _book(symbol: str, quote: derive.Quote) -> dict[str, str]:
    return {
        "symbol": symbol,
        "bidPrice": decimal(quote.bid_price),
        "bidQty": decimal(quote.bid_qty),
        "askPrice": decimal(quote.ask_price),
        "askQty": decimal(quote.ask_qty),
    }


def _day(
    state: ExchangeState, symbol: str, stats: DayStats | None, quote: derive.Quote, now_ms: int
) -> dict[str, object]:
    if stats is None:
        stats = DayStats(now_ms, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0)
    first_id = (now_ms - DAY_MS) // MINUTE_MS * derive.TRADE_ID_STEP
    mean = stats.quote_volume / stats.volume if stats.volume else 0.0
    trades = state.market.trades(symbol, stats.start_ms)
    return {
        "symbol": symbol,
        "priceChange": f"{stats.change:.8f}",
        "priceChangePercent": f"{stats.change_percent if stats.open else 0.0:.3f}",
        "weightedAvgPrice": decimal(mean),
        "prevClosePrice": decimal(stats.previous_close),
        "lastPrice": decimal(stats.last_price),
        "lastQty": decimal(float(trades.qty[0]) if trades is not None and len(trades.qty) else 0.0),
        "bidPrice": decimal(quote.bid_price),
        "bidQty": decimal(quote.bid_qty),
        "askPrice": decimal(quote.ask_price),
        "askQty": decimal(quote.ask_qty),
        "openPrice": decimal(stats.open),
        "highPrice": decimal(stats.high),
        "lowPrice": decimal(stats.low),
        "volume": decimal(stats.volume),
        "quoteVolume": decimal(stats.quote_volume),
        "openTime": now_ms - DAY_MS,
        "closeTime": now_ms,
        "firstId": first_id if stats.count else -1,
        "lastId": now_ms // MINUTE_MS * derive.TRADE_ID_STEP if stats.count else -1,
        "count": stats.count,
    }


async def ping(_: web.Request) -> web.Response:
    """GET /api/v3/ping."""
    return answer(b"{}")


async def server_time(request: web.Request) -> web.Response:
    """GET /api/v3/time."""
    return answer(json_bytes({"serverTime": as_of_ms(request) * unit_of(request)}))


async def book_ticker(request: web.Request) -> web.Response:
    """GET /api/v3/ticker/bookTicker."""
    state = request.app[STATE]
    requested = requested_symbols(request.query, listed_symbols(state, request.path_qs))
    fault = state.faults.take(request.path_qs, "crossed", "zero")
    suspended = _suspended(state, request.path_qs)
    now_ms = as_of_ms(request)
    quotes = {one: None if one in suspended else state.market.quote(one, now_ms) for one in requested.symbols}
    books = [_book(one, apply_quote_fault(quote or NO_QUOTE, fault)) for one, quote in quotes.items()]
    return answer(json_bytes(books[0] if requested.one else books))


async def ticker_day(request: web.Request) -> web.Response:
    """GET /api/v3/ticker/24hr; `type=MINI` omits quotes and changes."""
    state = request.app[STATE]
    requested = requested_symbols(request.query, listed_symbols(state, request.path_qs))
    fault = state.faults.take(request.path_qs, "crossed", "zero")
    now_ms = as_of_ms(request)
    unit = unit_of(request)
    days = []
    for symbol in requested.symbols:
        quote = apply_quote_fault(state.market.quote(symbol, now_ms) or NO_QUOTE, fault)
        day = _day(state, symbol, state.market.stats(symbol, now_ms), quote, now_ms)
        day["openTime"], day["closeTime"] = (now_ms - DAY_MS) * unit, now_ms * unit
        if request.query.get("type") == "MINI":
            day = {name: day[name] for name in MINI_FIELDS}
        days.append(day)
    return answer(json_bytes(days[0] if requested.one else days))


async def ticker_price(request: web.Request) -> web.Response:
    """GET /api/v3/ticker/price: the first price of the running minute."""
    state = request.app[STATE]
    requested = requested_symbols(request.query, listed_symbols(state, request.path_qs))
    now_ms = as_of_ms(request)
    prices = []
    for symbol in requested.symbols:
        stats = state.market.stats(symbol, now_ms)
        prices.append({"symbol": symbol, "price": decimal(stats.last_price if stats else 0.0)})
    return answer(json_bytes(prices[0] if requested.one else prices))


async def average_price(request: web.Request) -> web.Response:
    """GET /api/v3/avgPrice: the volume-weighted average price of the last 5 closed minutes."""
    state = request.app[STATE]
    symbol = requested_symbols(request.query, listed_symbols(state, request.path_qs), needed=True).symbols[0]
    now_ms = as_of_ms(request)
    minute_ms = now_ms - now_ms % MINUTE_MS
    last = state.history.minutes(symbol, minute_ms - 5 * MINUTE_MS, minute_ms)
    volume = float(last.volume.sum())
    stats = state.market.stats(symbol, now_ms)
    price = float(last.quote_volume.sum()) / volume if volume else stats.last_price if stats else 0.0
    return answer(json_bytes({"mins": 5, "price": decimal(price), "closeTime": minute_ms * unit_of(request)}))


def _kline_rows(state: ExchangeState, symbol: str, candles: Candles, step_ms: int, unit: int) -> bytes:
    """Format the rows as JSON directly: encoding 1,000 rows of 12 columns is most of the server's work."""
    close_ms = (candles.time_ms + step_ms) * unit - 1
    if step_ms == MINUTE_MS:
        counts = derive.trade_counts(state.seed, symbol, candles)
    else:
        counts = np.where(candles.volume > 0, (derive.MIN_TRADES + derive.TRADES_SPREAD // 2) * step_ms // MINUTE_MS, 0)
    taker = derive.taker_buy_volumes(state.seed, symbol, candles)
    mean = np.divide(candles.quote_volume, candles.volume, out=np.zeros(len(candles)), where=candles.volume > 0)
    columns = (
        (candles.time_ms * unit).tolist(),
        *(prices.tolist() for prices in candles.prices()),
        map(decimal, candles.volume.tolist()),
        close_ms.tolist(),
        map(decimal, candles.quote_volume.tolist()),
        counts.tolist(),
        map(decimal, taker.tolist()),
        map(decimal, (taker * mean).tolist()),
    )
    return f"[{','.join(_ROW % row for row in zip(*columns, strict=True))}]".encode()


def _drop_missing(candles: Candles, fault: Fault | None) -> Candles:
    if fault is None:
        return candles
    if "from_ms" in fault.params or "to_ms" in fault.params:
        gone = (candles.time_ms >= fault.number_of("from_ms", 0)) & (candles.time_ms < fault.number_of("to_ms", 1e15))
        return candles[~gone]
    return candles[np.arange(len(candles)) % 3 != 1]


async def klines(request: web.Request) -> web.Response:
    """GET /api/v3/klines: the oldest rows from startTime, otherwise the newest; the last may be unfinished."""
    state = request.app[STATE]
    symbol = requested_symbols(request.query, listed_symbols(state, request.path_qs), needed=True).symbols[0]
    interval = request.query.get("interval")
    if not interval:
        raise missing("interval")
    step_ms = INTERVALS_MS.get(interval)
    if step_ms is None:
        raise BinanceError(-1120, "Invalid interval.")
    limit = integer(request, "limit")
    if limit == 0:
        raise BinanceError(-1130, "Data sent for parameter 'limit' is not valid.")
    now_ms = as_of_ms(request)
    candles = state.market.klines(
        symbol,
        step_ms,
        now_ms,
        limit=min(limit or DEFAULT_ROWS, MAX_ROWS),
        start_ms=time_of(request, "startTime"),
        end_ms=time_of(request, "endTime"),
        origin_ms=WEEK_ORIGIN_MS if interval == "1w" else 0,
    )
    candles = _drop_missing(candles, state.faults.take(request.path_qs, "missing_candles"))
    return answer(_kline_rows(state, symbol, candles, step_ms, unit_of(request)))


def _suspended(state: ExchangeState, target: str) -> list[str]:
    """Symbols that the fault `suspended` names."""
    fault = state.faults.take(target, "suspended")
    return [] if fault is None else fault.names_of("symbols", ())


def _symbol_info(pair: Listed, status: str) -> dict[str, object]:
    filters = [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": "0.00000001",
            "maxPrice": "1000000000.00000000",
            "tickSize": "0.00000001",
        },
        {"filterType": "LOT_SIZE", "minQty": "0.00001000", "maxQty": "92000000.00000000", "stepSize": "0.00001000"},
        {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True, "avgPriceMins": 5},
    ]
    return {
        "symbol": pair.symbol,
        "status": status,
        "baseAsset": pair.base,
        "baseAssetPrecision": 8,
        "quoteAsset": pair.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": filters,
        "permissions": ["SPOT"],
    }


async def exchange_info(request: web.Request) -> web.Response:
    """GET /api/v3/exchangeInfo."""
    state = request.app[STATE]
    if "showPermissionSets" in request.query and not state.history.host.knows_permission_sets:
        raise BinanceError(-1101, "Too many parameters; expected '0' and received '1'.")
    requested = requested_symbols(request.query, listed_symbols(state, request.path_qs))
    suspended = _suspended(state, request.path_qs)
    pairs = [state.history.pairs[symbol] for symbol in requested.symbols]
    limits = [
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": state.limiter.limit},
        {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61000},
    ]
    return answer(
        json_bytes(
            {
                "timezone": "UTC",
                "serverTime": as_of_ms(request) * unit_of(request),
                "rateLimits": limits,
                "exchangeFilters": [],
                "symbols": [_symbol_info(one, "BREAK" if one.symbol in suspended else "TRADING") for one in pairs],
            }
        )
    )


def routes(prefix: str) -> list[web.RouteDef]:
    """Return the routes under a prefix such as /binance."""
    base = f"{prefix}/api/v3"
    return [
        web.get(f"{base}/ping", ping),
        web.get(f"{base}/time", server_time),
        web.get(f"{base}/exchangeInfo", exchange_info),
        web.get(f"{base}/ticker/bookTicker", book_ticker),
        web.get(f"{base}/ticker/24hr", ticker_day),
        web.get(f"{base}/ticker/price", ticker_price),
        web.get(f"{base}/avgPrice", average_price),
        web.get(f"{base}/klines", klines),
        web.get(f"{base}/uiKlines", klines),
    ]
