"""The routes on a real aiohttp server on loopback: input checks, live events and shutdown."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from marketdata.times import to_rfc3339
from marketdata.topics import TopicRole
from streams.views import pages
from streams.views.events import MAX_LISTENERS, QUEUED_BYTES, Hub, Listener
from streams.views.pages import Views
from tests.support.builders import polled, tick
from tests.support.fake_clock import FakeClock
from tests.support.stack import eventually_async, settings_with

START = 1_722_816_000_000
Client = TestClient[web.Request, web.Application]


@pytest.fixture
def views() -> Views:
    # No broker listens at this address: the views also respond without Kafka.
    return Views(
        settings_with({"BDI_KAFKA__BROKERS": "127.0.0.1:1", "BDI_MARKETS": "BTC-USD,ETH-USD"}), FakeClock(START + 1_000)
    )


@pytest.fixture
async def client(views: Views) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    server = web.Application()
    views.add_to(server)
    async with TestClient(TestServer(server)) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "status", "field", "expected"),
    [
        ("/api/markets/EUR-JPY/features", 404, "symbol", "one of BTC-USD, ETH-USD"),
        ("/api/markets/btc-us/history", 404, "symbol", "one of BTC-USD, ETH-USD; close matches: BTC-USD, ETH-USD"),
        ("/api/predictions?symbol=EUR-JPY", 404, "symbol", "one of BTC-USD, ETH-USD"),
        ("/api/events?symbol=EUR-JPY", 404, "symbol", "one of BTC-USD, ETH-USD"),
        ("/api/scores?limit=0", 400, "limit", "a whole number from 1 to 500"),
        ("/api/scores?limit=1e3", 400, "limit", "a whole number from 1 to 500"),
        ("/api/markets/BTC-USD/history?points=99999999999999999999", 400, "points", "a whole number from 1 to 1440"),
        ("/api/markets?limit=3", 400, "query", "no parameter"),
        (
            "/api/plot.png",
            404,
            "plot",
            "a plot of forecasts, written by training or by the predictor; there is none yet",
        ),
        ("/api/nope", 404, "path", "a path of docs/api.md"),
        ("/api/markets/BTC-USD/nope", 404, "path", "a path of docs/api.md"),
        ("/static/none.js", 404, "path", "a file of the dashboard"),
        ("/static/..%2f..%2fpages.py", 404, "path", "a file of the dashboard"),
    ],
)
async def test_invalid_requests_get_a_clear_error(
    client: Client, path: str, status: int, field: str, expected: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))  # a folder without a plot
    answer = await client.get(path)
    assert answer.status == status
    error = (await answer.json())["error"]
    assert (error["field"], error["expected"]) == (field, expected)


async def test_a_market_is_found_in_any_case(client: Client) -> None:
    for path in ("/api/markets/{}/history", "/api/markets/{}/features", "/api/predictions?symbol={}"):
        upper, lower = await client.get(path.format("BTC-USD")), await client.get(path.format("btc-usd"))
        assert (upper.status, lower.status) == (200, 200)
        assert await upper.read() == await lower.read()


async def test_documents_are_available_before_the_first_record(client: Client) -> None:
    for path in ("/api/markets", "/api/markets/BTC-USD/features", "/api/predictions", "/api/scores", "/api/health"):
        answer = await client.get(path)
        assert (answer.status, answer.content_type) == (200, "application/json")
    health = await (await client.get("/api/health")).json()
    assert health["now"] == to_rfc3339(START + 1_000)
    assert {part["state"] for part in health["parts"]} == {"waiting"}


async def test_the_page_and_its_files_are_served_with_a_strict_policy(client: Client) -> None:
    page = await client.get("/")
    assert page.content_type == "text/html"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    module = await client.get("/static/vendor/lightweight-charts.mjs")
    assert (module.status, module.content_type) == (200, "text/javascript")


async def test_all_routes_are_read_only(client: Client) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert (await client.request(method, "/api/markets")).status == 405


async def read_event(lines: AsyncIterator[bytes], name: str) -> dict[str, Any]:
    async for line in lines:
        if line.strip() == f"event: {name}".encode():
            data = await anext(lines)
            document: dict[str, Any] = json.loads(data.removeprefix(b"data: "))
            return document
    raise AssertionError(f"the stream ended before {name}")


async def test_a_record_reaches_only_the_listeners_of_its_market(client: Client, views: Views) -> None:
    async with asyncio.timeout(20):
        answer = await client.get("/api/events?symbol=BTC-USD")
        other = await client.get("/api/events?symbol=ETH-USD")
        lines, others = aiter(answer.content), aiter(other.content)
        assert (await read_event(lines, "health"))["state"] is not None
        await read_event(others, "health")
        record = tick(START, bid_price=1.0, ask_price=3.0, price=None, price_change_percentage_24h=None)
        assert views.read_model.apply(TopicRole.TICKS_CLEAN, record, START)
        views._on_record(TopicRole.TICKS_CLEAN, record)
        assert (await read_event(lines, "tick"))["point"] == [START, 2.0]
        assert (await read_event(others, "markets"))["rows"] == [["BTC-USD", 2.0, None, [], "mid"]]


async def test_a_market_that_no_source_has_shows_the_status_of_each(client: Client, views: Views) -> None:
    """Its polls have no clean tick: the states come from the collected one."""
    async with asyncio.timeout(20):
        answer = await client.get("/api/events?symbol=BTC-USD&snapshot=1")
        lines = aiter(answer.content)
        assert (await read_event(lines, "snapshot"))["sources"] == {}
        for status in ("timeout", "missing"):
            record = polled(START, binance="unknown_symbol", coingecko=status)
            assert not views.read_model.apply(TopicRole.TICKS, record, START)
            event = await read_event(lines, "tick")
            found = {name: state["status"] for name, state in event["sources"].items()}
            assert found == {"binance": "unknown_symbol", "coingecko": status}
            assert (event["point"], event["market"]["timestamp"]) == ([START, None], None)
        again = await client.get("/api/events?symbol=BTC-USD&snapshot=1")
        assert (await read_event(aiter(again.content), "snapshot"))["sources"]["coingecko"]["status"] == "missing"


async def test_the_server_stops_immediately_despite_a_listener(views: Views) -> None:
    server = web.Application()
    views.add_to(server)
    runner = web.AppRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with asyncio.timeout(20), ClientSession() as session:
        answer = await session.get(f"http://127.0.0.1:{port}/api/events")
        await read_event(aiter(answer.content), "health")
        async with asyncio.timeout(5):
            await runner.cleanup()
        await runner.cleanup()  # Faust calls it twice
        await answer.content.read()
        assert answer.content.at_eof()


async def test_a_listener_that_does_not_keep_up_receives_resync() -> None:
    listener = Listener("BTC-USD")
    for _ in range(1_001):
        listener.offer(("tick", b"1"))
    frames = listener.frames()
    assert (await anext(frames)).startswith(b"retry: ")
    assert await anext(frames) == b"event: resync\ndata: {}\n\n"


async def test_the_bytes_queued_for_a_listener_are_limited() -> None:
    listener = Listener("BTC-USD")
    listener.offer(("snapshot", b"1" * (2 * QUEUED_BYTES)))  # a single event may be larger
    frames = listener.frames()
    await anext(frames)
    assert len(await anext(frames)) > 2 * QUEUED_BYTES
    for _ in range(3):
        listener.offer(("tick", b"1" * (QUEUED_BYTES // 2)))
    assert await anext(frames) == b"event: resync\ndata: {}\n\n"
    listener.offer(("tick", b"1" * QUEUED_BYTES))  # the limit counts what is queued now
    assert (await anext(frames)).startswith(b"event: tick")


async def test_more_listeners_than_the_limit_are_refused_until_one_leaves(client: Client, views: Views) -> None:
    with ExitStack() as others:
        for _ in range(MAX_LISTENERS):
            others.enter_context(views.hub.listen("BTC-USD"))
        refused = await client.get("/api/events")
        assert (refused.status, (await refused.json())["error"]["field"]) == (503, "events")
        assert int(refused.headers["Retry-After"]) > 0
    accepted = await client.get("/api/events")
    assert accepted.status == 200
    accepted.close()


async def test_a_listener_that_reads_nothing_is_disconnected(
    client: Client, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_WRITE_S", 0.1)
    _reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1)  # reads one byte ahead
    writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")

    async def connected() -> bool:
        return not views.hub.is_idle

    await eventually_async(connected, 5, "the listener")
    deadline = asyncio.get_running_loop().time() + 10
    while not views.hub.is_idle:  # until the buffers of both sockets are full
        assert asyncio.get_running_loop().time() < deadline
        views.hub.publish("tick", "1" * (QUEUED_BYTES // 2))
        await asyncio.sleep(0.01)
    writer.close()


HOSTILE = ("%00", "app.js%00", "a" * 3_000, "%ed%a0%80", "%ff", "%1b[31m", "%0a", "%e2%80%ae", "vendor", "%2e%2e%2fx")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("folder", ["static", "api", "api/markets/BTC-USD"])
async def test_hostile_names_are_not_found(client: Client, folder: str, name: str) -> None:
    answer = await client.get(URL(f"/{folder}/{name}", encoded=True))
    assert answer.status == 404
    assert (await answer.text()).isprintable()


@pytest.mark.parametrize("value", HOSTILE)
async def test_hostile_parameters_are_refused(client: Client, value: str) -> None:
    for path in (f"/api/scores?symbol={value}", f"/api/scores?limit={value}", f"/api/scores?{value}=1"):
        answer = await client.get(URL(path, encoded=True))
        assert answer.status in {400, 404}
        assert (await answer.text()).isprintable()


async def test_a_closed_hub_ends_new_listeners() -> None:
    hub = Hub()
    hub.close()
    with hub.listen("BTC-USD") as listener:
        frames = listener.frames()
        await anext(frames)
        assert [frame async for frame in frames] == []
    assert hub.is_idle
