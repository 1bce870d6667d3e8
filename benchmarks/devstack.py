"""Start of the local stack, and the simulated exchange compared with a bare aiohttp server with the same bytes."""

import asyncio
import sys
import time
from pathlib import Path

import httpx
from aiohttp import ClientSession

from benchmarks.report import Bench, Row
from tests.support.stack import environment_of, eventually, free_ports, running, running_exchange, running_stack

CLIENTS = 8
ENDPOINTS = {
    "bookTicker, all symbols": ("/api/v3/ticker/bookTicker", 1_500),
    "klines, 1,000 rows": ("/api/v3/klines?symbol=BTCUSDT&interval=1h&limit=1000", 300),
}
"""Path and number of requests."""


async def _per_second(url: str, requests: int) -> float:
    left = iter(range(requests))

    async def client(session: ClientSession) -> None:
        for _ in left:
            async with session.get(url) as response:
                response.raise_for_status()
                await response.read()

    async with ClientSession() as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
        return requests / (time.perf_counter() - began)


def _bare(bench: Bench, body: bytes, requests: int) -> float:
    """Requests per second of a server that only sends these bytes."""
    (port,) = free_ports(1)
    file, log = bench.folder / "body", bench.folder / "bare.log"
    file.write_bytes(body)
    command = [sys.executable, "-m", "benchmarks.peers.aiohttp_bare", "--port", str(port), "--body", str(file)]
    url = f"http://127.0.0.1:{port}/"
    with running(command, log, environment_of(bench.stack.settings)):

        def is_up() -> bool:
            try:
                return httpx.get(url, trust_env=False).is_success
            except httpx.TransportError:
                return False

        eventually(is_up, 20, "the bare server answers")
        return asyncio.run(_per_second(url, requests))


def rows(bench: Bench) -> list[Row]:
    """Measure the seconds to a healthy stack, and requests per second of the exchange."""
    began = time.monotonic()
    folder = Path(bench.folder / "devstack")
    folder.mkdir()
    found = [Row("Kafka and HDFS healthy, from nothing", bench.stack_up_s, "s")]
    with running_stack(folder):
        found.append(Row("the same, a second stack beside it", time.monotonic() - began, "s"))
        ending = time.monotonic()
    found.append(Row("down", time.monotonic() - ending, "s"))
    folder = bench.folder / "exchange"
    folder.mkdir()
    began = time.monotonic()
    with running_exchange(folder, speed=1) as exchange:
        found.append(Row("simulated exchange answers", time.monotonic() - began, "s"))
        # The exchange enforces Binance's request weights; this benchmark needs far more than one minute's limit.
        exchange.control("POST", "limits", weight=10**9)
        for name, (path, requests) in ENDPOINTS.items():
            url = f"{exchange.binance}{path}"
            body = httpx.get(url, trust_env=False).raise_for_status().content
            asyncio.run(_per_second(url, requests // 3))  # warm-up
            served, bare = asyncio.run(_per_second(url, requests)), _bare(bench, body, requests)
            peer = "bare aiohttp, same bytes"
            found.append(Row(f"{name} ({len(body) / 1000:,.1f} kB)", served, "requests/s", peer, served / bare))
            found.append(Row(f"peer: {peer}", bare, "requests/s"))
    return found
