"""A symbol that Binance does not have: found, left out, reported, and without effect on other markets."""

import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from exchanges.binance import rest
from exchanges.binance.rest import Binance
from exchanges.http import JsonClient
from exchanges.interface import PollResult, Quote
from exchanges.retry_policy import RetryPolicy
from marketdata.errors import FatalSourceError, RetryableSourceError
from marketdata.markets import Market
from marketdata.topics import TopicRole
from simulator.history import MarketHistory
from streams.collection.tick_builder import Bounds, Polled, build_tick
from streams.metrics import Metrics
from streams.views.read_model import ReadModel
from tests.support.exchange_server import DAY, MINUTE_MS, NOON, Exchange, running_exchange, walk
from tests.support.fake_clock import FakeClock

COINS = ("BTC", "ETH", "XRP", "SOL", "ADA", "DOT", "LTC")
MARKETS = [Market(coin, "USD") for coin in COINS]
SYMBOLS = [market.symbol for market in MARKETS]
SECOND_HALF = "%5B%22SOLUSDT"
"""Part of the URL of a request for the second half of the symbols."""


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    minutes = walk(DAY, 13 * 60, MINUTE_MS, 100.0)
    none = walk(DAY, 0, MINUTE_MS, 100.0)
    history = MarketHistory({market.binance: (minutes, none) for market in MARKETS}, 7)
    async with running_exchange(history=history) as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as opened:
        yield opened


