"""Derived fields of a tick: divergence, flags, and the traded volume that features use."""

import json

import httpx
import pytest

from exchanges.coingecko import CoinGecko
from exchanges.http import JsonClient
from exchanges.interface import PollResult, Quote, QuoteUpdate
from marketdata import tick_rules
from marketdata.codec import encode
from marketdata.errors import DecodeError
from marketdata.features import MarketFeatures
from marketdata.markets import Market
from marketdata.quote_tick import decode_quote
from marketdata.records import Tick
from marketdata.vocabulary import SourceStatus
from streams.collection.conflation import Interval
from streams.collection.tick_builder import Bounds, Polled, build_tick, invalid_quotes, stream_tick
from streams.metrics import Metrics
from tests.support.paths import ROOT
from tests.support.scripted_server import ScriptedServer

BTC = Market("BTC", "USD")
START = 1_722_816_000_000
BOUNDS = Bounds({"coingecko": 300_000.0, "binance": 60_000.0}, 100.0)
BOOK = {"bid_price": 99.0, "bid_qty": 1.0, "ask_price": 101.0, "ask_qty": 2.0}


def polled(
    price: float | None = 100.0, ages_ms: tuple[int, int] = (30_000, 1_000), book: dict[str, float] | None = None
) -> Tick:
    coingecko = PollResult({"BTC-USD": Quote({"price": price}, START - ages_ms[0])})
    binance = PollResult({"BTC-USD": Quote(dict(BOOK if book is None else book), START - ages_ms[1])})
    outcomes = {
        "coingecko": Polled(SourceStatus.OK, coingecko, START),
        "binance": Polled(SourceStatus.OK, binance, START),
    }
    return build_tick(BTC, START, outcomes, BOUNDS)


def streamed(**changed: float) -> Tick:
    quote = QuoteUpdate("btcusdt@bookTicker", 7, "BTC-USD", 99.0, 1.0, 101.0, 2.0)
    interval = Interval("BTC-USD", START, quote, START - 400, n_updates=5)
    for name, value in changed.items():
        setattr(interval, name, value)
    return stream_tick(BTC, interval, "binance", BOUNDS, {"coingecko": "not_polled"})


@pytest.mark.parametrize(
    ("price", "divergence", "flags"),
    [
        (100.0, 0.0, ()),
        (100.5, 50.0, ()),
        (99.5, -50.0, ()),
        (102.0, 200.0, ("divergent",)),
        (98.0, -200.0, ("divergent",)),
        (None, None, ()),
    ],
)
def test_the_price_is_compared_with_the_mid(price: float | None, divergence: float | None, flags: tuple[str]) -> None:
    tick = polled(price)
    assert tick.divergence_bps == pytest.approx(divergence)
    assert tick.flags == flags


def test_without_a_valid_quote_there_is_no_divergence() -> None:
    assert polled(200.0, book=BOOK | {"bid_price": 102.0}).divergence_bps is None
    assert polled(200.0, book={}).divergence_bps is None


def odd(coingecko: dict[str, float | str | None], binance: dict[str, float | str | None]) -> Tick:
    outcomes = {
        name: Polled(SourceStatus.OK, PollResult({"BTC-USD": Quote(fields, None)}), START)
        for name, fields in (("coingecko", coingecko), ("binance", binance))
    }
    return build_tick(BTC, START, outcomes, BOUNDS)


COIN: dict[str, float | str | None] = {"price": 100.0, "volume_24h": 1.0, "high_24h": 110.0, "low_24h": 90.0}
QUOTE: dict[str, float | str | None] = {**BOOK}


@pytest.mark.parametrize(
    "changed",
    [
        {"price": 0.0},
        {"price": -1.0},
        {"price": 1e300},
        {"high_24h": 0.0},
        {"low_24h": 120.0},
        {"market_cap": -5.0},
        {"volume_24h": 1e300},
    ],
)
def test_data_of_coingecko_that_is_not_valid_costs_no_quote_of_binance(changed: dict[str, float]) -> None:
    tick = odd(COIN | changed, QUOTE)
    assert tick_rules.check(tick) == START
    assert {name: state.status for name, state in tick.sources.items()} == {"coingecko": "invalid", "binance": "ok"}
    assert (tick.price, tick.price_usd, tick.volume_24h, tick.high_24h, tick.market_cap) == (None,) * 5
    assert (tick.bid_price, tick.ask_price, tick.divergence_bps) == (99.0, 101.0, None)


