"""The dashboard in a headless Chromium, with a real worker, the real Kafka and a simulated exchange."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from config import Settings
from devstack.state import load_state
from marketdata.codec import encode
from marketdata.records import Prediction
from marketdata.times import HOUR_MS, floor_to, from_rfc3339, to_rfc3339
from marketdata.topics import TopicRole
from tests.support.browser import ENTER, Browser, chromium
from tests.support.builders import SYMBOL, dead_letter, prediction, score
from tests.support.stack import ExchangeUnderTest, StackUnderTest, eventually
from tests.support.streams_worker import send, worker


@pytest.fixture
def live(settings: Settings, exchange: ExchangeUnderTest) -> Settings:
    """A worker's settings with an exchange clock at 60 times real time: one poll per second."""
    return settings.model_copy(
        update={
            "binance": settings.binance.model_copy(update={"base_url": exchange.binance}),
            "coingecko": settings.coingecko.model_copy(update={"base_url": exchange.coingecko}),
            "clock": settings.clock.model_copy(update={"source": "exchange", "speed": 60.0}),
            "streams": settings.streams.model_copy(update={"candle_lookback_h": 2}),
        }
    )


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path) as browser:
        yield browser


def address(settings: Settings) -> str:
    return f"http://{settings.streams.web_host}:{settings.streams.web_port}"


def get(settings: Settings, path: str) -> Any:
    return httpx.get(address(settings) + path, trust_env=False).json()


def wait_for_worker(settings: Settings) -> None:
    def has_ticks() -> bool:
        try:
            health = get(settings, "/api/health")
        except httpx.HTTPError:
            return False
        return all(part["state"] == "ok" for part in health["parts"] if part["part"] in ("ticks_clean", "features"))

    eventually(has_ticks, 90, "the worker's ticks and features")


def open_page(page: Browser, settings: Settings) -> None:
    page.open(f"{address(settings)}/")
    eventually(lambda: page.run("return document.body.dataset.loaded") == SYMBOL, 20, "the page loaded")


def drawn_pixels(page: Browser, chart: str) -> int:
    """Pixels of a chart that are not transparent."""
    script = """
        let drawn = 0;
        for (const canvas of document.querySelectorAll(`#${arguments[0]} canvas`)) {
          if (!canvas.width || !canvas.height) continue;
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          for (let i = 3; i < data.length; i += 4) drawn += data[i] > 0;
        }
        return drawn;"""
    return int(page.run(script, chart))


def check_numbers(page: Browser) -> None:
    """Check that the page's functions show five significant digits of prices, and the three decimals of quantities."""
    prices = [1e-8, 2.34567e-5, 0.51234, 99.5, 58_123.4, 1e8, 0, None, 1e-13]
    script = """return import("/static/format.js").then((it) => arguments[0].map((value) => it[arguments[1]](value)))"""
    assert page.run(script, prices, "price") == [
        *("0.000000010000", "0.000023457", "0.51234", "99.5000", "58,123.40", "100,000,000.00", "0.00", "–"),
        "1.000e−13",
    ]
    assert page.run(script, [12_345.678, 0.018, 1e-5, 0, None], "quantity") == [
        *("12,345.678", "0.018000", "0.000010000", "0.000", "–"),
    ]


def select_by_keyboard(page: Browser) -> None:
    """Select ETH-USD in the list."""
    page.run("document.getElementById('market').focus()")
    page.keys(f"{ENTER}eth us")
    assert page.text("#market-count") == "1 of 6 markets"
    page.keys(ENTER)
    eventually(lambda: page.text("#price-title") == "ETH / USD", 20, "the market selected by keyboard")
    assert page.run("return document.activeElement.id") == "market"  # the focus returns to the button
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"


def of_a_longer_horizon(hour_ms: int) -> Prediction:
    """A forecast issued five hours ago with a horizon of 24 h: its target is later than those of current forecasts."""
    return prediction(hour_ms + 18 * HOUR_MS, horizon_h=24, issued_at=to_rfc3339(hour_ms - 5 * HOUR_MS))


