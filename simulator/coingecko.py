"""CoinGecko's REST API, version 3 (https://docs.coingecko.com): markets, charts, candles, simple prices."""

from dataclasses import dataclass

import numpy as np
from aiohttp import web

from marketdata.markets import COINGECKO_IDS, DOLLAR_TOKENS, QUOTES
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, floor_to, to_rfc3339
from simulator import derive
from simulator.candles import Candles
from simulator.faults import Fault
from simulator.state import STATE, ExchangeState, as_of_ms, json_bytes

NAMES = {"BTC": "Bitcoin", "ETH": "Ethereum", "XRP": "XRP"}
MAX_SUPPLY = {"BTC": 21_000_000.0, "XRP": 100_000_000_000.0}
DOLLARS = ("USDT", "USD")
"""Quotes of the pairs whose prices are those in `usd`, in order of preference."""
DEFAULT_PAGE, MAX_PAGE = 100, 250
FINE_DAYS, HOURLY_DAYS = 1, 90
CANDLES_FINE_DAYS, CANDLES_MIDDLE_DAYS = 2, 30


@dataclass(frozen=True, slots=True)
class Coin:
    """A coin: its base asset on Binance and its CoinGecko id."""

    base: str
    coin_id: str

    @property
    def supply(self) -> float:
        """Return the number of coins in circulation."""
        return derive.CIRCULATING_SUPPLY.get(self.base, derive.DEFAULT_SUPPLY)


class CoinGeckoError(Exception):
    """An error response {"error": text}."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def answer(value: object, status: int = 200) -> web.Response:
    """Return a JSON response with CoinGecko's content type."""
    headers = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "max-age=30, public"}
    return web.Response(body=json_bytes(value), status=status, headers=headers)


def coins(state: ExchangeState) -> list[Coin]:
    """Return the coins of all listed pairs."""
    bases = dict.fromkeys(pair.base for pair in state.history.pairs.values())
    return [Coin(base, state.coin_ids.get(base) or COINGECKO_IDS.get(base, base.lower())) for base in bases]


def _symbol(state: ExchangeState, coin: Coin, currency: str) -> str | None:
    """Return the symbol of a coin's pair with a currency; None if it is not listed."""
    for quote in DOLLARS if currency == "usd" else (currency.upper(),):
        pair = state.history.pairs.get(coin.base + quote)
        if pair is not None and pair.base == coin.base:
            return pair.symbol
    return None


def _listed(state: ExchangeState, coin: Coin, currency: str) -> str:
    symbol = _symbol(state, coin, currency)
    if symbol is None:
        raise CoinGeckoError(400, "invalid vs_currency")
    return symbol


def _currency(request: web.Request) -> str:
    currency = request.query.get("vs_currency")
    if not currency:
        raise CoinGeckoError(422, "Missing parameter vs_currency")
    if currency.upper() not in QUOTES or currency.upper() in DOLLAR_TOKENS:
        raise CoinGeckoError(400, "invalid vs_currency")
    return currency.lower()


def _now_ms(request: web.Request) -> int:
    """Return exchange time, or the time of the fault `frozen`."""
    state = request.app[STATE]
    frozen = state.faults.take(request.path_qs, "frozen")
    now_ms = as_of_ms(request)
    return now_ms if frozen is None else int(frozen.number_of("at_ms", now_ms))