@pytest.mark.parametrize(
    "changed",
    [
        {"ask_price": 0.0},
        {"bid_price": 0.0, "bid_qty": 0.0},
        {"bid_price": 102.0},
        {"ask_price": 1e300},
        {"bid_qty": -1.0},
        {"bid_price": 0.0, "ask_price": 0.0},
    ],
)
def test_a_quote_of_binance_that_is_not_valid_costs_no_price_of_coingecko(changed: dict[str, float]) -> None:
    tick = odd(COIN, QUOTE | changed)
    assert tick_rules.check(tick) == START
    assert {name: state.status for name, state in tick.sources.items()} == {"coingecko": "ok", "binance": "invalid"}
    assert (tick.bid_price, tick.bid_qty, tick.ask_price, tick.ask_qty) == (None,) * 4
    assert (tick.price, tick.price_usd, tick.high_24h) == (100.0, 100.0, 110.0)


def test_a_tick_without_valid_data_keeps_the_numbers_for_its_dead_letter() -> None:
    tick = odd({"price": None}, QUOTE | {"bid_price": 102.0})
    with pytest.raises(DecodeError) as caught:
        tick_rules.check(tick)
    assert (caught.value.reason, caught.value.field) == ("crossed_quote", "ask_price")
    assert (tick.bid_price, tick.sources["binance"].status) == (102.0, "invalid")


async def test_a_zero_price_in_a_response_of_coingecko(server: ScriptedServer, client: httpx.AsyncClient) -> None:
    server.respond(body=json.loads((ROOT / "tests/data/payloads/coingecko_zero_price.json").read_text()))
    result = await CoinGecko(JsonClient("coingecko", server.url, client), 30, None).poll([BTC], 5.0)
    assert {symbol: error.field for symbol, error in invalid_quotes(result).items()} == {"BTC-USD": "price"}
    outcomes = {
        "coingecko": Polled(SourceStatus.OK, result, START),
        "binance": Polled(SourceStatus.OK, PollResult({"BTC-USD": Quote(QUOTE, None)}), START),
    }
    tick = build_tick(BTC, START, outcomes, BOUNDS)
    assert (tick_rules.check(tick), tick.sources["coingecko"].status, tick.bid_price) == (START, "invalid", 99.0)


def test_old_data_is_flagged_by_its_source() -> None:
    assert polled(ages_ms=(300_000, 60_000)).flags == ()
    assert polled(ages_ms=(300_001, 60_000)).flags == ("stale_coingecko",)
    assert polled(ages_ms=(0, 60_001)).flags == ("stale_binance",)
    assert polled(103.0, ages_ms=(400_000, 70_000)).flags == ("stale_coingecko", "stale_binance", "divergent")
    assert streamed(quoted_at_ms=START - 60_001).flags == ("stale_binance",)


def test_a_streams_tick_describes_its_interval() -> None:
    tick = streamed(n_trades=2, volume=4.0, value=402.0)
    assert (tick.tick_id, tick.timestamp_ms) == ("BTC-USD|2024-08-05T00:00:00.000Z", START)
    assert (tick.n_updates, tick.n_trades, tick.traded_volume, tick.vwap) == (5, 2, 4.0, 100.5)
    assert (tick.bid_price, tick.ask_qty, tick.price, tick.divergence_bps) == (99.0, 2.0, None, None)
    assert tick.sources["binance"].staleness_ms == 400
    assert tick.sources["coingecko"].status == "not_polled"
    assert (streamed().traded_volume, streamed().vwap) == (0.0, None)


def test_an_interval_without_a_quote_is_rejected() -> None:
    with pytest.raises(TypeError, match="without a quote"):
        stream_tick(BTC, Interval("BTC-USD", START, None, 0), "binance", BOUNDS, {})


def test_flags_are_counted_and_the_divergence_is_set() -> None:
    metrics = Metrics()
    for tick in (polled(), polled(103.0), polled(None), polled(ages_ms=(400_000, 0))):
        metrics.count_flags(tick)
    text = metrics.exposition().decode()
    assert 'bitcoin_flagged_ticks_total{flag="divergent"} 1.0' in text
    assert 'bitcoin_flagged_ticks_total{flag="stale_coingecko"} 1.0' in text
    assert 'bitcoin_divergence_bps{symbol="BTC-USD"} 0.0' in text


def test_features_use_the_traded_volume_of_encoded_ticks() -> None:
    features = MarketFeatures("BTC-USD")
    for tick in (streamed(n_trades=2, volume=4.0, value=402.0), streamed(end_ms=START + 1_000), polled()):
        quote = decode_quote(encode(tick))
        features.add(
            tick.timestamp_ms + (2_000 if tick.price else 0),
            quote.bid_price,
            quote.bid_qty,
            quote.ask_price,
            quote.ask_qty,
            quote.traded_volume,
            quote.traded_value,
        )
    window = features.result().windows["1m"]
    assert (window.n_ticks, window.volume, window.vwap) == (3, 4.0, 100.5)
    assert decode_quote(encode(polled())).traded_value is None
    assert decode_quote(encode(streamed())).traded_value == 0.0
