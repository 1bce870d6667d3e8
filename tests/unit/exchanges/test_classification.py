"""One classification of responses: the same for quotes, candles, backfill and the WebSocket handshake."""

import asyncio
import gzip
import re
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import pytest
import stamina
from aiohttp import web

from config.sections import BinanceSettings
from exchanges.binance.kline_client import KlineClient
from exchanges.binance.rest import Binance
from exchanges.binance.stream import BinanceStream
from exchanges.classification import classify_status
from exchanges.coingecko import CoinGecko
from exchanges.http import JsonClient
from exchanges.reconnect import ConnectBudget
from exchanges.websocket import Connection
from marketdata.errors import FatalSourceError, RetryableSourceError, SourceError
from marketdata.markets import Market
from marketdata.times import MINUTE_MS
from streams.metrics import Metrics
from tests.support.exchange_server import NOON
from tests.support.scripted_server import ScriptedServer

BTC = Market("BTC", "USD")
TIMEOUT_S = 5.0
PAST = "Wed, 21 Oct 2015 07:28:00 GMT"

Get = Callable[[str, float], Awaitable[object]]


@dataclass(frozen=True)
class Expected:
    error: type[SourceError]
    kind: str
    retry_after_s: float | None = None
    code: int | None = None


def retryable(kind: str, retry_after_s: float | None = None) -> Expected:
    return Expected(RetryableSourceError, kind, retry_after_s)


def fatal(kind: str, code: int | None = None) -> Expected:
    return Expected(FatalSourceError, kind, code=code)


def found(error: SourceError) -> Expected:
    return Expected(type(error), error.kind, getattr(error, "retry_after_s", None), getattr(error, "code", None))


async def get_quotes(url: str, timeout_s: float) -> object:
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        return await Binance(JsonClient("binance", url, http), 6000).poll([BTC], timeout_s)


async def get_candles(url: str, timeout_s: float) -> object:
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        return await Binance(JsonClient("binance", url, http), 6000).candles(BTC, NOON, NOON + MINUTE_MS, timeout_s)


async def get_markets(url: str, timeout_s: float) -> object:
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        return await CoinGecko(JsonClient("coingecko", url, http), 30, 10_000).poll([BTC], timeout_s)


async def backfill(url: str, timeout_s: float) -> object:
    def fetch() -> object:
        with httpx.Client(trust_env=False, verify=False) as http:
            client = KlineClient(http, BinanceSettings(base_url=url, timeout_s=timeout_s))
            return client.fetch("BTCUSDT", "1m", NOON, NOON + MINUTE_MS)

    return await asyncio.to_thread(fetch)


async def open_stream(url: str, _timeout_s: float) -> object:
    async with aiohttp.ClientSession(trust_env=False) as session:
        source = BinanceStream(url, [BTC])
        unused: Any = None
        await Connection(
            source,
            source.streams(BTC),
            session,
            clock=unused,
            budget=ConnectBudget(300),
            metrics=Metrics().stream("binance"),
            on_event=unused,
            on_lost=unused,
            on_restart=unused,
            silence_s=1.0,
            life_ms=1,
        ).probe()
    return None


REST: tuple[Get, ...] = (get_quotes, get_candles, get_markets, backfill)

