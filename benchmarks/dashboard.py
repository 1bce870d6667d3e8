"""The dashboard: time to the first picture in headless Chromium, and the cost of the views with many markets.

The worker and the broker are real. First picture: from the start of the navigation to the frame that draws the price
chart (the page's performance mark `picture`), with an empty browser cache. The cost of the views is measured with
`benchmarks.peers.views_alone`, which runs the views without the worker's agents.
"""

import asyncio
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from benchmarks.feed import Feeder, Payload
from benchmarks.report import Bench, Row
from config import Settings
from marketdata.codec import encode
from marketdata.times import MINUTE_MS, floor_to
from marketdata.topics import TopicRole
from streams.kafka import topics
from tests.support.browser import Browser, chromium
from tests.support.builders import candle, feature_row, tick
from tests.support.stack import alone, environment_of, eventually, running
from tests.support.streams_worker import without_exchanges, worker

FEW, MANY = 6, 1_000
PAGE_LOADS = 7
COST_S = 15
GOAL_PICTURE_MS = 1_000.0
_MINUTES = 60

_TIMES = """
    const at = (name) => performance.getEntriesByName(name)[0]?.startTime ?? null;
    return [at("first-contentful-paint"), at("picture")];"""


def _with_markets(settings: Settings, folder: Path, count: int) -> Settings:
    coins = [f"C{number:03d}" for number in range(1, count)]
    own = without_exchanges(alone(settings, folder / f"streams-{count}"))
    ids = {coin: coin.lower() for coin in coins}
    return own.model_copy(
        update={
            "markets": ("BTC-USD", *(f"{coin}-USD" for coin in coins)),
            "coingecko": own.coingecko.model_copy(update={"coin_ids": ids}),
        }
    )


def _candles(settings: Settings, now_ms: int) -> Iterator[Payload]:
    start = floor_to(now_ms, MINUTE_MS) - _MINUTES * MINUTE_MS
    for minute in range(_MINUTES):
        for number, symbol in enumerate(settings.markets):
            record = candle(start + minute * MINUTE_MS, symbol, 100.0 + number + minute % 7 * 0.1)
            yield number, symbol.encode(), encode(record)


def _ticks(settings: Settings, at_ms: int) -> Iterator[Payload]:
    for number, symbol in enumerate(settings.markets):
        mid = 100.0 + number
        record = tick(at_ms, symbol, bid_price=mid - 0.01, bid_qty=1.0, ask_price=mid + 0.01, ask_qty=1.0, price=mid)
        yield number, symbol.encode(), encode(record)


def _features(settings: Settings, at_ms: int) -> Iterator[Payload]:
    for number, symbol in enumerate(settings.markets):
        yield number, symbol.encode(), encode(feature_row(at_ms, symbol, mid=100.0 + number))


async def _preload(settings: Settings, now_ms: int) -> None:
    await topics.ensure(settings)
    async with Feeder(settings.kafka) as feeder:
        await feeder.send(settings.topic(TopicRole.CANDLES).name, _candles(settings, now_ms))
        for second in range(5):
            ticks = _ticks(settings, now_ms + (second - 5) * 1000)
            await feeder.send(settings.topic(TopicRole.TICKS).name, ticks)


def _wait(settings: Settings) -> str:
    """Wait until the views have data of every market; return the worker's address."""
    address = f"http://{settings.streams.web_host}:{settings.streams.web_port}"

    def has_all_markets() -> bool:
        try:
            listed = httpx.get(f"{address}/api/markets", timeout=30, trust_env=False).json()["markets"]
        except httpx.HTTPError:
            return False
        return all(row["last"] is not None for row in listed)

    eventually(has_all_markets, 120, "every market in the views", every_s=0.2)
    return address


def _open(page: Browser, address: str) -> tuple[float, float]:
    """Load the page; return the milliseconds to the first paint and to the first picture."""
    page.command("Network.clearBrowserCache")
    page.open("about:blank")
    page.open(f"{address}/")
    first, picture = eventually(
        lambda: times if None not in (times := page.run(_TIMES)) else None, 30, "the picture"
    ) or (0.0, 0.0)
    return float(first), float(picture)