def check_that_tables_fit(page: Browser) -> None:
    """Check that scores and health need no horizontal scrolling on a laptop and on a phone."""
    for width, is_phone in ((1280, False), (390, True)):
        page.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=is_phone
        )
        boxes = "[document.documentElement, ...document.querySelectorAll('.scores .scroll, .health .scroll')]"
        wide = page.run(
            f"return {boxes}.filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.outerHTML)"
        )
        assert wide == [], width
    page.command("Emulation.clearDeviceMetricsOverride")


async def check_market_without_forecasts(settings: Settings, page: Browser, start_ms: int) -> None:
    """Check that an old forecast of a market outside forecasting.symbols is shown and is not overdue."""
    assert "No forecasts for ETH-USD: it is not in forecasting.symbols." in page.text("#forecast")
    old = encode(prediction(start_ms, "ETH-USD"))
    await send(settings, TopicRole.PREDICTIONS, [(b"ETH-USD", old)])
    eventually(lambda: page.text("#forecast-title") == "Latest forecast", 20, "the old forecast")
    assert "There are no further forecasts for this market." in page.text("#forecast .notice")
    assert not page.run("return document.querySelector('#forecast.overdue')")


async def test_the_page_draws_and_updates(live: Settings, page: Browser, tmp_path: Path) -> None:
    with worker(live, tmp_path / "worker.log"):
        wait_for_worker(live)
        open_page(page, live)
        eventually(lambda: page.text("#link-text") == "Live", 10, "the live stream")
        assert page.text("#price-title") == "BTC / USD"
        check_numbers(page)
        assert page.text("#features tbody tr:first-child th") == "Last mid"
        assert "Waiting for the first forecast for BTC-USD." in page.text("#forecast")
        eventually(lambda: drawn_pixels(page, "price-chart") > 2_000, 20, "a drawn chart")

        seen = page.text("#quote-line")
        eventually(lambda: page.text("#quote-line") not in ("", seen), 20, "a newer tick on the page")
        before = page.text("#features-line")
        eventually(lambda: page.text("#features-line") != before, 20, "newer features on the page")

        markets = get(live, "/api/markets")
        now_ms = from_rfc3339(markets["now"])
        last = markets["markets"][0]["last"]
        made = prediction(
            floor_to(now_ms, HOUR_MS),
            issued_at=to_rfc3339(now_ms),
            last_price=last,
            pred_avg_price=last * 1.001,
            lower=last * 0.99,
            upper=last * 1.012,
            model_version="model-under-test",
            role="baseline",
            stale_reason="no model was trained yet",
        )
        empty = drawn_pixels(page, "forecast-chart")
        key = SYMBOL.encode()
        await send(live, TopicRole.PREDICTIONS, [(key, encode(of_a_longer_horizon(floor_to(now_ms, HOUR_MS))))])
        eventually(
            lambda: "Forecasts: overdue for BTC-USD" in page.text("#alerts"), 20, "overdue forecasts on the page"
        )
        eventually(lambda: page.text("#forecast-title") == "Overdue forecast", 20, "the forecast marked as overdue")
        assert "This is the last forecast received." in page.text("#forecast.overdue .notice")
        await send(live, TopicRole.PREDICTIONS, [(key, encode(made))])
        eventually(lambda: "model-under-test" in page.text("#forecast"), 20, "the forecast on the page")
        assert "Baseline instead of the champion: no model was trained yet" in page.text("#forecast")
        assert not page.run("return document.querySelector('#forecast.overdue')")
        eventually(lambda: "Forecasts" not in page.text("#alerts"), 20, "the end of the overdue alert")
        eventually(lambda: drawn_pixels(page, "forecast-chart") > empty, 20, "the band in the forecast chart")
        version = "lstm-quantile-20240804T00-0123456789"
        # The running hour has no score yet.
        past = prediction(floor_to(now_ms, HOUR_MS) - HOUR_MS, model_version=version)
        await send(live, TopicRole.PREDICTION_SCORES, [(key, encode(score(past, scored_at=made.issued_at)))])
        eventually(lambda: "100.0 %" in page.text("#scores"), 20, "the score on the page")
        check_that_tables_fit(page)
        await send(live, TopicRole.DEAD_LETTERS, [(key, encode(dead_letter(now_ms, value="<b>1.0</b>")))])
        eventually(lambda: "1 dead letter" in page.text("#health-notes"), 20, "the dead letter on the page")
        assert "<b>1.0</b>" in page.text("#health-notes")  # records are inserted as text, not as markup

        select_by_keyboard(page)
        await check_market_without_forecasts(live, page, floor_to(now_ms, HOUR_MS) - 30 * HOUR_MS)

        page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        theme = "return document.documentElement.dataset.theme"
        eventually(lambda: page.run(theme) == "dark", 10, "the system's dark theme")
        page.click("#theme")
        assert page.run(theme) == "light"

        vast = (
            "return import('/static/format.js').then(({ price, count }) => [price(1e299), count(-1e12), count(1e11)])"
        )
        assert page.run(vast) == ["1.000e+299", "−1.000e+12", "100,000,000,000"]
        page.command("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
        assert page.run("return document.documentElement.scrollWidth") <= 390
        assert page.errors() == []


@contextmanager
def suspended_kafka(stack: StackUnderTest) -> Iterator[None]:
    """Suspend the broker: it accepts connections but does not respond."""
    state = load_state(stack.state_dir)
    assert state is not None
    kafka = state.parts["kafka"].process
    assert kafka is not None
    os.kill(kafka.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(kafka.pid, signal.SIGCONT)


def test_the_page_reports_outages_and_survives_a_restart(
    live: Settings, stack: StackUnderTest, exchange: ExchangeUnderTest, page: Browser, tmp_path: Path
) -> None:
    with ExitStack() as first:
        first.enter_context(worker(live, tmp_path / "worker.log"))
        wait_for_worker(live)
        open_page(page, live)
        exchange.control("POST", "faults", fault="503", match="bookTicker")
        eventually(lambda: "Binance: outage (" in page.text("#alerts"), 40, "the outage of Binance on the page")
        assert "No quote from Binance" in page.text("#quote-line")
        exchange.control("DELETE", "faults")
        eventually(lambda: "Binance" not in page.text("#alerts"), 60, "the end of the outage on the page")

        for match in ("bookTicker", "/coingecko/"):  # a poll without any source has no clean tick
            exchange.control("POST", "faults", fault="503", match=match)
        eventually(lambda: "no source responds" in page.text("#alerts"), 40, "the outage of all sources on the page")
        sources = {source["source"]: source for source in get(live, "/api/health")["sources"]}
        assert {source["status"] for source in sources.values()} == {"server_error"}
        assert all(source["failing_since"] for source in sources.values())
        exchange.control("DELETE", "faults")
        eventually(lambda: "outage (" not in page.text("#alerts"), 60, "the end of the outage of all on the page")

        ok_states = "return document.querySelectorAll('#sources [data-state=ok], #health-parts [data-state=ok]').length"
        with suspended_kafka(stack):
            eventually(lambda: page.text("#link-text") == "Not live", 2.0, "the end of the live state", every_s=0.02)
            eventually(lambda: "Kafka: outage" in page.text("#alerts"), 60, "the outage of Kafka on the page")
            assert page.text("#link-text") == "Not live"
            assert page.run(ok_states) == 0  # no part is shown as ok
        eventually(lambda: "Kafka" not in page.text("#alerts"), 60, "the end of Kafka's outage on the page")
        eventually(lambda: page.text("#link-text") == "Live" and page.run(ok_states), 20, "the page is live again")

    # The worker stops within five seconds although the page is connected.
    eventually(lambda: page.text("#link-text") == "Reconnecting…", 20, "the page notices that the worker is gone")
    assert "No response from the worker" in page.text("#alerts")
    before = page.text("#quote-line")

    with worker(live, tmp_path / "worker-again.log"):
        wait_for_worker(live)
        eventually(lambda: page.text("#link-text") == "Live", 20, "the page is live again")
        eventually(lambda: page.text("#quote-line") not in ("", before), 20, "a newer tick on the page")
        assert "No response from the worker" not in page.text("#alerts")
        refused = "net::ERR_"  # logged by the browser for each attempt while the server is down
        assert [line for line in page.errors() if refused not in line] == []