REFUSALS = [
    (429, "Throttled", {"retry_after": "7"}, retryable("rate_limited", 7.0)),
    (429, '{"code":-1003,"msg":"Too many requests."}', {"retry_after": "0"}, retryable("rate_limited", 5.0)),
    (429, "", {}, retryable("rate_limited", 5.0)),
    (429, "", {"retry_after": PAST}, retryable("rate_limited", 5.0)),
    (429, "", {"retry_after": "-7"}, retryable("rate_limited", 5.0)),
    (418, '{"code":-1003}', {"retry_after": "130"}, retryable("banned", 130.0)),
    (418, "", {}, retryable("banned", 120.0)),
    (418, "", {"retry_after": "1" * 400}, retryable("banned", 120.0)),
    (429, "", {"retry_after": "4000000000"}, retryable("rate_limited", 3_600.0)),
    (418, "", {"retry_after": "99999999999"}, retryable("banned", 3_600.0)),
    (302, "", {"location": "/"}, retryable("server_error")),
    (304, "", {}, retryable("server_error")),
    (408, "", {}, retryable("server_error")),
    (425, "", {"retry_after": "2"}, retryable("server_error", 2.0)),
    (500, "oops", {}, retryable("server_error")),
    (502, "<html>proxy</html>", {"retry_after": "nan"}, retryable("server_error")),
    (503, "", {"retry_after": "30"}, retryable("server_error", 30.0)),
    (503, "", {"retry_after": PAST}, retryable("server_error")),
    (401, "{}", {}, fatal("unauthorised")),
    (403, "<html>firewall</html>", {}, fatal("forbidden")),
    (403, '{"status":{"error_code":403,"error_message":"endpoint out of service for now"}}', {}, fatal("forbidden")),
    (404, '{"error":"coin not found"}', {}, fatal("bad_request")),
    (451, '{"code":0,"msg":"restricted location"}', {}, fatal("geo_blocked", 0)),
    (400, '{"code":-1102,"msg":"Mandatory parameter"}', {}, fatal("bad_request", -1102)),
    (400, '{"code":"-1102"}', {}, fatal("bad_request")),
    (414, "", {}, fatal("bad_request")),
    (403, "x" * 100_000, {}, fatal("forbidden")),
    (400, "[" * 10_000, {}, fatal("bad_request")),
    (400, "[]", {}, fatal("bad_request")),
]
INVALID_BODIES = ["", "<html>", '{"code": 1}', "[[1]]", "[NaN]", '"\\ud800"', "[" * 100_000]


@pytest.fixture(autouse=True)
def one_attempt() -> Iterator[None]:
    """Backfill raises its first error."""
    with stamina.set_testing(testing=True, attempts=1):
        yield


@pytest.mark.parametrize("get", REST)
@pytest.mark.parametrize(("status", "text", "headers", "expected"), REFUSALS)
async def test_rest_clients_classify_a_refusal_alike(
    server: ScriptedServer, get: Get, status: int, text: str, headers: dict[str, str], expected: Expected
) -> None:
    server.respond(status, text=text, **headers)
    with pytest.raises(SourceError) as caught:
        await get(server.url, TIMEOUT_S)
    assert found(caught.value) == expected
    assert f"HTTP {status}" in str(caught.value)


@pytest.mark.parametrize(("status", "text", "headers", "expected"), REFUSALS)
async def test_the_websocket_handshake_classifies_a_refusal_alike(
    server: ScriptedServer, status: int, text: str, headers: dict[str, str], expected: Expected
) -> None:
    server.respond(status, text=text, **headers)
    with pytest.raises(SourceError) as caught:
        await open_stream(server.url, TIMEOUT_S)
    # aiohttp does not pass on the body of a failed handshake, so there is no code.
    assert found(caught.value) == Expected(expected.error, expected.kind, expected.retry_after_s)


@pytest.mark.parametrize(
    ("get", "text"),
    # A row of candles that is not valid is left out, in live streams and in backfill.
    [(get, text) for get in REST for text in INVALID_BODIES if (get, text) != (backfill, "[[1]]")],
)
async def test_a_body_without_the_documented_json_is_retryable(server: ScriptedServer, get: Get, text: str) -> None:
    server.respond(text=text)
    with pytest.raises(RetryableSourceError) as caught:
        await get(server.url, TIMEOUT_S)
    assert found(caught.value) == retryable("bad_payload")


@pytest.mark.parametrize("get", REST)
async def test_a_body_that_does_not_decompress_is_retryable(server: ScriptedServer, get: Get) -> None:
    server.respond(text="[]", content_encoding="gzip")
    with pytest.raises(RetryableSourceError) as caught:
        await get(server.url, TIMEOUT_S)
    assert found(caught.value) == retryable("bad_payload")


@pytest.mark.parametrize("get", REST)
@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate"])
async def test_a_body_that_is_too_large_is_not_read(server: ScriptedServer, get: Get, encoding: str) -> None:
    large = b"[" + b" " * (200 << 20)  # less than a megabyte compressed
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}
    content = packed[encoding](large) if encoding in packed else large[: 8 << 20]
    del large

    async def send(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=content, headers={"content-encoding": encoding})

    server.handler = send
    tracemalloc.start()
    try:
        with pytest.raises(RetryableSourceError, match="at most 4,194,304 bytes") as caught:
            await get(server.url, TIMEOUT_S)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert found(caught.value) == retryable("bad_payload")


