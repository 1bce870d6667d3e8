"""The simulated exchange over HTTP: responses and errors of Binance and CoinGecko, weights, clock and journal."""

import json
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime

import aiohttp
import pytest

from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, from_rfc3339
from simulator import control
from tests.support.exchange_server import DAY, NOON, Exchange, running_exchange

API = "/binance/api/v3"
GECKO = "/coingecko/api/v3"


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    async with running_exchange(now_ms=NOON + 30_000) as running:
        yield running


async def test_book_ticker_is_an_object_for_one_symbol_and_an_array_for_many(exchange: Exchange) -> None:
    status, one, headers = await exchange.get(f"{API}/ticker/bookTicker", symbol="BTCUSDT")
    assert status == 200
    assert set(one) == {"symbol", "bidPrice", "bidQty", "askPrice", "askQty"}
    assert len(one["bidPrice"].partition(".")[2]) == 8
    quote = exchange.state.market.quote("BTCUSDT", NOON)
    assert quote is not None
    assert float(one["bidPrice"]) == quote.bid_price
    assert float(one["askQty"]) == quote.ask_qty
    assert headers["Content-Type"] == "application/json;charset=UTF-8"
    _, many, _ = await exchange.get(f"{API}/ticker/bookTicker", symbols='["ETHUSDT","BTCUSDT"]')
    assert [book["symbol"] for book in many] == ["ETHUSDT", "BTCUSDT"]
    assert many[1] == one
    _, everything, _ = await exchange.get(f"{API}/ticker/bookTicker")
    assert [book["symbol"] for book in everything] == list(exchange.state.market.symbols)


async def test_quotes_last_a_minute_and_the_clock_can_be_advanced(exchange: Exchange) -> None:
    _, first, _ = await exchange.get(f"{API}/ticker/bookTicker", symbol="BTCUSDT")
    assert (await exchange.clock(advance_ms=29_999))["now_ms"] == NOON + 59_999
    _, same, _ = await exchange.get(f"{API}/ticker/bookTicker", symbol="BTCUSDT")
    assert same == first
    await exchange.clock(advance_ms=1)
    _, other, _ = await exchange.get(f"{API}/ticker/bookTicker", symbol="BTCUSDT")
    assert other != first


async def test_the_day_ticker_has_every_documented_field(exchange: Exchange) -> None:
    _, day, _ = await exchange.get(f"{API}/ticker/24hr", symbol="BTCUSDT")
    names = (
        "symbol priceChange priceChangePercent weightedAvgPrice prevClosePrice lastPrice lastQty bidPrice bidQty "
        "askPrice askQty openPrice highPrice lowPrice volume quoteVolume openTime closeTime firstId lastId count"
    )
    assert list(day) == names.split()
    assert day["closeTime"] == NOON + 30_000
    assert day["openTime"] == day["closeTime"] - DAY_MS
    assert float(day["lastPrice"]) - float(day["openPrice"]) == pytest.approx(float(day["priceChange"]))
    assert float(day["lowPrice"]) <= float(day["weightedAvgPrice"]) <= float(day["highPrice"])
    _, mini, _ = await exchange.get(f"{API}/ticker/24hr", symbol="BTCUSDT", type="MINI")
    assert "bidPrice" not in mini


async def test_klines_end_with_the_unfinished_candle(exchange: Exchange) -> None:
    _, rows, _ = await exchange.get(f"{API}/klines", symbol="BTCUSDT", interval="1m", limit="3")
    assert [row[0] for row in rows] == [NOON - 2 * MINUTE_MS, NOON - MINUTE_MS, NOON]
    assert [row[6] for row in rows] == [row[0] + MINUTE_MS - 1 for row in rows]
    assert rows[-1][6] > exchange.state.clock.now_ms()
    assert all(len(row) == 12 for row in rows)
    assert all(isinstance(value, str) for value in (*rows[0][1:6], rows[0][7], *rows[0][9:]))
    stored = exchange.state.history.minutes("BTCUSDT", NOON - MINUTE_MS, NOON)
    assert [float(value) for value in rows[1][1:6]] == [*(float(one[0]) for one in stored.prices()), stored.volume[0]]
    assert 0 < float(rows[1][9]) < float(rows[1][5])
    _, oldest, _ = await exchange.get(
        f"{API}/klines", symbol="BTCUSDT", interval="1h", startTime=str(DAY + 1), limit="2"
    )
    assert [row[0] for row in oldest] == [DAY + HOUR_MS, DAY + 2 * HOUR_MS]
    _, most, _ = await exchange.get(f"{API}/klines", symbol="BTCUSDT", interval="1m", limit="5000")
    assert len(most) == 1000
    _, default, _ = await exchange.get(f"{API}/klines", symbol="BTCUSDT", interval="1m")
    assert len(default) == 500


