"""The dashboard with 1,000 markets in a headless Chromium, against the real worker on the real Kafka.

The sizes of the page and the events are checked; the page's times are printed.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from config import Settings
from marketdata.codec import encode
from marketdata.records import Tick
from marketdata.times import MINUTE_MS, floor_to
from marketdata.topics import TopicRole
from tests.support.browser import DOWN, ENTER, ESCAPE, PAGE_DOWN, TAB, Browser, chromium
from tests.support.builders import candle, tick
from tests.support.stack import Program, eventually
from tests.support.streams_worker import send, without_exchanges, worker

MARKETS = 1_000
COINS = ["BTC", *(f"C{number:03d}" for number in range(1, MARKETS))]
SYMBOLS = [f"{coin}-USD" for coin in COINS]
FLAGGED = {"C007-USD", "C907-USD"}
CHOSEN = "C907-USD"

MOST_ROWS = 60
MOST_NODES = 900
MOST_EVENT_BYTES = 16_000
MOST_EVENT_ROWS = 250

_DRAWN = """
    let drawn = 0;
    for (const canvas of document.querySelectorAll("#price-chart canvas")) {
      if (!canvas.width || !canvas.height) continue;
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      for (let i = 3; i < data.length; i += 4) drawn += data[i] > 0;
    }
    return drawn;"""
_FOCUS = """
    const at = document.activeElement;
    const ring = getComputedStyle(at).outlineStyle !== "none";
    return [at.id || at.className || at.dataset.seconds || at.tagName, ring];"""
_TIMES = """
    const mark = (name) => Math.round(performance.getEntriesByName(name)[0]?.startTime ?? -1);
    return {first_paint_ms: mark("first-contentful-paint"), picture_ms: mark("picture"),
            long_tasks_ms: (window.longTasks ?? []).map(Math.round)};"""
_WATCH_LONG_TASKS = """
    window.longTasks = [];
    new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((e) => e.duration)))
      .observe({ type: "longtask", buffered: true });"""


@pytest.fixture
def many(settings: Settings) -> Settings:
    """A worker's settings with 1,000 markets; the test sends their records."""
    ids = {coin: coin.lower() for coin in COINS[1:]}
    return without_exchanges(settings).model_copy(
        update={"markets": tuple(SYMBOLS), "coingecko": settings.coingecko.model_copy(update={"coin_ids": ids})}
    )


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path) as browser:
        yield browser


def quotes(at_ms: int) -> list[Tick]:
    """One tick per market, each around its own price; two of them are flagged."""
    ticks = []
    for number, symbol in enumerate(SYMBOLS):
        mid, is_flagged = 100.0 + number, symbol in FLAGGED
        ticks.append(
            tick(
                at_ms,
                symbol,
                bid_price=mid - 0.02,
                bid_qty=1.0,
                ask_price=mid + 0.02,
                ask_qty=1.0,
                price=mid * (1.025 if is_flagged else 1.0002),
                divergence_bps=250.0 if is_flagged else 2.0,
                flags=("divergent",) if is_flagged else (),
            )
        )
    return ticks


def rows_of(page: Browser) -> list[str]:
    """Symbols of the visible rows."""
    return list(page.run("return [...document.querySelectorAll('.row:not([hidden])')].map((r) => r.dataset.symbol)"))


async def feed(settings: Settings, address: str, program: Program) -> int:
    """Wait for the worker, send a quote of every market and the candles of one; return the quotes' time, ms."""

    def answers() -> bool:
        program.check_running()
        try:
            return httpx.get(f"{address}/health/ready", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def all_known() -> bool:
        listed = httpx.get(f"{address}/api/markets", trust_env=False).json()["markets"]
        return all(row["last"] is not None for row in listed)

    eventually(answers, 90, "the worker is ready")
    now_ms = int(time.time() * 1000)
    minutes = [floor_to(now_ms, MINUTE_MS) - back * MINUTE_MS for back in range(30, 0, -1)]
    candles = [candle(at, CHOSEN, 1_007.0 + at / MINUTE_MS % 5) for at in minutes]
    await send(settings, TopicRole.CANDLES, [(one.symbol.encode(), encode(one)) for one in candles])
    await send(settings, TopicRole.TICKS, [(one.symbol.encode(), encode(one)) for one in quotes(now_ms)])
    eventually(all_known, 60, "all markets in the read model")
    return now_ms


async def check_events(settings: Settings, address: str, at_ms: int) -> int:
    """Check that new quotes of all markets reach a listener in bounded events; return the largest event's bytes."""
    received: set[str] = set()
    biggest = 0
    with httpx.stream("GET", f"{address}/api/events?symbol={CHOSEN}", timeout=30, trust_env=False) as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("event: ")) == "event: health"
        await send(settings, TopicRole.TICKS, [(one.symbol.encode(), encode(one)) for one in quotes(at_ms)])
        while len(received) < MARKETS:
            next(line for line in lines if line == "event: markets")
            data = next(lines).removeprefix("data: ")
            rows = json.loads(data)["rows"]
            biggest = max(biggest, len(data))
            assert len(rows) <= MOST_EVENT_ROWS
            assert len(data) <= MOST_EVENT_BYTES
            received.update(row[0] for row in rows)
    return biggest