def market_row(state: ExchangeState, coin: Coin, currency: str, now_ms: int) -> dict[str, object] | None:
    """Return a coin's row of /coins/markets as of its last update; None if it had no price then, or no pair.

    All values are from the minute of the update: the price is close to the mid of the quote, the statistics cover the
    1,440 minutes before. The volume is that of the exchange's only market of the coin in this currency.
    """
    symbol = _symbol(state, coin, currency)
    if symbol is None:
        return None
    updated_ms = derive.coingecko_update_ms(state.seed, coin.coin_id, now_ms)
    stats = state.market.stats(symbol, updated_ms)
    quote = state.market.quote(symbol, updated_ms)
    if stats is None or quote is None:
        return None
    price = derive.coingecko_price(state.seed, coin.coin_id, quote.mid, updated_ms)
    change = price - stats.open
    percent = change / stats.open * 100
    most = MAX_SUPPLY.get(coin.base)
    return {
        "id": coin.coin_id,
        "symbol": coin.base.lower(),
        "name": NAMES.get(coin.base, coin.base),
        "image": None,
        "current_price": price,
        "market_cap": round(price * coin.supply),
        "market_cap_rank": None,
        "fully_diluted_valuation": None if most is None else round(price * most),
        "total_volume": round(stats.quote_volume),
        "high_24h": max(stats.high, price),
        "low_24h": min(stats.low, price),
        "price_change_24h": round(change, 8),
        "price_change_percentage_24h": round(percent, 5),
        "market_cap_change_24h": round(change * coin.supply),
        "market_cap_change_percentage_24h": round(percent, 5),
        "circulating_supply": coin.supply,
        "total_supply": coin.supply,
        "max_supply": most,
        "ath": None,
        "ath_change_percentage": None,
        "ath_date": None,
        "atl": None,
        "atl_change_percentage": None,
        "atl_date": None,
        "roi": None,
        "last_updated": to_rfc3339(updated_ms),
    }


_ORDERS = {
    "market_cap_desc": ("market_cap", True),
    "market_cap_asc": ("market_cap", False),
    "volume_desc": ("total_volume", True),
    "volume_asc": ("total_volume", False),
    "id_asc": ("id", False),
    "id_desc": ("id", True),
}


