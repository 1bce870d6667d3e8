"""The formulas of an hourly row, for arbitrary ticks and candles."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from marketdata.hourly import hour_row, hour_rows, kline_row, replaces, trailing_volatilities, trailing_volatility
from marketdata.records import Candle, SourceState, Tick
from marketdata.times import HOUR_MS, MINUTE_MS, from_rfc3339, to_rfc3339

HOUR = from_rfc3339("2024-08-05T12:00:00Z")
PRICES = st.floats(0.01, 1e6)
SMALL = st.none() | st.floats(0, 1e6)


@st.composite
def ticks(draw: st.DrawFn) -> list[Tick]:
    made = []
    for offset in draw(st.sets(st.integers(0, HOUR_MS - 1), max_size=20)):
        at = to_rfc3339(HOUR + offset)
        made.append(
            Tick(
                symbol="BTC-USD",
                tick_id=Tick.make_id("BTC-USD", at),
                timestamp=at,
                quote="USD",
                price=draw(st.none() | PRICES),
                bid_price=draw(st.none() | PRICES),
                ask_price=draw(st.none() | PRICES),
                bid_qty=draw(SMALL),
                ask_qty=draw(SMALL),
                volume_24h=draw(SMALL),
                market_cap=draw(SMALL),
                sources={"binance": SourceState(status="ok")},
            )
        )
    return made


@st.composite
def candles(draw: st.DrawFn) -> list[Candle]:
    made = []
    for minute in draw(st.sets(st.integers(0, 59), max_size=30)):
        low, *inner, high = sorted(draw(st.lists(PRICES, min_size=4, max_size=4)))
        made.append(
            Candle(
                symbol="BTC-USD",
                open_time=to_rfc3339(HOUR + minute * MINUTE_MS),
                open=inner[0],
                high=high,
                low=low,
                close=inner[1],
                volume=draw(st.floats(0, 1e6)),
            )
        )
    return made


@given(ticks(), candles(), st.randoms(use_true_random=False))
def test_a_row_is_within_its_bounds_and_independent_of_the_order(
    made: list[Tick], minutes: list[Candle], rng: random.Random
) -> None:
    row = hour_row("BTC-USD", HOUR, made, minutes)
    priced = [t for t in made if t.price is not None or (t.bid_price and t.ask_price and t.bid_price <= t.ask_price)]
    if not priced and not minutes:
        assert row is None
        return
    assert row is not None
    assert row.n_ticks == len(priced)
    assert 0 < row.coverage <= 1
    covered = {t.timestamp_ms // MINUTE_MS for t in priced} | {c.open_time_ms // MINUTE_MS for c in minutes}
    assert math.isclose(row.coverage, len(covered) / 60)
    for price in (row.avg_price, row.open_price, row.last_price):
        assert row.low_price * (1 - 1e-12) <= price <= row.high_price * (1 + 1e-12)
    assert row.realised_variance is not None
    assert row.realised_variance >= 0
    assert (row.basis, row.origin) == (("ticks", "live") if priced else ("candles_1m", "backfill"))
    shuffled, mixed = made[:], minutes[:]
    rng.shuffle(shuffled)
    rng.shuffle(mixed)
    assert hour_row("BTC-USD", HOUR, shuffled, mixed) == row


@given(st.sets(st.integers(0, 3 * 24 + 5), min_size=1), st.integers(0, 2**32))
def test_the_one_pass_trailing_volatilities_equal_the_direct_ones(hours: set[int], seed: int) -> None:
    rng = random.Random(seed)
    known = {}
    for hour in hours | set(range(20, 50)):
        at = HOUR + hour * HOUR_MS
        prices = sorted(rng.uniform(1, 100) for _ in range(4))
        known[at] = Candle(
            symbol="BTC-USD",
            open_time=to_rfc3339(at),
            interval="1h",
            open=prices[1],
            high=prices[3],
            low=prices[0],
            close=prices[2],
            volume=1.0,
        )
    plain = {at: trailing_volatility(known, at, HOUR_MS) for at in known}
    assert trailing_volatilities(known, HOUR_MS) == plain
    assert any(value is not None for value in plain.values())


def test_an_hour_computed_by_hand() -> None:
    tick = Tick(
        symbol="BTC-USD",
        tick_id="BTC-USD|x",
        timestamp=to_rfc3339(HOUR + MINUTE_MS),
        quote="USD",
        bid_price=99.0,
        ask_price=101.0,
        bid_qty=2.0,
        ask_qty=3.0,
        high_24h=110.0,
        low_24h=90.0,
        volume_24h=5.0,
        market_cap=7.0,
    )
    first = Candle(symbol="BTC-USD", open_time=to_rfc3339(HOUR), open=80, high=90, low=70, close=85, volume=10)
    under = Candle(
        symbol="BTC-USD", open_time=to_rfc3339(HOUR + MINUTE_MS), open=1, high=1000, low=1, close=1, volume=20
    )
    row = hour_row("BTC-USD", HOUR, [tick], [first, under])
    assert row is not None
    assert (row.avg_price, row.high_price, row.low_price) == ((85 + 100) / 2, 100, 70)
    assert (row.open_price, row.last_price) == (80, 100)
    assert row.realised_variance == math.log(85 / 80) ** 2 + math.log(100 / 85) ** 2
    assert (row.avg_spread, row.avg_spread_percentage, row.total_liquidity, row.avg_volatility) == (2, 2, 5, 20)
    assert (row.avg_volume, row.avg_volume_24h, row.last_market_cap) == (15, 5, 7)
    assert (row.n_ticks, row.n_candles, row.coverage) == (1, 1, 2 / 60)
    assert hour_rows([tick], [first, under]) == [row]


def test_an_hour_of_which_only_the_kline_is_known() -> None:
    kline = Candle(
        symbol="BTC-USD", open_time=to_rfc3339(HOUR), interval="1h", open=1, high=4, low=1, close=2, volume=60
    )
    row = kline_row(kline, {HOUR: kline})
    assert (row.avg_price, row.avg_volume, row.realised_variance, row.avg_volatility) == (2, 1, None, None)
    assert (row.n_ticks, row.n_candles, row.coverage, row.origin, row.basis) == (0, 0, 1.0, "backfill", "candles_1h")


def test_a_lower_basis_does_not_replace_a_higher() -> None:
    ranks = ("candles_1h", "candles_1m", "ticks")
    assert [[replaces(new, old) for old in ranks] for new in ranks] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
