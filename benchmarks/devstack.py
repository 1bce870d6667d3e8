"""The local stack's start, and the simulated exchange against a bare aiohttp server with the same bytes."""

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
"""Path, and how often it is asked for."""


async def _per_second(url: str, requests: int) -> float:
    left = iter(range(requests))

    async def client(session: ClientSession) -> None:
        for _ in left:
            async with session.get(url) as answer:
                answer.raise_for_status()
                await answer.read()

    async with ClientSession() as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
        return requests / (time.perf_counter() - began)


def _bare(bench: Bench, body: bytes, requests: int) -> float:
    """Requests a second of a server that sends these bytes and does nothing else."""
    (port,) = free_ports(1)
    file, log = bench.folder / "body", bench.folder / "bare.log"
    file.write_bytes(body)
    command = [sys.executable, "-m", "benchmarks.peers.aiohttp_bare", "--port", str(port), "--body", str(file)]
    url = f"http://127.0.0.1:{port}/"
    with running(command, log, environment_of(bench.stack.settings)):

        def answers() -> bool:
            try:
                return httpx.get(url, trust_env=False).is_success
            except httpx.TransportError:
                return False

        eventually(answers, 20, "the bare server answers")
        return asyncio.run(_per_second(url, requests))


def rows(bench: Bench) -> list[Row]:
    """Seconds to a healthy stack, requests a second of the exchange."""
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
        # The exchange counts weights as Binance does: far more than a minute's are asked for here.
        httpx.post(f"{exchange.control}/limits", json={"weight": 10**9}, trust_env=False).raise_for_status()
        for name, (path, requests) in ENDPOINTS.items():
            url = f"{exchange.binance}{path}"
            body = httpx.get(url, trust_env=False).raise_for_status().content
            asyncio.run(_per_second(url, requests // 3))  # warms up
            served, bare = asyncio.run(_per_second(url, requests)), _bare(bench, body, requests)
            peer = "bare aiohttp, same bytes"
            found.append(Row(f"{name} ({len(body) / 1000:,.1f} kB)", served, "requests/s", peer, served / bare))
            found.append(Row(f"peer: {peer}", bare, "requests/s"))
    return found