def assert_is_small(page: Browser) -> None:
    """Check that the document contains only the visible rows."""
    assert 5 < len(rows_of(page)) <= MOST_ROWS
    assert page.run("return document.querySelectorAll('*').length") < MOST_NODES


def check_keyboard(page: Browser) -> None:
    """Check that every Tab stop has a focus ring, and that the arrow keys select rows of the list."""
    stops = []
    for _ in range(10):
        page.keys(TAB)
        stops.append(page.run(_FOCUS))
    order = "skip theme market-search market-flagged 60 300 900 3600 price-chart forecast-chart"
    assert [stop for stop, _ in stops] == order.split()
    assert all(is_ringed for _, is_ringed in stops)
    page.run("document.getElementById('market-search').focus()")
    page.keys(PAGE_DOWN * 3 + DOWN)
    assert SYMBOLS[0] not in rows_of(page)
    assert_is_small(page)
    page.keys("c90 usd")
    assert page.text("#market-count") == "10 of 1,000 markets"
    page.keys(DOWN * 7 + ENTER)
    eventually(lambda: page.run("return document.body.dataset.loaded") == CHOSEN, 20, "the selected market")
    assert page.text("#price-title") == "C907 / USD"


def check_phone(page: Browser) -> None:
    """Check that the list is a panel below its button, and that Escape closes it."""
    page.command("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    eventually(lambda: not page.run("return document.getElementById('market-list').clientHeight"), 10, "the phone")
    page.run("document.getElementById('market').focus()")
    page.keys(ENTER)
    assert CHOSEN in rows_of(page)
    page.keys(ESCAPE)
    assert page.run("return document.activeElement.id") == "market"
    assert page.run("return document.documentElement.scrollWidth") <= 390


async def test_a_thousand_markets_stay_usable(many: Settings, page: Browser, tmp_path: Path) -> None:
    address = f"http://{many.streams.web_host}:{many.streams.web_port}"
    page.command("Page.addScriptToEvaluateOnNewDocument", source=_WATCH_LONG_TASKS)
    with worker(many, tmp_path / "worker.log") as program:
        now_ms = await feed(many, address, program)
        page.open(f"{address}/")
        eventually(lambda: page.run("return document.body.dataset.loaded") == SYMBOLS[0], 20, "the page")
        assert page.text("#market-count") == "1,000 markets"
        assert_is_small(page)
        assert "Prices of CoinGecko and Binance diverge: 2 markets, C007-USD, C907-USD" in page.text("#notices")
        check_keyboard(page)
        eventually(lambda: page.run(_DRAWN) > 2_000, 20, "the chart of the selected market")
        assert "CoinGecko +250.0 bps of mid, divergent" in page.text("#sources")
        eventually(lambda: "Last mid" in page.text("#features"), 20, "its features, computed by the worker's agents")

        page.run("const search = document.getElementById('market-search'); search.value = ''; search.focus()")
        page.click("#market-flagged")
        assert page.text("#market-count") == "2 of 1,000 markets"
        assert set(rows_of(page)) == FLAGGED
        page.click("#market-flagged")
        assert_is_small(page)

        biggest = await check_events(many, address, now_ms + 1_000)
        assert_is_small(page)
        check_phone(page)
        assert page.errors() == []
        print(json.dumps(page.run(_TIMES) | {"biggest_event_bytes": biggest}))  # noqa: T201  measurement for the reader of the run
