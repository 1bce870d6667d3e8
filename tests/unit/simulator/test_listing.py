"""Which pairs the simulated exchange lists, and their candles, quotes and trades at any price."""

import asyncio

import httpx
import numpy as np
import pytest

from config.sections import BinanceSettings
from exchanges.binance.kline_client import KlineClient
from exchanges.binance.resolver import SymbolResolver
from exchanges.binance.rest import Binance
from exchanges.coingecko import CoinGecko
from exchanges.http import JsonClient
from marketdata.candle_rules import numbers_hold
from marketdata.errors import InvalidValueError
from marketdata.markets import QUOTES, Market
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS
from simulator.candles import Candles
from simulator.history import MarketHistory
from simulator.listing import HOSTS, PER_USD, Further, split_name
from simulator.market import SimulatedMarket
from streams.collection.tick_builder import Bounds, Polled, build_tick
from tests.support.exchange_server import DAY, NOON, SEED, Exchange, running_exchange, walk
from tests.support.recorded_feed import Fed, ServerClock, feeding

EXTREMES = ("SHIB-USDT@0.00000001", "GOLD-JPY@100000000", "W-USD", "1000SATS-TRY", "1INCH-BTC", "BTC-EUR", "ETH-BTC")


def history(*markets: str, rules: str = "com", seed: int = SEED) -> MarketHistory:
    empty = Candles.empty()
    stored = {
        "BTCUSDT": (walk(DAY, 1440, MINUTE_MS, 60_000.0), empty),
        "ETHUSDT": (empty, walk(DAY, 24, HOUR_MS, 3_000.0)),
    }
    return MarketHistory(stored, seed, [Further.parse(text) for text in markets], HOSTS[rules])


@pytest.mark.parametrize(
    ("symbol", "parts"),
    [("BTCUSDT", ("BTC", "USDT")), ("BTCUSD", ("BTC", "USD")), ("BTCFDUSD", ("BTC", "FDUSD")), ("WBTC", ("W", "BTC"))],
)
def test_the_longest_quote_ends_a_stored_name(symbol: str, parts: tuple[str, str]) -> None:
    assert split_name(symbol) == parts


@pytest.mark.parametrize("text", ["W-USD@0", "W-USD@x", "W-USD@1e9", "W-USD@1e-9", "W-USD@nan", "W@1", "@1", ""])
def test_a_wrong_market_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        Further.parse(text)


def test_any_base_and_quote_can_be_listed_and_follows_from_the_seed() -> None:
    markets = [f"{base}-{quote}" for base in ("W", "1000SATS", "BTC") for quote in QUOTES if base != quote]
    first, again, other = history(*markets), history(*markets), history(*markets, seed=8)
    assert first.pairs == again.pairs
    assert first.pairs["WUSDT"] != other.pairs["WUSDT"]
    assert first.pairs["BTCJPY"].factor == PER_USD["JPY"]
    assert {pair.base for pair in first.pairs.values()} == {"W", "1000SATS", "BTC", "ETH"}
    assert len(first.symbols) == 3 * len(QUOTES) - 3 - 1 + 2  # USD is USDT, BTC-BTC is none; ETH with USDT and EUR


@pytest.mark.parametrize("market", EXTREMES)
def test_candles_trades_and_quotes_hold_at_any_price(market: str) -> None:
    served = history(market)
    name = market.partition("@")[0].replace("USD", "USDT").replace("USDTT", "USDT").replace("-", "")
    simulated = SimulatedMarket(served)
    minutes = served.minutes(name, DAY, DAY + DAY_MS)
    assert len(minutes) == 1440
    assert (minutes.low >= 1e-8).all()
    assert (minutes.low <= np.minimum(minutes.open, minutes.close)).all()
    assert (minutes.high >= np.maximum(minutes.open, minutes.close)).all()
    assert (minutes.volume > 0).all()
    assert (minutes.quote_volume <= minutes.volume * minutes.high * (1 + 1e-9) + 1e-8).all()
    if "@" in market:
        assert minutes.close[0] == pytest.approx(float(market.partition("@")[2]), rel=0.05)
    for at in (DAY + HOUR_MS, NOON):
        quote = simulated.quote(name, at)
        assert quote is not None
        assert 0 < quote.bid_price < quote.ask_price
        assert min(quote.bid_qty, quote.ask_qty) > 0
        trades = simulated.trades(name, at)
        candle = served.minutes(name, at, at + MINUTE_MS)
        assert trades is not None
        assert (trades.price.min(), trades.price.max()) == (candle.low[0], candle.high[0])
        assert trades.qty.sum() == pytest.approx(candle.volume[0], rel=1e-9, abs=1e-4)