async def test_microseconds_are_returned_on_request(exchange: Exchange) -> None:
    headers = {"X-MBX-TIME-UNIT": "MICROSECOND"}
    async with exchange.client.get(f"{exchange.address}{API}/time", headers=headers) as response:
        assert (await response.json())["serverTime"] == (NOON + 30_000) * 1000
    query = f"symbol=BTCUSDT&interval=1m&startTime={DAY * 1000}&limit=1"
    async with exchange.client.get(f"{exchange.address}{API}/klines?{query}", headers=headers) as response:
        row = (await response.json())[0]
    assert row[0] == DAY * 1000
    assert row[6] == (DAY + MINUTE_MS) * 1000 - 1


async def test_the_date_header_is_exchange_time(exchange: Exchange) -> None:
    _, _, headers = await exchange.get(f"{API}/ping")
    assert parsedate_to_datetime(headers["Date"]).timestamp() * 1000 == NOON + 30_000
    _, _, headers = await exchange.get(f"{GECKO}/ping")
    assert parsedate_to_datetime(headers["Date"]).timestamp() * 1000 == NOON + 30_000


async def test_exchange_info_lists_limits_and_symbols(exchange: Exchange) -> None:
    _, info, _ = await exchange.get(f"{API}/exchangeInfo", symbol="BTCEUR")
    assert info["rateLimits"][0] == {
        "rateLimitType": "REQUEST_WEIGHT",
        "interval": "MINUTE",
        "intervalNum": 1,
        "limit": 6000,
    }
    assert [(one["baseAsset"], one["quoteAsset"]) for one in info["symbols"]] == [("BTC", "EUR")]
    _, average, _ = await exchange.get(f"{API}/avgPrice", symbol="BTCUSDT")
    assert average["mins"] == 5
    _, price, _ = await exchange.get(f"{API}/ticker/price", symbol="BTCUSDT")
    assert float(price["price"]) == exchange.state.history.minutes("BTCUSDT", NOON, NOON + 1).open[0]


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("ticker/bookTicker", {"symbol": "NOPE"}, -1121),
        ("ticker/bookTicker", {"symbols": '["BTCUSDT","NOPE"]'}, -1121),
        ("ticker/bookTicker", {"symbols": "BTCUSDT"}, -1100),
        ("ticker/bookTicker", {"symbol": "btcusdt"}, -1100),
        ("ticker/24hr", {"symbol": "BTCUSDT", "symbols": '["BTCUSDT"]'}, -1128),
        ("klines", {"interval": "1m"}, -1102),
        ("klines", {"symbol": "BTCUSDT"}, -1102),
        ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "many"}, -1100),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "0"}, -1130),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "startTime": "-5"}, -1100),
    ],
)
async def test_invalid_requests_get_binances_errors(
    exchange: Exchange, path: str, query: dict[str, str], code: int
) -> None:
    status, body, _ = await exchange.get(f"{API}/{path}", **query)
    assert status == 400
    assert body["code"] == code
    assert set(body) == {"code", "msg"}


