"""The exchange's symbols of the markets: rule, wire format, refusals, and markets that are unlisted or do not trade."""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from batch.klines.download import download_klines
from batch.klines.plan import Span
from config.sections import BinanceSettings
from exchanges.binance.kline_client import KlineClient
from exchanges.binance.resolver import REFRESH_S, SymbolResolver
from exchanges.binance.rest import Binance
from exchanges.binance.stream import BinanceStream
from exchanges.binance.symbols import Symbols, parse_exchange_info
from exchanges.http import JsonClient
from exchanges.interface import QuoteUpdate
from marketdata.errors import InvalidValueError, RetryableSourceError
from marketdata.markets import Market
from streams.collection.tick_builder import Bounds, Polled, build_tick
from tests.support.fake_clock import FakeClock
from tests.support.scripted_server import ScriptedServer, running_server

INFO, BOOK = "/api/v3/exchangeInfo", "/api/v3/ticker/bookTicker"
MINUTE = 1_722_816_000_000
BTC, ETH, W = Market("BTC", "USD"), Market("ETH", "USD"), Market("W", "USD")


def row(base: str, quote: str, status: str = "TRADING", symbol: str | None = None) -> dict[str, Any]:
    return {"symbol": symbol or base + quote, "status": status, "baseAsset": base, "quoteAsset": quote, "filters": []}


def info(*rows: Any, limits: list[Any] | None = None) -> dict[str, Any]:
    return {"timezone": "UTC", "rateLimits": limits or [], "symbols": [*rows]}


def mutated(seed: int) -> bytes:
    """A valid answer with changed, removed or repeated bytes."""
    rng = random.Random(seed)
    body = bytearray(json.dumps(info(row("BTC", "USDT"), row("ETH", "BTC"), limits=[{"limit": 1200}])).encode())
    for _change in range(rng.randrange(1, 6)):
        at = rng.randrange(len(body))
        body[at : at + rng.randrange(3)] = rng.choice(
            [b"\xff", b"[" * 3_000, b'"', b"null", b"{", b"\x1b", b"1e999", b""]
        )
    return bytes(body)


def resolved(*rows: Any, markets: list[Market]) -> Symbols:
    symbols = Symbols(markets)
    symbols.update(parse_exchange_info(json.dumps(info(*rows)).encode()))
    return symbols


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ([row("BTC", "USDT")], "BTCUSDT"),
        ([row("BTC", "USDT"), row("BTC", "USD")], "BTCUSD"),
        ([row("BTC", "USD", "BREAK"), row("BTC", "USDT")], "BTCUSDT"),
        ([row("BTC", "USD", "BREAK")], "BTCUSD"),
        ([row("BTC", "USDT", symbol="XBT_USDT")], "XBT_USDT"),
    ],
)
def test_the_dollar_is_the_listed_pair_that_trades(rows: list[Any], name: str) -> None:
    symbols = resolved(*rows, markets=[BTC])
    assert (symbols.is_listed(BTC), symbols.name(BTC)) == (True, name)


def test_base_and_quote_come_from_the_list_and_not_from_the_name() -> None:
    markets = [Market("A", "FDUSD"), Market("1INCH", "BTC"), Market("1000SATS", "TRY")]
    symbols = resolved(row("AFD", "USD"), row("1INCH", "BTC"), markets=markets)
    assert [symbols.is_listed(market) for market in markets] == [False, True, False]
    other = Market("BTC", "USD", usd_asset="FDUSD")
    assert resolved(row("BTC", "USDT"), row("BTC", "FDUSD"), markets=[other]).name(other) == "BTCFDUSD"


def test_close_matches_are_another_base_or_another_quote() -> None:
    rows = [row("DOGE", "USDT"), row("DOGE", "TRY"), row("DODO", "JPY"), row("BTC", "JPY")]
    symbols = resolved(*rows, markets=[Market("DOGE", "JPY"), Market("DOGS", "USD"), Market("XYZ", "BNB")])
    assert [symbols.problem(market) for market in symbols.markets] == [
        "binance does not list DOGE-JPY; close matches: DOGE-USDT, DOGE-TRY",
        "binance does not list DOGS-USD; close matches: DOGE-USD",
        "binance does not list XYZ-BNB",
    ]