async def test_the_sources_read_markets_of_any_price() -> None:
    markets = [Market.parse(text.partition("@")[0]) for text in EXTREMES]
    async with running_exchange(history=history(*EXTREMES)) as exchange, httpx.AsyncClient(trust_env=False) as client:
        http = JsonClient("binance", f"{exchange.address}/binance", client)
        resolver = SymbolResolver(http, markets)
        binance = Binance(http, 6000, resolver=resolver)
        spot = await binance.poll(markets, 5.0)
        coins = [Market(one.base, one.quote, one.coingecko_id or one.base.lower()) for one in markets]
        gecko = CoinGecko(JsonClient("coingecko", f"{exchange.address}/coingecko/api/v3", client), 30, None)
        prices = await gecko.poll(coins, 5.0)
        candles = {one.symbol: await binance.candles(one, DAY, NOON, 5.0) for one in markets}
    assert [resolver.symbols.problem(one) for one in markets] == [None] * len(markets)
    for market in markets:
        polled = {"coingecko": Polled("ok", prices, NOON), "binance": Polled("ok", spot, NOON)}
        tick = build_tick(market, NOON, polled, Bounds())
        assert {state.status for state in tick.sources.values()} == {"ok"}
        assert tick.price is not None
        assert tick.bid_price is not None
        assert tick.ask_price is not None
        assert tick.bid_price * 0.99 <= tick.price <= tick.ask_price * 1.01
        assert len(candles[market.symbol]) == 720
        assert all(numbers_hold(candle) for candle in candles[market.symbol])


async def info(exchange: Exchange, **query: str) -> tuple[int, dict[str, object]]:
    status, body, _headers = await exchange.get("/binance/api/v3/exchangeInfo", **query)
    return status, body


async def test_binance_us_works_by_its_address_alone() -> None:
    markets = [Market("BTC", "USD"), Market("ETH", "USD"), Market("BTC", "EUR")]
    async with (
        running_exchange(history=history(rules="us")) as exchange,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        assert (await info(exchange, showPermissionSets="false"))[0] == 400
        http = JsonClient("binance", f"{exchange.address}/binance", client)
        resolver = SymbolResolver(http, markets)
        source = Binance(http, 6000, resolver=resolver)
        result = await source.poll(markets, 5.0)
        candles = await source.candles(markets[0], NOON - HOUR_MS, NOON, 5.0)
        used = exchange.state.limiter.used
    assert [resolver.symbols.name(market) for market in markets[:2]] == ["BTCUSD", "ETHUSD"]
    assert (set(result.quotes), result.unknown) == ({"BTC-USD", "ETH-USD"}, {"BTC-EUR"})
    assert len(candles) == 60
    assert source.budget.weight_per_minute == 1200
    assert used == 10 + 10 + 10 + 2 + 1  # two refused lists, the list, quotes and candles: half of the usual weights
    asked = [row.query for row in exchange.state.journal if "klines" in row.path]
    assert "symbol=BTCUSD&" in asked[0]


async def test_a_backfill_and_the_stream_use_the_symbols_of_binance_us() -> None:
    market = Market("BTC", "USD")
    async with running_exchange(history=history(rules="us"), speed=10.0) as exchange:
        address = f"{exchange.address}/binance"

        def fetch() -> tuple[KlineClient, int]:
            with httpx.Client(trust_env=False) as http:
                client = KlineClient(http, BinanceSettings(base_url=address))
                client.resolve([market])
                return client, len(client.fetch(client.symbols.name(market), "1m", NOON - HOUR_MS, NOON))

        client, n_klines = await asyncio.to_thread(fetch)
        fed = Fed(address.replace("http", "ws"), ServerClock(exchange), [market], client.symbols)
        async with feeding(fed):
            await fed.until(lambda: bool(fed.ticks), "a tick of BTCUSD")
    assert (client.symbols.name(market), client.symbols.weight_per_minute, n_klines) == ("BTCUSD", 1200, 60)


async def test_a_suspended_pair_has_its_status_and_no_quote() -> None:
    market = Market("BTC", "USD")
    async with running_exchange(history=history()) as exchange, httpx.AsyncClient(trust_env=False) as client:
        await exchange.fault("suspended", symbols=["BTCUSDT"])
        http = JsonClient("binance", f"{exchange.address}/binance", client)
        resolver = SymbolResolver(http, [market])
        result = await Binance(http, 6000, resolver=resolver).poll([market], 5.0)
    assert (resolver.symbols.status(market), result.absent) == ("BREAK", {"BTC-USD": "not_trading"})
