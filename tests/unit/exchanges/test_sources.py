"""The exchanges' clients against a real server on loopback: every kind of failure, and what payloads must look like."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from aiohttp import web

from exchanges.binance.rest import Binance, closed_candles
from exchanges.coingecko import CoinGecko
from exchanges.http import JsonClient
from marketdata.errors import FatalSourceError, InvalidValueError, RetryableSourceError, SourceError
from marketdata.markets import Market

BTC_USD, BTC_EUR, ETH_USD = Market("BTC", "USD"), Market("BTC", "EUR"), Market("ETH", "USD")
MINUTE = 1_722_816_000_000

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """A scripted exchange; `requests` holds what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.requests: list[web.Request] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        assert self.answer is not None
        return await self.answer(request)

    def says(self, status: int = 200, body: Any = None, text: str | None = None, **headers: str) -> None:
        async def answer(_request: web.Request) -> web.StreamResponse:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            if text is not None:
                return web.Response(status=status, text=text, headers=named)
            return web.json_response(body, status=status, headers=named)

        self.answer = answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    scripted = Server()
    app = web.Application()
    app.router.add_get("/{path:.*}", scripted.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield scripted
    await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as opened:
        yield opened


def binance(server: Server, client: httpx.AsyncClient, weights: list[int] | None = None) -> Binance:
    return Binance(JsonClient("binance", server.url, client), 6000, ([] if weights is None else weights).append)


def coingecko(server: Server, client: httpx.AsyncClient) -> CoinGecko:
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


@pytest.mark.parametrize(
    ("status", "text", "headers", "kind", "error", "retry_after_s"),
    [
        (429, "Throttled", {"retry_after": "7"}, "rate_limited", RetryableSourceError, 7.0),
        (429, "", {}, "rate_limited", RetryableSourceError, 5.0),
        (418, '{"code":-1003}', {"retry_after": "130"}, "banned", RetryableSourceError, 130.0),
        (302, "", {"location": "/"}, "server_error", RetryableSourceError, None),
        (408, "", {}, "server_error", RetryableSourceError, None),
        (500, "oops", {}, "server_error", RetryableSourceError, None),
        (503, "", {"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, "server_error", RetryableSourceError, None),
        (403, "<html>firewall</html>", {}, "forbidden", FatalSourceError, None),
        (401, "{}", {}, "unauthorised", FatalSourceError, None),
        (451, "{}", {}, "geo_blocked", FatalSourceError, None),
        (400, '{"code":-1102,"msg":"Mandatory parameter"}', {}, "bad_request", FatalSourceError, None),
        (200, "<html>", {}, "bad_payload", RetryableSourceError, None),
        (200, '{"code": 1}', {}, "bad_payload", RetryableSourceError, None),
        (200, "[[1]]", {}, "bad_payload", RetryableSourceError, None),
    ],
)
async def test_an_answer_is_judged_by_its_status_and_body(
    server: Server,
    client: httpx.AsyncClient,
    status: int,
    text: str,
    headers: dict[str, str],
    kind: str,
    error: type[SourceError],
    retry_after_s: float | None,
) -> None:
    server.says(status, text=text, **headers)
    for source in (binance(server, client), coingecko(server, client)):
        with pytest.raises(error) as caught:
            await source.poll([BTC_USD], 5.0)
        assert caught.value.kind == kind
        assert getattr(caught.value, "retry_after_s", None) == retry_after_s


async def test_a_slow_answer_is_a_timeout(server: Server, client: httpx.AsyncClient) -> None:
    async def slowly(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.answer = slowly
    with pytest.raises(RetryableSourceError) as caught:
        await binance(server, client).poll([BTC_USD], 0.05)
    assert caught.value.kind == "timeout"


async def test_a_cut_answer_is_a_connection_error(server: Server, client: httpx.AsyncClient) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "1000"})
        await response.prepare(request)
        await response.write(b'[{"symbol"')
        assert request.transport is not None
        request.transport.close()
        return response

    server.answer = cut
    with pytest.raises(RetryableSourceError) as caught:
        await binance(server, client).poll([BTC_USD], 5.0)
    assert caught.value.kind == "connection"


async def test_nobody_there_is_a_connection_error(client: httpx.AsyncClient) -> None:
    nobody = Binance(JsonClient("binance", "http://127.0.0.1:9", client), 6000)
    with pytest.raises(RetryableSourceError) as caught:
        await nobody.poll([BTC_USD], 5.0)
    assert caught.value.kind == "connection"


async def test_binance_is_asked_once_for_all_markets(server: Server, client: httpx.AsyncClient) -> None:
    weights: list[int] = []
    server.says(
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


async def test_coingecko_is_asked_once_a_currency_and_keeps_nulls(server: Server, client: httpx.AsyncClient) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.query["vs_currency"] == "eur":
            return web.json_response([coin(current_price="50000")])
        return web.json_response([coin()])

    server.answer = answer
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


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"last_updated": "yesterday"}, "last_updated"),
        ({"high_24h": True}, "high_24h"),
        ({"low_24h": 10**400}, "low_24h"),
        ({"low_24h": -(10**400)}, "low_24h"),
    ],
)
async def test_a_wrong_field_of_coingecko_is_named(
    server: Server, client: httpx.AsyncClient, changed: dict[str, Any], field: str
) -> None:
    server.says(body=[coin(**changed)])
    result = await coingecko(server, client).poll([BTC_USD], 5.0)
    assert result.invalid["BTC-USD"].field == field


