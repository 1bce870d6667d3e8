"""Quotes and candles of the exchanges from a real server on loopback: requests, fields, and invalid data."""

import json
from typing import Any

import httpx
import pytest
from aiohttp import web

from exchanges.binance.endpoints import used_weight
from exchanges.binance.rest import Binance
from exchanges.coingecko import CoinGecko
from exchanges.http import JsonClient
from marketdata.markets import Market
from streams.collection.tick_builder import Bounds, Polled, build_tick
from tests.support.scripted_server import ScriptedServer

BTC_USD, BTC_EUR, ETH_USD = Market("BTC", "USD"), Market("BTC", "EUR"), Market("ETH", "USD")
MINUTE = 1_722_816_000_000


def binance(server: ScriptedServer, client: httpx.AsyncClient, weights: list[int | None] | None = None) -> Binance:
    used = [] if weights is None else weights
    http = JsonClient("binance", server.url, client, on_headers=lambda headers: used.append(used_weight(headers)))
    return Binance(http, 6000)


def coingecko(server: ScriptedServer, client: httpx.AsyncClient) -> CoinGecko:
    return CoinGecko(JsonClient("coingecko", server.url, client, headers={"x-cg-demo-api-key": "k"}), 30, 10_000)


def book(symbol: str = "BTCUSDT", **changed: Any) -> dict[str, Any]:
    row = {"symbol": symbol, "bidPrice": "50000.10", "bidQty": "1.5", "askPrice": "50000.20", "askQty": "2"}
    return {**row, **changed}


def coin(name: str = "bitcoin", **changed: Any) -> dict[str, Any]:
    row = {
        "id": name,
        "current_price": 50000,
        "market_cap": None,
        "total_volume": 1.5e9,
        "high_24h": 51000.5,
        "low_24h": 49000.0,
        "price_change_24h": -10.0,
        "price_change_percentage_24h": -0.02,
        "last_updated": "2024-08-05T00:00:00.500Z",
    }
    return {**row, **changed}


async def test_one_request_to_binance_has_all_markets(server: ScriptedServer, client: httpx.AsyncClient) -> None:
    weights: list[int | None] = []
    server.respond(
        body=[book(), book("BTCEUR", bidPrice="x")],
        x_mbx_used_weight_1m="42",
        date="Mon, 05 Aug 2024 00:00:10 GMT",
    )
    result = await binance(server, client, weights).poll([BTC_USD, BTC_EUR, ETH_USD], 5.0)
    assert [request.query["symbols"] for request in server.requests] == ['["BTCUSDT","BTCEUR","ETHUSDT"]']
    assert weights == [42]
    quote = result.quotes["BTC-USD"]
    assert quote.fields == {"bid_price": 50000.1, "bid_qty": 1.5, "ask_price": 50000.2, "ask_qty": 2.0}
    assert quote.observed_at_ms == MINUTE + 10_000
    assert set(result.quotes) == {"BTC-USD"}  # one is not valid, one is absent
    assert str(result.invalid["BTC-EUR"]) == "bidPrice: 'x': expected a decimal number as a string"


async def test_one_request_to_coingecko_per_currency_keeps_nulls(
    server: ScriptedServer, client: httpx.AsyncClient
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.query["vs_currency"] == "eur":
            return web.json_response([coin(current_price="50000")])
        return web.json_response([coin()])

    server.handler = answer
    result = await coingecko(server, client).poll([BTC_USD, ETH_USD, BTC_EUR], 5.0)
    assert sorted((r.query["vs_currency"], r.query["ids"]) for r in server.requests) == [
        ("eur", "bitcoin"),
        ("usd", "bitcoin,ethereum"),
    ]
    assert {request.headers["x-cg-demo-api-key"] for request in server.requests} == {"k"}
    fields = result.quotes["BTC-USD"].fields
    assert fields["price"] == 50000.0
    assert fields["market_cap"] is None
    assert fields["trade_timestamp"] == "2024-08-05T00:00:00.500Z"
    assert set(result.quotes) == {"BTC-USD"}
    assert str(result.invalid["BTC-EUR"]) == "current_price: '50000': expected a finite number or null"


async def test_coingecko_is_not_asked_for_a_coin_without_an_id(
    server: ScriptedServer, client: httpx.AsyncClient
) -> None:
    server.respond(body=[coin()])
    source, unknown = coingecko(server, client), Market("W", "USD")
    result = await source.poll([BTC_USD, Market("BTC", "USDT"), unknown], 5.0)
    assert [request.query["ids"] for request in server.requests] == ["bitcoin"]
    assert (set(result.quotes), result.absent) == ({"BTC-USD", "BTC-USDT"}, {"W-USD": "no_coin_id"})
    tick = build_tick(unknown, MINUTE, {"coingecko": Polled("ok", result, MINUTE)}, Bounds())
    assert (tick.price, tick.sources["coingecko"].status) == (None, "no_coin_id")
    assert (await source.poll([unknown], 5.0)).quotes == {}
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"last_updated": "yesterday"}, "last_updated"),
        ({"high_24h": True}, "high_24h"),
        ({"low_24h": 10**400}, "low_24h"),
        ({"low_24h": -(10**400)}, "low_24h"),
    ],
)
async def test_the_error_names_an_invalid_field_of_coingecko(
    server: ScriptedServer, client: httpx.AsyncClient, changed: dict[str, Any], field: str
) -> None:
    server.respond(body=[coin(**changed)])
    result = await coingecko(server, client).poll([BTC_USD], 5.0)
    assert result.invalid["BTC-USD"].field == field


