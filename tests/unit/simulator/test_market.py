"""The simulated market at a time: no look-ahead, and equal to a recomputation from its data."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS
from simulator import derive
from simulator.candles import Candles
from simulator.history import MarketHistory
from simulator.market import SimulatedMarket
from tests.support.exchange_server import DAY, NOON, SEED, small_history, walk

MINUTES = walk(DAY - DAY_MS, 3 * 1440, MINUTE_MS, 60_000.0)


def _market(minutes: Candles) -> SimulatedMarket:
    return SimulatedMarket(MarketHistory({"BTCUSDT": (minutes, Candles.empty())}, SEED))


def _changed_after(minutes: Candles, now_ms: int) -> Candles:
    """Return a history with the same past and the same open of the running minute, but another future."""
    other = copy.deepcopy(minutes)
    running = other.time_ms >= now_ms - now_ms % MINUTE_MS
    after = other.time_ms > now_ms
    for column in (other.high, other.close, other.volume, other.quote_volume):
        column[running] *= 3
    other.open[after] *= 2
    return other


@settings(max_examples=30, deadline=None)
@given(st.integers(DAY, DAY + DAY_MS - 1))
def test_quotes_and_statistics_do_not_depend_on_later_data(now_ms: int) -> None:
    real, other = _market(MINUTES), _market(_changed_after(MINUTES, now_ms))
    for symbol in ("BTCUSDT", "BTCEUR"):
        assert real.quote(symbol, now_ms) == other.quote(symbol, now_ms)
        assert real.stats(symbol, now_ms) == other.stats(symbol, now_ms)


@given(
    st.floats(0.01, 200_000),
    st.floats(0, 0.2),
    st.integers(0, 2**40),
    st.sampled_from(["BTCUSDT", "XRPEUR"]),
    st.integers(),
)
def test_a_quote_is_a_valid_market(price: float, range_part: float, minute: int, symbol: str, seed: int) -> None:
    quote = derive.quote(seed, symbol, price, price * range_part, minute * MINUTE_MS)
    assert 0 < quote.bid_price < quote.ask_price
    assert quote.bid_qty > 0
    assert quote.ask_qty > 0
    step = 10.0 ** -derive.price_decimals(price)
    assert quote.bid_price <= price + step
    assert quote.ask_price >= price - step
    widest = price * derive.SPREAD_CEILING_BPS / 10_000 + 2 * step
    assert quote.ask_price - quote.bid_price <= widest * (1 + 1e-9)
    assert derive.quote(seed, symbol, price, price * range_part, minute * MINUTE_MS + 59_999) == quote


def test_the_spread_widens_with_the_range_of_the_last_hour() -> None:
    def mean_spread(range_: float) -> float:
        quotes = [derive.quote(1, "BTCUSDT", 60_000.0, range_, DAY + number * MINUTE_MS) for number in range(200)]
        return float(np.mean([quote.ask_price - quote.bid_price for quote in quotes]))

    assert mean_spread(100.0) < mean_spread(1_000.0) < mean_spread(5_000.0)


def test_statistics_equal_a_recomputation_from_the_minutes() -> None:
    market = SimulatedMarket(small_history())
    for symbol in market.symbols:
        stats = market.stats(symbol, NOON + 42_000)
        window = market.history.minutes(symbol, NOON - DAY_MS, NOON)
        running = market.history.minutes(symbol, NOON, NOON + MINUTE_MS)
        assert stats is not None
        assert len(window) == 1440
        assert stats.start_ms == NOON
        assert stats.last_price == running.open[0]
        assert stats.open == window.open[0]
        assert stats.high == max(*window.high.tolist(), stats.last_price)
        assert stats.low == min(*window.low.tolist(), stats.last_price)
        assert stats.volume == pytest.approx(math.fsum(window.volume.tolist()), rel=1e-12)
        assert stats.previous_close == market.history.minutes(symbol, NOON - DAY_MS - MINUTE_MS, NOON - DAY_MS).close[0]
        expected = derive.quote(SEED, symbol, stats.last_price, stats.range_1h, NOON)
        assert market.quote(symbol, NOON + 59_999) == expected


def test_a_missing_minute_is_quoted_at_the_last_price_before_it() -> None:
    hole = (MINUTES.time_ms >= NOON) & (MINUTES.time_ms < NOON + 10 * MINUTE_MS)
    market = _market(MINUTES[~hole])
    stats = market.stats("BTCUSDT", NOON + 5 * MINUTE_MS)
    assert stats is not None
    assert stats.last_price == MINUTES.close[np.searchsorted(MINUTES.time_ms, NOON) - 1]
    assert market.quote("BTCUSDT", MINUTES.time_ms[0] - HOUR_MS) is None


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(MINUTES) - 1))
def test_trades_aggregate_to_their_candle(row: int) -> None:
    candle = MINUTES[row : row + 1]
    trades = derive.minute_trades(SEED, "BTCUSDT", candle)
    assert trades.price[0] == candle.open[0]
    assert trades.price[-1] == candle.close[0]
    assert trades.price.max() == candle.high[0]
    assert trades.price.min() == candle.low[0]
    assert math.fsum(trades.qty.tolist()) == pytest.approx(float(candle.volume[0]), rel=1e-12)
    assert (np.diff(trades.time_ms) >= 0).all()
    assert trades.time_ms[0] == candle.time_ms[0]
    assert trades.time_ms[-1] < candle.time_ms[0] + MINUTE_MS
    assert len(trades.time_ms) == derive.trade_counts(SEED, "BTCUSDT", candle)[0]


def test_the_running_candle_becomes_the_closed_one() -> None:
    market = _market(MINUTES)
    closed = market.history.minutes("BTCUSDT", NOON, NOON + MINUTE_MS)
    volumes = []
    for now_ms in range(NOON, NOON + MINUTE_MS, 5_000):
        running = market.running_minute("BTCUSDT", now_ms)
        assert running.open[0] == closed.open[0]
        assert closed.low[0] <= running.low[0] <= running.high[0] <= closed.high[0]
        volumes.append(float(running.volume[0]))
    assert volumes == sorted(volumes)
    last = market.running_minute("BTCUSDT", NOON + MINUTE_MS - 1)
    assert last.prices() == closed.prices()
    assert last.volume[0] == pytest.approx(float(closed.volume[0]))


@pytest.mark.parametrize(
    ("symbol", "step_ms"), [("BTCUSDT", 5 * MINUTE_MS), ("ETHUSDT", 15 * MINUTE_MS), ("ETHEUR", 4 * HOUR_MS)]
)
def test_pages_of_klines_join_to_the_aggregate_of_all_minutes(symbol: str, step_ms: int) -> None:
    market = SimulatedMarket(small_history())
    now_ms = NOON + 7 * MINUTE_MS + 30_000
    pages, start_ms = [], market.history.start_ms
    while len(page := market.klines(symbol, step_ms, now_ms, limit=37, start_ms=start_ms, end_ms=None)):
        pages.append(page)
        start_ms = int(page.time_ms[-1]) + 1
    whole = Candles.joined(pages)
    closed = market.history.minutes(symbol, market.history.start_ms, NOON + 7 * MINUTE_MS)
    expected = Candles.joined([closed, market.running_minute(symbol, now_ms)]).grouped(step_ms)[0]
    assert whole.time_ms.tolist() == expected.time_ms.tolist()
    for mine, theirs in zip(whole.prices(), expected.prices(), strict=True):
        assert mine.tolist() == theirs.tolist()
    assert whole.volume == pytest.approx(expected.volume)
    newest = market.klines(symbol, step_ms, now_ms, limit=10, start_ms=None, end_ms=None)
    assert newest.time_ms.tolist() == whole.time_ms[-10:].tolist()
    until = market.klines(symbol, step_ms, now_ms, limit=10, start_ms=None, end_ms=NOON - HOUR_MS)
    assert until.time_ms[-1] == (NOON - HOUR_MS) // step_ms * step_ms


def test_klines_skip_a_gap_longer_than_a_page() -> None:
    hole = (MINUTES.time_ms >= DAY) & (MINUTES.time_ms < DAY + 10 * HOUR_MS)
    market = _market(MINUTES[~hole])
    found = market.klines("BTCUSDT", MINUTE_MS, NOON, limit=5, start_ms=DAY - 2 * MINUTE_MS, end_ms=None)
    expected = [DAY - 2 * MINUTE_MS, DAY - MINUTE_MS, *(DAY + 10 * HOUR_MS + number * MINUTE_MS for number in range(3))]
    assert found.time_ms.tolist() == expected
