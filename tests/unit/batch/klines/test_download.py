"""Which refusals leave one market out of a backfill, and which end it."""

import asyncio

import httpx
import pytest
from aiohttp import web

from batch.klines.download import download_klines
from batch.klines.history import History
from batch.klines.plan import Span
from config.sections import BinanceSettings
from exchanges.binance.kline_client import KlineClient
from marketdata.errors import FatalSourceError
from marketdata.markets import Market
from marketdata.times import MINUTE_MS, from_rfc3339
from tests.support.scripted_server import ScriptedServer, running_server

NOON = from_rfc3339("2024-08-05T12:00:00Z")
BTC, ETH = Market("BTC", "USD"), Market("ETH", "USD")
ROW = [NOON, "10", "12", "9", "11", "3.5", NOON + MINUTE_MS - 1, "35", 7, "1", "10", "0"]


def refuse(server: ScriptedServer, symbol: str, *refusals: web.Response) -> None:
    """Refuse the first requests for `symbol`; respond to all others with one candle."""
    left = [*refusals]

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.query["symbol"] == symbol and left:
            return left.pop(0)
        return web.json_response([ROW])

    server.handler = respond


async def downloaded(server: ScriptedServer) -> History:
    def run() -> History:
        spans = [Span(market, "1m", NOON, NOON + MINUTE_MS) for market in (BTC, ETH)]
        with httpx.Client(trust_env=False) as http:
            return download_klines(KlineClient(http, BinanceSettings(base_url=server.url)), spans, lambda: False)

    return await asyncio.to_thread(run)


async def test_a_symbol_that_does_not_exist_is_left_out() -> None:
    async with running_server() as server:
        refuse(server, "BTCUSDT", web.json_response({"code": -1121, "msg": "Invalid symbol."}, status=400))
        history = await downloaded(server)
    assert list(history.refused) == ["BTC-USD"]
    assert len(history.klines["ETH-USD", "1m"]) == 1


@pytest.mark.parametrize(
    ("status", "body"), [(400, {"code": -1102, "msg": "Mandatory parameter"}), (404, {}), (403, {}), (451, {})]
)
async def test_any_other_refusal_ends_the_backfill(status: int, body: object) -> None:
    async with running_server() as server:
        refuse(server, "BTCUSDT", web.json_response(body, status=status))
        with pytest.raises(FatalSourceError, match=f"HTTP {status}"):
            await downloaded(server)


@pytest.mark.parametrize("status", [302, 408, 425, 503])
async def test_a_passing_refusal_drops_no_market(status: int) -> None:
    async with running_server() as server:
        refuse(server, "BTCUSDT", web.Response(status=status))
        history = await downloaded(server)
    assert history.refused == {}
    assert {symbol for symbol, _interval in history.klines} == {"BTC-USD", "ETH-USD"}
