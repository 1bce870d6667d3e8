"""The clock of the exchange decides which candles are closed: ours may be ahead."""

import asyncio

import httpx

from config.sections import BinanceSettings
from exchanges.binance.kline_client import KlineClient
from exchanges.binance.rest import Binance
from exchanges.http import JsonClient
from marketdata.markets import Market
from marketdata.times import MINUTE_MS
from tests.support.exchange_server import NOON, running_exchange

AHEAD_MS = 10 * MINUTE_MS


async def test_a_clock_that_is_ahead_publishes_no_unfinished_candle() -> None:
    async with running_exchange() as exchange, httpx.AsyncClient(trust_env=False) as client:
        exchange.state.clock.steer(now_ms=NOON + 30_000)
        source = Binance(JsonClient("binance", f"{exchange.address}/binance", client), 6000)
        candles = await source.candles(Market("BTC", "USD"), NOON - 3 * MINUTE_MS, NOON + AHEAD_MS, 5.0)
        assert [candle.open_time_ms for candle in candles] == [NOON - n * MINUTE_MS for n in (3, 2, 1)]


async def test_backfill_stores_no_unfinished_candle() -> None:
    async with running_exchange() as exchange:
        exchange.state.clock.steer(now_ms=NOON + 30_000)
        settings = BinanceSettings(base_url=f"{exchange.address}/binance")
        with httpx.Client(trust_env=False) as client:
            klines = await asyncio.to_thread(
                KlineClient(client, settings).fetch, "BTCUSDT", "1m", NOON - 3 * MINUTE_MS, NOON + AHEAD_MS
            )
        assert [kline.open_ms for kline in klines] == [NOON - n * MINUTE_MS for n in (3, 2, 1)]


async def test_a_response_and_its_date_have_the_same_time() -> None:
    """Also when the clock moves between the two, as it does at 60 times real speed."""
    async with running_exchange() as exchange:
        exchange.state.clock.steer(now_ms=NOON - 1)
        moved = exchange.state.market.quote

        def late(symbol: str, now_ms: int) -> object:
            exchange.state.clock.steer(now_ms=NOON + 1)
            return moved(symbol, now_ms)

        exchange.state.market.quote = late  # type: ignore[method-assign, assignment]
        status, _, headers = await exchange.get("/binance/api/v3/ticker/bookTicker", symbol="BTCUSDT")
        assert (status, headers["Date"]) == (200, "Mon, 05 Aug 2024 11:59:59 GMT")