async def test_an_absent_field_of_coingecko_is_not_a_null(server: ScriptedServer, client: httpx.AsyncClient) -> None:
    row = coin()
    del row["market_cap"]
    server.respond(body=[row])
    result = await coingecko(server, client).poll([BTC_USD], 5.0)
    assert result.invalid["BTC-USD"].field == "market_cap"


def kline(open_ms: int, **changed: Any) -> list[Any]:
    row = [open_ms, "1", "3", "0.5", "2", "10", open_ms + 59_999, "15", 7, "4", "6", "0"]
    for index, value in changed.items():
        row[int(index.removeprefix("at"))] = value
    return row


async def test_only_closed_candles_are_returned(server: ScriptedServer, client: httpx.AsyncClient) -> None:
    server.respond(body=[kline(MINUTE), kline(MINUTE + 60_000), kline(MINUTE + 120_000)])
    candles = await binance(server, client).candles(BTC_USD, MINUTE, MINUTE + 120_000, 5.0)
    assert [candle.open_time for candle in candles] == ["2024-08-05T00:00:00.000Z", "2024-08-05T00:01:00.000Z"]
    assert server.requests[0].query["startTime"] == str(MINUTE)
    first = candles[0]
    assert (first.open, first.high, first.low, first.close, first.volume) == (1.0, 3.0, 0.5, 2.0, 10.0)
    assert (first.quote_volume, first.n_trades, first.taker_buy_volume) == (15.0, 7, 4.0)


@pytest.mark.parametrize("name", [[], {}, None, 7, True])
async def test_a_row_without_a_valid_name_does_not_affect_others(
    server: ScriptedServer, client: httpx.AsyncClient, name: object
) -> None:
    server.respond(body=[{"symbol": name}, book()])
    assert set((await binance(server, client).poll([BTC_USD], 1.0)).quotes) == {"BTC-USD"}
    server.respond(body=[{"id": name}, coin()])
    assert set((await coingecko(server, client).poll([BTC_USD], 1.0)).quotes) == {"BTC-USD"}


def raw_url(server: ScriptedServer, request: web.Request) -> str:
    return server.url + request.raw_path


@pytest.mark.parametrize("quote", ["USD", "EUR"])
async def test_no_url_exceeds_its_limit_and_every_market_is_requested_once(
    server: ScriptedServer, client: httpx.AsyncClient, quote: str
) -> None:
    markets = [Market(f"LONGNAME{number:04}", quote, f"coin-with-a-long-name-{number}") for number in range(1000)]

    async def answer(request: web.Request) -> web.StreamResponse:
        if "symbols" in request.query:
            return web.json_response([book(symbol) for symbol in json.loads(request.query["symbols"])])
        return web.json_response([coin(one) for one in request.query["ids"].split(",")])

    server.handler = answer
    for source in (binance(server, client), coingecko(server, client)):
        server.requests.clear()
        result = await source.poll(markets, 30.0)
        assert set(result.quotes) == {market.symbol for market in markets}
        assert result.deferred == frozenset()
        lengths = [len(raw_url(server, request)) for request in server.requests]
        assert 3_900 < max(lengths) <= 4_000
        assert source.poll_cost(markets).calls == len(lengths)
    names = [symbol for request in server.requests for symbol in request.query["ids"].split(",")]
    assert len(names) == len(set(names)) == 1000


async def test_a_failing_request_of_several_keeps_the_quotes_of_the_others(
    server: ScriptedServer, client: httpx.AsyncClient
) -> None:
    markets = [Market(f"LONGNAME{number:04}", "USD") for number in range(400)]
    fails = True

    async def answer(request: web.Request) -> web.StreamResponse:
        symbols = json.loads(request.query["symbols"])
        if fails and len(server.requests) == 2:
            return web.Response(status=503)
        return web.json_response([book(symbol) for symbol in symbols])

    server.handler = answer
    source = binance(server, client)
    first = await source.poll(markets, 30.0)
    assert first.quotes.keys() | first.deferred == {market.symbol for market in markets}
    assert (len(first.quotes) > 100, first.deferred_status) == (True, "server_error")
    fails = False
    second = await source.poll(markets, 30.0)
    assert second.quotes.keys() == {market.symbol for market in markets}