async def test_an_absent_field_of_coingecko_is_not_a_null(server: Server, client: httpx.AsyncClient) -> None:
    row = coin()
    del row["market_cap"]
    server.says(body=[row])
    result = await coingecko(server, client).poll([BTC_USD], 5.0)
    assert result.invalid["BTC-USD"].field == "market_cap"


def kline(open_ms: int, **changed: Any) -> list[Any]:
    row = [open_ms, "1", "3", "0.5", "2", "10", open_ms + 59_999, "15", 7, "4", "6", "0"]
    for index, value in changed.items():
        row[int(index.removeprefix("at"))] = value
    return row


async def test_only_closed_candles_come_out(server: Server, client: httpx.AsyncClient) -> None:
    server.says(body=[kline(MINUTE), kline(MINUTE + 60_000), kline(MINUTE + 120_000)])
    candles = await binance(server, client).candles(BTC_USD, MINUTE, MINUTE + 120_000, 5.0)
    assert [candle.open_time for candle in candles] == ["2024-08-05T00:00:00.000Z", "2024-08-05T00:01:00.000Z"]
    assert server.requests[0].query["startTime"] == str(MINUTE)
    first = candles[0]
    assert (first.open, first.high, first.low, first.close, first.volume) == (1.0, 3.0, 0.5, 2.0, 10.0)
    assert (first.quote_volume, first.n_trades, first.taker_buy_volume) == (15.0, 7, 4.0)


def test_a_candle_in_microseconds_is_the_same_candle() -> None:
    in_us = kline(MINUTE * 1000, at6=(MINUTE + 59_999) * 1000 + 999)
    assert closed_candles("BTC-USD", [in_us], MINUTE + 60_000) == closed_candles(
        "BTC-USD", [kline(MINUTE)], MINUTE + 60_000
    )


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({}, "klines"),
        ([[1, 2]], "kline"),
        ([kline(MINUTE + 1)], "openTime"),
        ([kline(MINUTE, at2=3.0)], "high"),
        ([kline(MINUTE, at8="7")], "trades"),
        ([kline(MINUTE, at8=10**30)], "trades"),
    ],
)
def test_a_wrong_candle_is_named(payload: Any, field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        closed_candles("BTC-USD", payload, MINUTE + 600_000)
    assert caught.value.field == field


@pytest.mark.parametrize("name", [[], {}, None, 7, True])
async def test_a_row_that_names_nothing_takes_no_other_with_it(
    server: Server, client: httpx.AsyncClient, name: object
) -> None:
    server.says(body=[{"symbol": name}, book()])
    assert set((await binance(server, client).poll([BTC_USD], 1.0)).quotes) == {"BTC-USD"}
    server.says(body=[{"id": name}, coin()])
    assert set((await coingecko(server, client).poll([BTC_USD], 1.0)).quotes) == {"BTC-USD"}