async def test_weights_are_counted_per_exchange_minute(exchange: Exchange) -> None:
    used = []
    for path, query in (
        ("ticker/bookTicker", {"symbol": "BTCUSDT"}),
        ("ticker/bookTicker", {"symbols": '["BTCUSDT","ETHUSDT"]'}),
        ("ticker/24hr", {"symbols": '["BTCUSDT","ETHUSDT"]'}),
        ("ticker/24hr", {}),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m"}),
        ("exchangeInfo", {}),
        ("time", {}),
    ):
        _, _, headers = await exchange.get(f"{API}/{path}", **query)
        used.append(int(headers["X-MBX-USED-WEIGHT-1M"]))
    assert used == [2, 6, 8, 88, 90, 110, 111]
    await exchange.clock(advance_ms=MINUTE_MS)
    _, _, headers = await exchange.get(f"{API}/ping")
    assert headers["X-MBX-USED-WEIGHT-1M"] == "1"


async def test_too_much_weight_gets_429_and_ignoring_it_418(exchange: Exchange) -> None:
    await exchange.client.post(f"{exchange.address}/control/limits", json={"weight": 3})
    assert (await exchange.get(f"{API}/klines", symbol="BTCUSDT", interval="1m"))[0] == 200
    status, body, headers = await exchange.get(f"{API}/klines", symbol="BTCUSDT", interval="1m")
    assert (status, body["code"], headers["Retry-After"]) == (429, -1003, "30")
    assert (await exchange.get(f"{API}/ping"))[0] == 429
    status, body, headers = await exchange.get(f"{API}/ping")
    assert (status, body["code"], headers["Retry-After"]) == (418, -1003, "120")
    await exchange.clock(advance_ms=119_999)
    assert (await exchange.get(f"{API}/ping"))[0] == 418
    await exchange.clock(advance_ms=1)
    assert (await exchange.get(f"{API}/ping"))[0] == 200
    assert (await exchange.get(f"{GECKO}/ping"))[0] == 200


async def test_a_client_that_waits_for_retry_after_is_served_again(exchange: Exchange) -> None:
    await exchange.client.post(f"{exchange.address}/control/limits", json={"weight": 1})
    await exchange.get(f"{API}/ping")
    _, _, headers = await exchange.get(f"{API}/ping")
    await exchange.clock(advance_ms=int(headers["Retry-After"]) * 1000)
    assert (await exchange.get(f"{API}/ping"))[0] == 200


async def test_markets_have_coingeckos_format(exchange: Exchange) -> None:
    status, rows, _ = await exchange.get(f"{GECKO}/coins/markets", vs_currency="usd", ids="bitcoin,nocoin,ethereum")
    assert status == 200
    assert [row["id"] for row in rows] == ["bitcoin", "ethereum"]
    bitcoin = rows[0]
    now_ms = exchange.state.clock.now_ms()
    updated_ms = from_rfc3339(bitcoin["last_updated"])
    assert now_ms - MINUTE_MS < updated_ms <= now_ms
    quote = exchange.state.market.quote("BTCUSDT", updated_ms)
    assert quote is not None
    assert bitcoin["current_price"] == pytest.approx(quote.mid, rel=4e-4)
    assert bitcoin["low_24h"] <= bitcoin["current_price"] <= bitcoin["high_24h"]
    assert bitcoin["market_cap"] == pytest.approx(bitcoin["current_price"] * bitcoin["circulating_supply"])
    _, euros, _ = await exchange.get(f"{GECKO}/coins/markets", vs_currency="eur", ids="bitcoin")
    assert euros[0]["current_price"] == pytest.approx(bitcoin["current_price"] * 0.92, rel=1e-3)
    _, page, _ = await exchange.get(f"{GECKO}/coins/markets", vs_currency="usd", per_page="1", page="2")
    assert [row["id"] for row in page] == ["ethereum"]


async def test_last_updated_moves_once_a_minute(exchange: Exchange) -> None:
    seen = set()
    for _ in range(30):
        _, rows, _ = await exchange.get(f"{GECKO}/coins/markets", vs_currency="usd", ids="bitcoin")
        seen.add((rows[0]["last_updated"], rows[0]["current_price"]))
        await exchange.clock(advance_ms=10_000)
    assert 5 <= len(seen) <= 6


