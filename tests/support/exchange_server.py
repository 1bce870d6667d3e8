"""A simulated exchange on loopback inside the test's own event loop, and small histories to feed it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web

from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, from_rfc3339
from simulator.candles import Candles
from simulator.clock import ReplayClock
from simulator.control import HEADER
from simulator.history import MarketHistory
from simulator.recording import Recording
from simulator.server import build_app
from simulator.state import ExchangeState

DAY = from_rfc3339("2024-08-05T00:00:00Z")
NOON = DAY + 12 * HOUR_MS
SEED = 7


def walk(start_ms: int, count: int, step_ms: int, price: float, seed: int = 1) -> Candles:
    """Candles of a random walk, prices with 2 decimals and volumes with 3."""
    generator = np.random.default_rng(seed)
    closes = np.round(price * np.exp(np.cumsum(generator.normal(0, 0.0008, count))), 2)
    opens = np.concatenate(([price], closes[:-1]))
    highs = np.round(np.maximum(opens, closes) + generator.uniform(0, price * 0.0005, count), 2)
    lows = np.round(np.minimum(opens, closes) - generator.uniform(0, price * 0.0005, count), 2)
    volumes = np.round(generator.uniform(0.5, 30, count), 3)
    quotes = np.round(volumes * (opens + highs + lows + closes) / 4, 8)
    times = start_ms + np.arange(count, dtype=np.int64) * step_ms
    return Candles(times, opens, highs, lows, closes, volumes, quotes)


def small_history(seed: int = SEED) -> MarketHistory:
    """Three days: BTC by the minute, ETH by the hour."""
    empty = Candles.empty()
    return MarketHistory(
        {
            "BTCUSDT": (walk(DAY - DAY_MS, 3 * 1440, MINUTE_MS, 60_000.0), empty),
            "ETHUSDT": (empty, walk(DAY - DAY_MS, 72, HOUR_MS, 3_000.0)),
        },
        seed,
    )


@dataclass(slots=True)
class Exchange:
    """A running exchange: its address, its insides, and a client."""

    address: str
    state: ExchangeState
    client: aiohttp.ClientSession

    async def get(self, path: str, **query: str) -> tuple[int, Any, Any]:
        """Status, decoded JSON and headers of a GET."""
        async with self.client.get(self.address + path, params=query) as response:
            return response.status, await response.json(content_type=None), response.headers

    async def fault(self, name: str, **params: object) -> None:
        """Switch a fault on."""
        async with self.client.post(f"{self.address}/control/faults", json={"fault": name, **params}) as response:
            assert response.status == 201, await response.text()

    async def clock(self, **steering: float) -> Any:
        """Steer the clock; how it stands then."""
        async with self.client.post(f"{self.address}/control/clock", json=steering) as response:
            return await response.json()


@asynccontextmanager
async def running_exchange(
    *,
    history: MarketHistory | None = None,
    now_ms: int = NOON,
    speed: float = 0.0,
    recording: Recording | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Exchange]:
    """An exchange whose clock stands still, unless a speed is given; requests may name `host`."""
    history = history or small_history()
    clock = ReplayClock(now_ms, history.start_ms, history.end_ms, speed)
    state = ExchangeState(history, clock, recording)
    runner = web.AppRunner(build_app(state, host), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession(headers={HEADER: "test"}) as client:
            yield Exchange(f"http://{host}:{port}", state, client)
    finally:
        await runner.cleanup()