def _page_loads(bench: Bench, count: int) -> list[Row]:
    settings = _with_markets(bench.stack.settings, bench.folder, count)
    folder = bench.folder / f"dashboard-{count}"
    folder.mkdir()
    asyncio.run(_preload(settings, int(time.time() * 1000)))
    with worker(settings, folder / "worker.log", stop_s=30), chromium(folder) as page:
        address = _wait(settings)
        page.command("Network.enable")
        _open(page, address)  # warm-up: excludes the browser's start
        opened = [_open(page, address) for _ in range(PAGE_LOADS)]
        nodes = page.run("return document.querySelectorAll('*').length")
    first, picture = (statistics.median(column) for column in zip(*opened, strict=True))
    goal = f"at most {GOAL_PICTURE_MS:,.0f} ms"
    return [
        Row(f"first picture, {count:,} markets", picture, "ms", goal=goal, met=picture <= GOAL_PICTURE_MS),
        Row(f"first paint, {count:,} markets", first, "ms"),
        Row(f"elements in the document, {count:,} markets", float(nodes), "elements"),
    ]


async def _live(settings: Settings, seconds: int) -> None:
    """Publish one tick, one clean tick and one feature row per market and second."""
    async with Feeder(settings.kafka) as feeder:
        for _ in range(seconds):
            began = time.perf_counter()
            at_ms = int(time.time() * 1000)
            for role, payloads in (
                (TopicRole.TICKS, _ticks(settings, at_ms)),
                (TopicRole.TICKS_CLEAN, _ticks(settings, at_ms)),
                (TopicRole.FEATURES, _features(settings, at_ms)),
            ):
                await feeder.send(settings.topic(role).name, payloads)
            await asyncio.sleep(max(0.0, 1 - (time.perf_counter() - began)))


async def _listener_cost(settings: Settings, process: psutil.Process, address: str) -> tuple[float, float]:
    """Return CPU usage in cores and bytes per second with one listener and a running feed."""
    received = 0

    async def listen() -> None:
        nonlocal received
        async with (
            httpx.AsyncClient(trust_env=False, timeout=60) as client,
            client.stream("GET", f"{address}/api/events") as response,
        ):
            async for data in response.aiter_bytes():
                received += len(data)

    listener = asyncio.create_task(listen())
    feeding = asyncio.create_task(_live(settings, COST_S + 4))
    await asyncio.sleep(2)  # the feed is running
    received, began, times = 0, time.perf_counter(), process.cpu_times()
    await asyncio.sleep(COST_S)
    after, took = process.cpu_times(), time.perf_counter() - began
    share = (after.user + after.system - times.user - times.system) / took
    rate = received / took
    await feeding
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)
    return share, rate


def _cost(bench: Bench, count: int) -> list[Row]:
    settings = _with_markets(bench.stack.settings, bench.folder, count)
    asyncio.run(_preload(settings, int(time.time() * 1000)))
    asyncio.run(_live(settings, 1))
    command = [sys.executable, "-m", "benchmarks.peers.views_alone"]
    with running(command, bench.folder / "views.log", environment_of(settings)) as program:
        address = _wait(settings)
        process = psutil.Process(program.process.pid)
        share, rate = asyncio.run(_listener_cost(settings, process, address))
        rss = process.memory_info().rss
    name = f"views alone, {count:,} markets, 3 records a market and second, one page listening"
    return [
        Row(f"{name}: CPU", share, "cores"),
        Row(f"{name}: resident memory", rss / 1e6, "MB"),
        Row(f"{name}: sent to the page", rate / 1000, "kB/s"),
    ]


def rows(bench: Bench) -> list[Row]:
    """Measure the first picture with few and many markets, and the views' cost with many."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        bench.log_progress("dashboard: Chromium is not installed; skipping the first picture")
        return _cost(bench, MANY)
    return [*_page_loads(bench, FEW), *_page_loads(bench, MANY), *_cost(bench, MANY)]