def test_entries_of_another_form_do_not_affect_others() -> None:
    limits = [None, {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": "x"}]
    limits += [{"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61000}]
    limits += [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 1200}]
    odd = [
        None,
        7,
        {"symbol": 1},
        *(row("ETH", "USDT", symbol=text) for text in ('X","Y', "X" * 50, "A\x1b", "é", " ")),
    ]
    body = json.dumps(info(*odd, row("W", "USDT", "BREAK\n"), row("BTC", "USDT"), limits=limits))
    found = parse_exchange_info(body.encode())
    assert [pair.symbol for pair in found.pairs.values()] == ["BTCUSDT"]
    assert found.weight_per_minute == 1200


@pytest.mark.parametrize(
    "body", [b"[]", b"<html>", b'{"symbols": {}}', b'{"symbols": []}', b'{"symbols": [1]}', b"\xff"]
)
def test_a_list_without_pairs_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidValueError):
        parse_exchange_info(body)


@given(st.binary(max_size=200) | st.integers(0, 10**6).map(mutated))
def test_no_answer_raises_another_error(body: bytes) -> None:
    with suppress(InvalidValueError):
        found = parse_exchange_info(body)
        assert all(re.fullmatch(r"[A-Z0-9._-]{1,40}", pair.symbol) for pair in found.pairs.values())


class Host:
    """A server whose answer to exchangeInfo a test sets; quotes are of all requested symbols that are listed."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.info: Any = info(row("BTC", "USDT"), row("ETH", "USDT"))
        self.status = 200
        self.retry_after = "7"
        self.zeros: set[str] = set()
        self.release = asyncio.Event()
        self.release.set()
        server.handler = self._respond

    def requests(self, path: str) -> list[web.Request]:
        return [request for request in self.server.requests if request.path == path]

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        if request.path == INFO:
            await self.release.wait()
            return web.json_response(self.info, status=self.status, headers={"Retry-After": self.retry_after})
        names = json.loads(request.query["symbols"])
        price = {name: "0" if name in self.zeros else "10.5" for name in names}
        rows = [{"symbol": n, "bidPrice": p, "bidQty": p, "askPrice": p, "askQty": p} for n, p in price.items()]
        return web.json_response(rows)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with running_server() as server:
        yield Host(server)


Build = Callable[..., tuple[Binance, SymbolResolver]]


@pytest.fixture
async def build(host: Host) -> AsyncIterator[Build]:
    resolvers: list[SymbolResolver] = []
    async with httpx.AsyncClient(trust_env=False) as client:

        def built(*markets: Market, clock: FakeClock | None = None, unknown: list[str] | None = None) -> Any:
            http = JsonClient("binance", host.server.url, client)
            monotonic = (clock or FakeClock()).monotonic
            on_unknown = ([] if unknown is None else unknown).append
            resolvers.append(SymbolResolver(http, markets, on_unknown=on_unknown, monotonic=monotonic))
            return Binance(http, 6000, monotonic=monotonic, resolver=resolvers[-1]), resolvers[-1]

        yield built
        for resolver in resolvers:
            await resolver.close()


async def test_quotes_are_requested_by_the_listed_symbols(host: Host, build: Build) -> None:
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 1200}
    host.info = info(row("BTC", "USD"), row("BTC", "USDT"), row("ETH", "USDT"), limits=[limit])
    source, _resolver = build(BTC, ETH)
    assert source.budget.weight_per_minute == 6000
    assert set((await source.poll([BTC, ETH], 5.0)).quotes) == {"BTC-USD", "ETH-USD"}
    assert [request.query["symbols"] for request in host.requests(BOOK)] == ['["BTCUSD","ETHUSDT"]']
    assert source.budget.weight_per_minute == 1200
    await source.poll([BTC, ETH], 5.0)
    assert len(host.requests(INFO)) == 1


async def test_a_market_that_is_not_listed_is_one_line_with_close_matches(
    host: Host, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    clock, unknown = FakeClock(), list[str]()
    wrong = Market("BTCC", "USD")
    source, _resolver = build(BTC, wrong, clock=clock, unknown=unknown)
    for _hour in range(3):
        result = await source.poll([BTC, wrong], 5.0)
        assert (set(result.quotes), result.unknown) == ({"BTC-USD"}, {"BTCC-USD"})
        assert await source.candles(wrong, MINUTE, MINUTE, 5.0) == []
        clock.now_s += REFRESH_S
    assert {request.query["symbols"] for request in host.requests(BOOK)} == {'["BTCUSDT"]'}
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == ["binance does not list BTCC-USD; close matches: BTC-USD; the other markets continue"]
    assert unknown == ["BTCC-USD"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110  the request runs in a task of its own
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("status", [403, 404, 451])
async def test_without_the_list_base_and_quote_are_joined_until_it_can_be_read(
    host: Host, build: Build, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    clock = FakeClock()
    host.status, host.info = status, info(row("BTC", "USD"))
    source, resolver = build(BTC, clock=clock)
    stream = BinanceStream("wss://host", [BTC], resolver.symbols)
    quote = '{"stream":"%s@bookTicker","data":{"u":1,"b":"1","B":"1","a":"2","A":"1"}}'
    each = 2 if status == 404 else 1  # with the parameter and without
    for pauses in range(1, 4):
        assert set((await source.poll([BTC], 5.0)).quotes) == {"BTC-USD"}
        await until(lambda: not resolver.is_reading)
        assert len(host.requests(INFO)) == pauses * each
        assert set((await source.poll([BTC], 5.0)).quotes) == {"BTC-USD"}
        assert len(host.requests(INFO)) == pauses * each  # not before the pause is over
        clock.now_s += REFRESH_S
    assert isinstance(stream.parse(quote % "btcusdt"), QuoteUpdate)
    version = stream.version
    host.status = 200
    await source.poll([BTC], 5.0)
    await until(lambda: stream.version > version)
    await source.poll([BTC], 5.0)
    assert host.requests(BOOK)[-1].query["symbols"] == '["BTCUSD"]'
    assert stream.streams(BTC)[0] == "btcusd@bookTicker"
    assert stream.parse(quote % "btcusdt") is None
    assert isinstance(stream.parse(quote % "btcusd"), QuoteUpdate)
    fallbacks = [record.getMessage() for record in caplog.records if "are concatenated" in record.getMessage()]
    assert len(fallbacks) == 1
    assert "BTCUSDT for BTC-USD, until the list of symbols can be read" in fallbacks[0]


async def test_a_rate_limit_holds_for_the_poll_too(host: Host, build: Build) -> None:
    host.status = 429
    source, resolver = build(BTC)
    with pytest.raises(RetryableSourceError, match="HTTP 429") as caught:
        await source.poll([BTC], 5.0)
    assert (caught.value.retry_after_s, host.requests(BOOK)) == (7, [])
    host.status = 200
    await source.poll([BTC], 5.0)
    assert not resolver.symbols.is_known  # not requested before the pause is over


async def test_after_an_error_that_may_pass_the_list_is_requested_again_soon(host: Host, build: Build) -> None:
    clock = FakeClock()
    source, resolver = build(BTC, clock=clock)
    host.retry_after = ""
    for requests in range(1, 8):
        host.status = 503
        assert set((await source.poll([BTC], 5.0)).quotes) == {"BTC-USD"}
        await until(lambda: not resolver.is_reading)
        assert len(host.requests(INFO)) == requests
        clock.now_s += 30.0
    host.status = 200
    await source.poll([BTC], 5.0)
    await until(lambda: resolver.symbols.is_known)


async def test_a_host_that_does_not_know_the_parameter_is_asked_without_it(host: Host, build: Build) -> None:
    handler = host.server.handler
    assert handler is not None

    async def refuse(request: web.Request) -> web.StreamResponse:
        if request.query.get("showPermissionSets"):
            return web.json_response({"code": -1101, "msg": "Too many parameters"}, status=400)
        return await handler(request)

    host.server.handler = refuse
    source, resolver = build(BTC)
    await source.poll([BTC], 5.0)
    assert resolver.symbols.is_known


async def test_a_slow_list_does_not_hold_a_poll_beyond_its_time(host: Host, build: Build) -> None:
    host.release.clear()
    source, _resolver = build(BTC)
    with pytest.raises(RetryableSourceError, match=r"exchangeInfo: no list of symbols within 0\.05 s"):
        await source.poll([BTC], 0.05)
    assert host.requests(BOOK) == []
    host.release.set()
    assert set((await source.poll([BTC], 5.0)).quotes) == {"BTC-USD"}
    assert len(host.requests(INFO)) == 1


async def test_a_market_that_does_not_trade_is_visible(
    host: Host, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    host.info = info(row("BTC", "USDT"), row("ETH", "USDT", "BREAK"), row("W", "USDT", "HALT"))
    host.zeros = {"ETHUSDT"}
    source, resolver = build(BTC, ETH, W)
    result = await source.poll([BTC, ETH, W], 5.0)
    assert result.absent == {"ETH-USD": "not_trading"}
    assert set(result.quotes) == {"BTC-USD", "W-USD"}  # the last quote of a suspended market is still a quote
    tick = build_tick(ETH, MINUTE, {"binance": Polled("ok", result, MINUTE)}, Bounds())
    assert (tick.bid_price, tick.sources["binance"].status) == (None, "not_trading")
    assert resolver.symbols.status(ETH) == "BREAK"
    assert "binance: ETH-USD (ETHUSDT) does not trade: its status is BREAK; the other markets continue" in caplog.text


def test_streams_of_a_market_that_is_not_listed_are_not_requested() -> None:
    stream = BinanceStream("wss://host", [BTC, W], resolved(row("BTC", "USDT"), markets=[BTC, W]))
    assert (len(stream.streams(BTC)), stream.streams(W)) == (3, ())


async def test_a_backfill_uses_the_list_and_skips_what_is_not_in_it(host: Host) -> None:
    host.info = info(row("BTC", "USD"))
    asked: list[str] = []

    async def klines(request: web.Request) -> web.StreamResponse:
        if request.path == INFO:
            return web.json_response(host.info)
        asked.append(request.query["symbol"])
        return web.json_response([[MINUTE, "1", "3", "0.5", "2", "10", MINUTE + 59_999, "15", 7, "4", "6", "0"]])

    host.server.handler = klines

    def run() -> Any:
        with httpx.Client(trust_env=False) as http:
            client = KlineClient(http, BinanceSettings(base_url=host.server.url))
            client.resolve([BTC, W])
            spans = [Span(market, "1m", MINUTE, MINUTE + 60_000) for market in (BTC, W)]
            return download_klines(client, spans, lambda: False)

    history = await asyncio.to_thread(run)
    assert asked == ["BTCUSD"]
    assert {key: len(klines) for key, klines in history.klines.items()} == {("BTC-USD", "1m"): 1, ("W-USD", "1m"): 0}
    assert history.refused == {"W-USD": "binance does not list W-USD"}


async def test_a_backfill_joins_base_and_quote_without_the_list(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.status = 403

    def run() -> str:
        with httpx.Client(trust_env=False) as http:
            client = KlineClient(http, BinanceSettings(base_url=host.server.url))
            client.resolve([BTC])
            return client.symbols.name(BTC)

    assert await asyncio.to_thread(run) == "BTCUSDT"
    assert caplog.text.count("are concatenated") == 1
