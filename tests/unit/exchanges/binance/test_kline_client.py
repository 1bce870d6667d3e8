"""Klines of an exchange that says no: a Retry-After, and a minute's weight, are waited for in the exchange's time."""

import asyncio

import httpx
import pytest

from config.sections import BinanceSettings
from exchanges.binance.kline_client import KlineClient
from marketdata.errors import RetryableSourceError
from marketdata.times import MINUTE_MS
from tests.support.exchange_server import NOON, running_exchange


def at_sixty(exchange_s: float) -> float:
    return exchange_s / 60


@pytest.mark.parametrize(("fault", "weight", "wait_s"), [("429", 6_000, 0.5), (None, 1, 1.0)])
async def test_a_replay_waits_in_the_exchanges_time(fault: str | None, weight: int, wait_s: float) -> None:
    waited: list[float] = []
    async with running_exchange() as exchange:
        exchange.state.clock.steer(now_ms=NOON)
        settings = BinanceSettings(base_url=f"{exchange.address}/binance", weight_per_minute=weight)
        if fault:
            await exchange.fault(fault, match="klines", count=1, retry_after_s=30)
        with httpx.Client(trust_env=False) as http:
            client = KlineClient(http, settings, real_seconds=at_sixty, monotonic=lambda: 0.0, sleep=waited.append)

            def ask() -> int:
                return len(client._fetch("BTCUSDT", "1m", NOON - 3 * MINUTE_MS, NOON))

            if fault is None:
                assert await asyncio.to_thread(ask) == 3
            else:
                with pytest.raises(RetryableSourceError) as caught:
                    await asyncio.to_thread(ask)
                assert client._backoff(caught.value) == wait_s
            exchange.state.clock.steer(now_ms=NOON + MINUTE_MS)
            assert await asyncio.to_thread(ask) == 3
    assert waited == [wait_s]  # asked for before the second request