@pytest.mark.parametrize("get", REST)
async def test_an_encoding_that_was_not_asked_for_is_retryable(server: ScriptedServer, get: Get) -> None:
    server.respond(text="[]", content_encoding="br")
    with pytest.raises(RetryableSourceError, match="content-encoding: 'br': expected gzip or none") as caught:
        await get(server.url, TIMEOUT_S)
    assert found(caught.value) == retryable("bad_payload")


@pytest.mark.parametrize("get", REST)
async def test_no_response_in_time_is_a_timeout(server: ScriptedServer, get: Get) -> None:
    async def never(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.handler = never
    with pytest.raises(RetryableSourceError) as caught:
        await get(server.url, 0.1)
    assert found(caught.value) == retryable("timeout")


@pytest.mark.parametrize("get", REST)
async def test_a_body_that_arrives_too_slowly_is_a_timeout(server: ScriptedServer, get: Get) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    server.handler = drip
    with pytest.raises(RetryableSourceError) as caught:
        await get(server.url, 0.2)
    assert found(caught.value) == retryable("timeout")


@pytest.mark.parametrize("get", REST)
async def test_a_response_that_is_cut_is_a_connection_error(server: ScriptedServer, get: Get) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "1000"})
        await response.prepare(request)
        await response.write(b'[{"symbol"')
        assert request.transport is not None
        request.transport.close()
        return response

    server.handler = cut
    with pytest.raises(RetryableSourceError) as caught:
        await get(server.url, TIMEOUT_S)
    assert found(caught.value) == retryable("connection")


@pytest.mark.parametrize("get", [*REST, open_stream])
async def test_a_server_that_is_not_there_is_a_connection_error(get: Get) -> None:
    with pytest.raises(RetryableSourceError) as caught:
        await get("http://127.0.0.1:9", TIMEOUT_S)
    assert found(caught.value) == retryable("connection")


@pytest.mark.parametrize("retry_after", ["", "soon", "0", "-1", "inf", "-inf", "nan", "1" * 400, "²", PAST])
def test_a_retry_after_that_is_no_duration_is_ignored(retry_after: str) -> None:
    headers = {"retry-after": retry_after}
    assert found(classify_status("x", 503, headers)) == retryable("server_error")
    assert found(classify_status("x", 429, headers)) == retryable("rate_limited", 5.0)
    assert found(classify_status("x", 418, headers)) == retryable("banned", 120.0)


def test_the_message_names_request_status_body_and_pause() -> None:
    error = classify_status("binance: GET /x", 429, {"retry-after": "7"}, b"Too\n  many " + b"x" * 200)
    assert str(error) == "binance: GET /x: HTTP 429: Too many " + "x" * 111 + "…; retry after 7 s"
    assert str(classify_status("x", 451, {})) == "x: HTTP 451"


@pytest.mark.parametrize("get", [*REST, open_stream])
@pytest.mark.parametrize("status", [403, 451])
async def test_a_refusing_host_is_named_with_its_setting(server: ScriptedServer, get: Get, status: int) -> None:
    server.respond(status, {})
    with pytest.raises(FatalSourceError) as caught:
        await get(server.url, TIMEOUT_S)
    assert server.url.removeprefix("http") in str(caught.value)
    host = r"set \w+\.(base|stream)_url to a host that accepts requests from this network"
    assert re.search(rf"; if it lasts, {host}, or exchanges\.proxy$", str(caught.value))


@pytest.mark.parametrize("get", [*REST, open_stream])
@pytest.mark.parametrize("host", ["127.0.0.1:9", "does-not-exist.invalid"])
async def test_an_unreachable_host_is_named_with_its_setting(get: Get, host: str) -> None:
    with pytest.raises(RetryableSourceError) as caught:
        await get(f"http://{host}", TIMEOUT_S)
    assert found(caught.value) == retryable("connection")
    assert f"://{host}/" in str(caught.value)
    assert re.search(
        r"; if it lasts, check the network, or set \w+\.(base|stream)_url to another host, or exchanges\.proxy$",
        str(caught.value),
    )