async def test_coingeckos_errors_and_charts(exchange: Exchange) -> None:
    assert (await exchange.get(f"{GECKO}/coins/markets", vs_currency="xxx"))[:2] == (
        400,
        {"error": "invalid vs_currency"},
    )
    assert (await exchange.get(f"{GECKO}/coins/markets"))[0] == 422
    status, body, _ = await exchange.get(f"{GECKO}/coins/nocoin/market_chart", vs_currency="usd", days="1")
    assert (status, body) == (404, {"error": "coin not found"})
    _, chart, _ = await exchange.get(f"{GECKO}/coins/bitcoin/market_chart", vs_currency="usd", days="1")
    assert set(chart) == {"prices", "market_caps", "total_volumes"}
    assert len(chart["prices"]) == 24 * 12 + 1
    assert all(at <= exchange.state.clock.now_ms() for at, _ in chart["prices"])
    _, candles, _ = await exchange.get(f"{GECKO}/coins/ethereum/ohlc", vs_currency="usd", days="1")
    assert len(candles) == 48
    assert candles[-1][0] == NOON
    _, prices, _ = await exchange.get(f"{GECKO}/simple/price", ids="bitcoin", vs_currencies="usd,eur")
    assert set(prices["bitcoin"]) == {"usd", "eur"}


async def test_the_journal_records_requests(exchange: Exchange) -> None:
    await exchange.get(f"{API}/ticker/bookTicker", symbol="NOPE")
    await exchange.get(f"{API}/ping")
    _, journal, _ = await exchange.get("/control/journal", match="bookTicker")
    assert journal["requests"] == [
        {"exchange_ms": NOON + 30_000, "path": f"{API}/ticker/bookTicker", "query": "symbol=NOPE", "status": 400}
    ]
    await exchange.client.delete(f"{exchange.address}/control/journal")
    assert (await exchange.get("/control/journal"))[1]["count"] == 0


async def test_the_clock_is_set_runs_and_ends_with_its_data(exchange: Exchange) -> None:
    assert (await exchange.clock(now_ms=DAY + HOUR_MS, speed=0))["now_ms"] == DAY + HOUR_MS
    end_ms = exchange.state.history.end_ms
    clock = await exchange.clock(now_ms=end_ms - 1000, advance_ms=5000)
    assert (clock["now_ms"], clock["ended"], clock["end_ms"]) == (end_ms, True, end_ms)
    clock = await exchange.clock(now_ms=DAY)
    assert not clock["ended"]
    for wrong in ({"now_ms": end_ms + 1}, {"speed": -1}, {"advance_ms": -1}, {"speed": "fast"}, {"pace": 2}):
        async with exchange.client.post(f"{exchange.address}/control/clock", data=json.dumps(wrong)) as response:
            assert response.status == 400
            assert next(iter(wrong)) in (await response.json())["error"]
    assert (await exchange.clock())["now_ms"] == DAY


CHANGES = [
    (method, route.path)
    for route in control.routes(control.PREFIX)
    if (method := route.method) not in {"GET", "HEAD", "OPTIONS"}
]


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_a_form_of_a_web_page_changes_nothing(exchange: Exchange, method: str, path: str) -> None:
    """A form sends neither a header of its own nor, under a name of its own, this server's Host."""
    before = (await exchange.get("/control/clock"))[1]["speed"], exchange.state.limiter.limit
    for headers, status in (({}, 403), ({control.HEADER: "1", "Host": "page.example"}, 421)):
        async with (
            aiohttp.ClientSession() as page,
            page.request(method, exchange.address + path, data='{"speed": 9, "weight": 1}', headers=headers) as answer,
        ):
            assert answer.status == status
            assert set(await answer.json()) == {"error"}
    assert ((await exchange.get("/control/clock"))[1]["speed"], exchange.state.limiter.limit) == before
    assert not list(exchange.state.faults)


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("[::1]:80", 200), ("10.0.0.9", 200), ("page.example", 421), ("a b", 421), ("\xe9", 421)],
)
async def test_only_names_that_no_page_can_choose_are_served(exchange: Exchange, host: str, status: int) -> None:
    async with exchange.client.get(f"{exchange.address}{API}/time", headers={"Host": host}) as answer:
        assert answer.status == status