def _count(request: web.Request, name: str, default: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdigit() or int(text) < 1:
        raise CoinGeckoError(422, f"Invalid value for {name}")
    return min(int(text), most)


def _set_nulls(rows: list[dict[str, object]], fault: Fault | None) -> None:
    if fault is None:
        return
    ids = fault.names_of("ids", [])
    for row in rows:
        if not ids or row["id"] in ids:
            row.update(dict.fromkeys(fault.names_of("fields", ["current_price"])))


async def ping(_: web.Request) -> web.Response:
    """GET /ping."""
    return answer({"gecko_says": "(V3) To the Moon!"})


async def markets(request: web.Request) -> web.Response:
    """GET /coins/markets; unknown ids are omitted."""
    state = request.app[STATE]
    currency = _currency(request)
    now_ms = _now_ms(request)
    known = coins(state)
    ids = request.query.get("ids")
    wanted = None if ids is None else {one.strip() for one in ids.split(",")}
    ranked = [row for coin in known if (row := market_row(state, coin, currency, now_ms)) is not None]
    ranked.sort(key=lambda row: row["market_cap"], reverse=True)  # type: ignore[arg-type, return-value]
    for rank, row in enumerate(ranked, 1):
        row["market_cap_rank"] = rank
    rows = [row for row in ranked if wanted is None or row["id"] in wanted]
    field, descending = _ORDERS.get(request.query.get("order", ""), _ORDERS["market_cap_desc"])
    rows.sort(key=lambda row: row[field], reverse=descending)  # type: ignore[arg-type, return-value]
    per_page = _count(request, "per_page", DEFAULT_PAGE, MAX_PAGE)
    first = (_count(request, "page", 1, 10**6) - 1) * per_page
    rows = rows[first : first + per_page]
    missing = state.faults.take(request.path_qs, "missing_coin")
    if missing is not None:
        rows = [row for row in rows if row["id"] not in missing.names_of("ids", ["bitcoin"])]
    _set_nulls(rows, state.faults.take(request.path_qs, "nulls"))
    return answer(rows)


def _coin(state: ExchangeState, request: web.Request) -> Coin:
    for coin in coins(state):
        if coin.coin_id == request.match_info["coin_id"]:
            return coin
    raise CoinGeckoError(404, "coin not found")


def _days(state: ExchangeState, request: web.Request, now_ms: int) -> int:
    text = request.query.get("days", "")
    if text == "max":
        return (now_ms - state.history.start_ms) // DAY_MS + 1
    if not text.isdigit() or int(text) < 1:
        raise CoinGeckoError(422, "Missing parameter days" if not text else "Invalid value for days")
    return int(text)


def _closed(state: ExchangeState, symbol: str, step_ms: int, start_ms: int, now_ms: int) -> Candles:
    end_ms = floor_to(now_ms, step_ms)
    history = state.history
    known = history.minutes(symbol, start_ms, end_ms) if step_ms < HOUR_MS else history.hours(symbol, start_ms, end_ms)
    return known.grouped(step_ms)[0]


async def market_chart(request: web.Request) -> web.Response:
    """GET /coins/{id}/market_chart: 5-minute points for 1 day, hourly up to 90 days, then daily; 24 h volumes."""
    state = request.app[STATE]
    coin, currency, now_ms = _coin(state, request), _currency(request), _now_ms(request)
    symbol = _listed(state, coin, currency)
    days = _days(state, request, now_ms)
    daily = request.query.get("interval") == "daily" or days > HOURLY_DAYS
    step_ms = DAY_MS if daily else HOUR_MS if days > FINE_DAYS else 5 * MINUTE_MS
    start_ms = floor_to(now_ms - days * DAY_MS, step_ms)
    candles = _closed(state, symbol, step_ms, start_ms - DAY_MS, now_ms)
    sums = np.concatenate(([0.0], np.cumsum(candles.quote_volume)))
    since = np.searchsorted(candles.time_ms, candles.time_ms - DAY_MS)
    volumes = sums[:-1] - sums[since]
    chosen = candles.time_ms >= start_ms
    times, prices = candles.time_ms[chosen].tolist(), candles.open[chosen].tolist()
    row = market_row(state, coin, currency, now_ms)
    points = list(zip(times, prices, [price * coin.supply for price in prices], volumes[chosen].tolist(), strict=True))
    if row is not None:
        updated_ms = derive.coingecko_update_ms(state.seed, coin.coin_id, now_ms)
        points.append((updated_ms, row["current_price"], row["market_cap"], row["total_volume"]))
    names = ("prices", "market_caps", "total_volumes")
    return answer({name: [[point[0], point[number]] for point in points] for number, name in enumerate(names, 1)})


async def ohlc(request: web.Request) -> web.Response:
    """GET /coins/{id}/ohlc: [close time, open, high, low, close].

    Candles of 30 minutes up to 2 days, 4 hours up to 30 days, then 4 days.
    """
    state = request.app[STATE]
    coin, currency, now_ms = _coin(state, request), _currency(request), _now_ms(request)
    days = _days(state, request, now_ms)
    step_ms = 4 * DAY_MS
    if days <= CANDLES_MIDDLE_DAYS:
        step_ms = 4 * HOUR_MS if days > CANDLES_FINE_DAYS else 30 * MINUTE_MS
    candles = _closed(state, _listed(state, coin, currency), step_ms, floor_to(now_ms - days * DAY_MS, step_ms), now_ms)
    rows = zip((candles.time_ms + step_ms).tolist(), *(prices.tolist() for prices in candles.prices()), strict=True)
    return answer(list(rows))


async def simple_price(request: web.Request) -> web.Response:
    """GET /simple/price?ids&vs_currencies."""
    state = request.app[STATE]
    now_ms = _now_ms(request)
    ids = request.query.get("ids", "").split(",")
    currencies = request.query.get("vs_currencies", "").lower().split(",")
    found: dict[str, dict[str, object]] = {}
    for coin in coins(state):
        if coin.coin_id in ids:
            rows = {currency: market_row(state, coin, currency, now_ms) for currency in currencies}
            found[coin.coin_id] = {currency: row["current_price"] for currency, row in rows.items() if row is not None}
    return answer(found)


def routes(prefix: str) -> list[web.RouteDef]:
    """Return the routes under a prefix such as /coingecko."""
    base = f"{prefix}/api/v3"
    return [
        web.get(f"{base}/ping", ping),
        web.get(f"{base}/coins/markets", markets),
        web.get(f"{base}/coins/{{coin_id}}/market_chart", market_chart),
        web.get(f"{base}/coins/{{coin_id}}/ohlc", ohlc),
        web.get(f"{base}/simple/price", simple_price),
    ]