def binance(
    exchange: Exchange,
    client: httpx.AsyncClient,
    reported: list[str] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Binance:
    http = JsonClient("binance", f"{exchange.address}/binance", client)
    return Binance(http, 6000, on_unknown=([] if reported is None else reported).append, monotonic=monotonic)


def count_requests(exchange: Exchange) -> int:
    """Number of requests for quotes."""
    return sum("bookTicker" in answered.path for answered in exchange.state.journal)


async def test_one_delisted_market_does_not_affect_others(
    exchange: Exchange, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[str] = []
    source, retry_policy = binance(exchange, client, reported), RetryPolicy("binance")
    await exchange.fault("unlisted", symbols=["XRPUSDT"])
    outcome = await retry_policy.call(lambda timeout_s: source.poll(MARKETS, timeout_s), 5.0)
    assert (outcome.status, retry_policy.is_refused()) == ("ok", False)
    result = outcome.value
    assert result is not None
    assert sorted(result.quotes) == sorted(set(SYMBOLS) - {"XRP-USD"})
    assert (result.unknown, reported) == ({"XRP-USD"}, ["XRP-USD"])
    assert "binance has no XRPUSDT: XRP-USD is left out of requests" in caplog.text
    before = count_requests(exchange)
    again = await source.poll(MARKETS, 5.0)
    assert count_requests(exchange) == before + 1
    assert (sorted(again.quotes), again.unknown) == (sorted(result.quotes), {"XRP-USD"})
    polled = {"binance": Polled("ok", again, NOON)}
    ticks = {market.symbol: build_tick(market, NOON, polled, Bounds()) for market in MARKETS}
    assert {symbol: tick.sources["binance"].status for symbol, tick in ticks.items()} == {
        symbol: "unknown_symbol" if symbol == "XRP-USD" else "ok" for symbol in SYMBOLS
    }
    assert ticks["XRP-USD"].bid_price is None
    assert ticks["BTC-USD"].bid_price is not None


@pytest.mark.parametrize("gone", [COINS[:1], COINS[-1:], COINS[::2], COINS])
async def test_every_unknown_market_is_found(
    exchange: Exchange, client: httpx.AsyncClient, gone: tuple[str, ...]
) -> None:
    await exchange.fault("unlisted", symbols=[f"{coin}USDT" for coin in gone])
    source = binance(exchange, client)
    for _poll in range(2):
        result = await source.poll(MARKETS, 5.0)
        assert result.unknown == {f"{coin}-USD" for coin in gone}
        assert set(result.quotes) == set(SYMBOLS) - result.unknown


async def test_a_long_search_is_spread_over_several_polls(
    exchange: Exchange, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_MAX_REQUESTS", 5)
    await exchange.fault("unlisted", symbols=[f"{coin}USDT" for coin in COINS[::2]])
    source = binance(exchange, client)
    found = []
    for _poll in range(4):
        before = count_requests(exchange)
        result = await source.poll(MARKETS, 5.0)
        found.append(len(result.unknown))
        assert count_requests(exchange) - before <= 5
        assert sorted([*result.quotes, *result.unknown, *result.deferred]) == sorted(SYMBOLS)  # each in one part
        assert bool(result.deferred) == (found[-1] < len(COINS[::2]))
    assert found == sorted(found)
    assert found[-1] == len(COINS[::2])


async def test_an_error_during_the_search_keeps_the_quotes_and_the_next_poll_continues(
    exchange: Exchange, client: httpx.AsyncClient
) -> None:
    await exchange.fault("503", match=SECOND_HALF, count=1)
    await exchange.fault("unlisted", symbols=["DOTUSDT"])
    source = binance(exchange, client)
    result = await source.poll(MARKETS, 5.0)
    assert (set(result.quotes), result.unknown) == ({"BTC-USD", "ETH-USD", "XRP-USD"}, frozenset())
    assert result.deferred == set(SYMBOLS) - set(result.quotes)
    before = count_requests(exchange)
    result = await source.poll(MARKETS, 5.0)
    assert (set(result.quotes), result.unknown) == (set(SYMBOLS) - {"DOT-USD"}, {"DOT-USD"})
    assert count_requests(exchange) - before == 6  # both halves, and the second one's; not the whole again
    before = count_requests(exchange)
    assert set((await source.poll(MARKETS, 5.0)).quotes) == set(result.quotes)
    assert count_requests(exchange) - before == 1


async def test_a_pause_that_the_exchange_asks_for_ends_the_search(
    exchange: Exchange, client: httpx.AsyncClient
) -> None:
    await exchange.fault("429", match=SECOND_HALF, count=1)
    await exchange.fault("unlisted", symbols=["DOTUSDT"])
    with pytest.raises(RetryableSourceError) as caught:
        await binance(exchange, client).poll(MARKETS, 5.0)
    assert caught.value.retry_after_s is not None


async def test_an_unknown_market_has_no_candles_and_stops_nothing(
    exchange: Exchange, client: httpx.AsyncClient
) -> None:
    await exchange.fault("unlisted", symbols=["BTCUSDT"])
    reported: list[str] = []
    source, retry_policy = binance(exchange, client, reported), RetryPolicy("binance")
    for _minute in range(2):
        outcome = await retry_policy.call(lambda timeout_s: source.candles(MARKETS[0], DAY, NOON, timeout_s), 5.0)
        assert (outcome.status, outcome.value) == ("ok", [])
    assert reported == ["BTC-USD"]
    assert sum("klines" in answered.path for answered in exchange.state.journal) == 1
    assert await source.candles(MARKETS[1], DAY, NOON, 5.0)


async def test_a_market_that_comes_back_is_found_again(
    exchange: Exchange, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    clock = FakeClock()
    await exchange.fault("unlisted", symbols=["BTCUSDT"])
    reported: list[str] = []
    source = binance(exchange, client, reported, clock.monotonic)
    assert (await source.poll(MARKETS, 5.0)).unknown == {"BTC-USD"}
    clock.now_s += rest.RECHECK_UNKNOWN_S
    before = count_requests(exchange)
    assert (await source.poll(MARKETS, 5.0)).unknown == {"BTC-USD"}
    assert count_requests(exchange) > before + 1  # another search
    assert reported == ["BTC-USD"]  # once, however often it is requested
    exchange.state.faults.clear()
    clock.now_s += rest.RECHECK_UNKNOWN_S - 1.0
    assert (await source.poll(MARKETS, 5.0)).unknown == {"BTC-USD"}
    clock.now_s += 1.0
    result = await source.poll(MARKETS, 5.0)
    assert (set(result.quotes), result.unknown) == (set(SYMBOLS), frozenset())
    assert "binance has BTCUSDT again" in caplog.text


async def test_another_refusal_of_a_request_still_stops_the_source(
    exchange: Exchange, client: httpx.AsyncClient
) -> None:
    source = binance(exchange, client)
    with pytest.raises(FatalSourceError) as caught:
        await source.poll([Market("BTC!", "USD")], 5.0)
    assert (caught.value.kind, caught.value.code) == ("bad_request", -1100)


def test_the_counter_names_source_and_market() -> None:
    metrics = Metrics()
    metrics.source_unknown.labels("binance", "XRP-USD").inc()
    labels = {"source": "binance", "symbol": "XRP-USD"}
    assert metrics.registry.get_sample_value("bitcoin_source_unknown_symbols_total", labels) == 1


def test_a_source_without_one_of_the_markets_is_no_outage() -> None:
    read_model = ReadModel(SYMBOLS)
    result = PollResult({"BTC-USD": Quote({"bid_price": 1.0, "ask_price": 2.0}, None)}, unknown=frozenset({"XRP-USD"}))
    for market in (MARKETS[0], MARKETS[2]):
        tick = build_tick(market, NOON, {"binance": Polled("ok", result, NOON)}, Bounds())
        read_model.apply(TopicRole.TICKS, tick, NOON)
    assert (read_model.sources["binance"].status, read_model.sources["binance"].failing_since_ms) == ("ok", None)
