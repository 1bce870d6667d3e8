"""The kernel of the hourly rows equals the reference, and does not depend on how often a market was observed."""

import math
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from marketdata.hourly import DEFINITION, hour_rows, kline_rows, replaces
from marketdata.minutes import Prices, trailing_volatility
from marketdata.records import Candle, SourceState, Tick
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, from_rfc3339, to_rfc3339
from tests.support import builders
from tests.support import hourly_reference as reference
from tests.support.hour_tables import as_row, assert_same, candle_table, rows_of, tick_table

HOUR = from_rfc3339("2024-08-05T12:00:00Z")
SYMBOL = "BTC-USD"
PRICES = st.floats(0.01, 1e6)
SMALL = st.none() | st.floats(0, 1e6)


def mid_tick(at_ms: int, mid: float, spread: float = 0.0, **fields: Any) -> Tick:
    """A tick with a mid and without CoinGecko's price, unless it is stated."""
    fields = {"price": None, "bid_price": mid - spread / 2, "ask_price": mid + spread / 2, **fields}
    return builders.tick(at_ms, SYMBOL, **fields)


def flat_candle(at_ms: int, price: float) -> Candle:
    return Candle(
        symbol=SYMBOL, open_time=to_rfc3339(at_ms), open=price, high=price, low=price, close=price, volume=6.0
    )


def rows(ticks: list[Tick], candles: list[Candle], hours: int = 1) -> list[dict[str, Any]]:
    return rows_of(hour_rows(tick_table(ticks), candle_table(candles), HOUR, HOUR + hours * HOUR_MS))


def one_row(ticks: list[Tick], candles: list[Candle]) -> dict[str, Any]:
    (row,) = rows(ticks, candles)
    return row


@st.composite
def a_tick(draw: st.DrawFn, offset: int) -> Tick:
    at = to_rfc3339(HOUR + offset)
    return Tick(
        symbol=SYMBOL,
        tick_id=Tick.make_id(SYMBOL, at),
        timestamp=at,
        quote="USD",
        price=draw(st.none() | PRICES),
        bid_price=draw(st.none() | PRICES),
        ask_price=draw(st.none() | PRICES),
        bid_qty=draw(SMALL),
        ask_qty=draw(SMALL),
        high_24h=draw(SMALL),
        low_24h=draw(SMALL),
        volume_24h=draw(SMALL),
        market_cap=draw(SMALL),
        sources={"binance": SourceState(status="ok")},
    )


@st.composite
def some_ticks(draw: st.DrawFn) -> list[Tick]:
    """Up to 12 ticks, more than one of them in some minutes."""
    within = st.integers(0, 3 * MINUTE_MS - 1) | st.integers(0, HOUR_MS - 1)
    return [draw(a_tick(offset)) for offset in sorted(draw(st.sets(within, max_size=12)))]


@st.composite
def some_candles(draw: st.DrawFn) -> list[Candle]:
    made = []
    for minute in sorted(draw(st.sets(st.integers(0, 59), max_size=30))):
        low, *inner, high = sorted(draw(st.lists(PRICES, min_size=4, max_size=4)))
        made.append(
            Candle(
                symbol=SYMBOL,
                open_time=to_rfc3339(HOUR + minute * MINUTE_MS),
                open=inner[0],
                high=high,
                low=low,
                close=inner[1],
                volume=draw(st.floats(0, 1e6)),
            )
        )
    return made


@given(some_ticks(), some_candles(), st.randoms(use_true_random=False))
def test_the_kernel_equals_the_reference_in_any_order_of_arrival(
    ticks: list[Tick], candles: list[Candle], rng: random.Random
) -> None:
    expected = [as_row(row) for row in reference.hour_rows(ticks, candles)]
    found = rows(ticks, candles)
    assert_same(found, expected)
    rng.shuffle(ticks)
    rng.shuffle(candles)
    assert rows(ticks, candles) == found
    for row in found:
        assert row["low_price"] <= row["avg_price"] <= row["high_price"]
        for name in ("open_price", "last_price"):
            assert row["low_price"] <= row[name] <= row["high_price"]
        assert 0 < row["coverage"] <= 1
        assert row["realised_variance"] >= 0


@given(some_ticks(), some_candles())
def test_repeated_ticks_and_candles_change_nothing(ticks: list[Tick], candles: list[Candle]) -> None:
    assert rows(ticks + ticks[::2], candles + candles[::2]) == rows(ticks, candles)


@given(some_ticks(), some_candles(), st.data())
def test_observing_an_unchanged_market_more_often_changes_no_number(
    ticks: list[Tick], candles: list[Candle], data: st.DataObject
) -> None:
    split = list(ticks)
    for tick, following in zip(ticks, [*ticks, None][1:], strict=True):
        end_ms = (tick.timestamp_ms // MINUTE_MS + 1) * MINUTE_MS
        until_ms = end_ms if following is None else min(end_ms, following.timestamp_ms)
        for at_ms in data.draw(st.sets(st.integers(tick.timestamp_ms + 1, until_ms), max_size=3)):
            if at_ms < until_ms:
                at = to_rfc3339(at_ms)
                split.append(replace(tick, timestamp=at, tick_id=Tick.make_id(SYMBOL, at)))
    found, expected = rows(split, candles), rows(ticks, candles)
    assert [row.pop("n_ticks") >= other.pop("n_ticks") for row, other in zip(found, expected, strict=True)] == [
        True
    ] * len(found)
    assert_same(found, expected)


@given(st.lists(PRICES, min_size=120, max_size=120), st.sets(st.integers(0, 59)))
def test_a_minute_of_ticks_can_be_replaced_by_its_candle(mids: list[float], replaced: set[int]) -> None:
    """Open, high, low, last and realised variance are equal; the average within the range of the replaced minutes."""
    ticks = [mid_tick(HOUR + i * 30_000, mid) for i, mid in enumerate(mids)]
    mids = [tick.bid_price or 0.0 for tick in ticks]
    candles = [
        Candle(
            symbol=SYMBOL,
            open_time=to_rfc3339(HOUR + i * MINUTE_MS),
            open=mids[2 * i],
            high=max(mids[2 * i : 2 * i + 2]),
            low=min(mids[2 * i : 2 * i + 2]),
            close=mids[2 * i + 1],
            volume=1.0,
        )
        for i in range(60)
    ]
    whole = one_row(ticks, candles)
    found = one_row([tick for i, tick in enumerate(ticks) if i // 2 not in replaced], candles)
    for name in ("open_price", "high_price", "low_price", "last_price", "coverage", "avg_volume"):
        assert found[name] == whole[name], name
    assert math.isclose(found["realised_variance"], whole["realised_variance"], rel_tol=1e-9)
    doubt = math.fsum(candles[i].high - candles[i].low for i in replaced) / 60
    assert abs(found["avg_price"] - whole["avg_price"]) <= doubt + 1e-6
    assert (found["n_candles"], found["n_reference_minutes"]) == (len(replaced), 0)


def test_a_wrong_reference_price_has_no_effect_where_the_candle_is_known() -> None:
    """Binance misses the poll of one minute, and CoinGecko's price is wrong."""
    ticks = [mid_tick(HOUR + i * MINUTE_MS, 100.0, price=100.0) for i in range(60)]
    missed = builders.tick(HOUR + 30 * MINUTE_MS, SYMBOL, price=1.0, bid_price=None, ask_price=None)
    candle = Candle(
        symbol=SYMBOL, open_time=missed.timestamp, open=100.0, high=100.5, low=99.5, close=100.0, volume=6.0
    )
    row = one_row([*ticks[:30], missed, *ticks[31:]], [candle])
    assert (row["avg_price"], row["open_price"], row["last_price"]) == (100.0, 100.0, 100.0)
    assert (row["low_price"], row["high_price"], row["realised_variance"]) == (99.5, 100.5, 0.0)
    assert (row["n_ticks"], row["n_candles"], row["n_reference_minutes"]) == (60, 1, 0)
    assert (row["coverage"], row["basis"], row["origin"]) == (1.0, "ticks", "live")
    # Without the candle CoinGecko's price is used, and counted.
    row = one_row([*ticks[:30], missed, *ticks[31:]], [])
    assert (row["avg_price"], row["low_price"]) == ((59 * 100.0 + 1.0) / 60, 1.0)
    assert (row["n_candles"], row["n_reference_minutes"], row["coverage"]) == (0, 1, 1.0)


def test_an_outage_with_known_candles_weighs_as_much_as_frequent_ticks() -> None:
    """A tick a second for 30 minutes at 100, then 30 minutes of candles at 110."""
    ticks = [mid_tick(HOUR + i * 1000, 100.0) for i in range(30 * 60)]
    row = one_row(ticks, [flat_candle(HOUR + i * MINUTE_MS, 110.0) for i in range(30, 60)])
    assert row["avg_price"] == 105.0
    assert row["realised_variance"] == math.log(1.1) ** 2
    assert (row["n_ticks"], row["n_candles"], row["coverage"]) == (1800, 30, 1.0)


def test_ticks_of_a_second_ticks_of_a_minute_and_candles_agree() -> None:
    """A price that changes at the start of each minute."""
    path = [100.0 + (7 * i) % 13 for i in range(60)]
    seconds = one_row([mid_tick(HOUR + i * 1000, path[i // 60]) for i in range(3600)], [])
    minutes = one_row([mid_tick(HOUR + i * MINUTE_MS, price) for i, price in enumerate(path)], [])
    candles = one_row([], [flat_candle(HOUR + i * MINUTE_MS, price) for i, price in enumerate(path)])
    for name in ("avg_price", "open_price", "high_price", "low_price", "last_price", "realised_variance", "coverage"):
        assert minutes[name] == pytest.approx(seconds[name], rel=1e-12), name
        assert candles[name] == pytest.approx(seconds[name], rel=1e-12), name
    assert (seconds["basis"], minutes["basis"], candles["basis"]) == ("ticks", "ticks", "candles_1m")


def test_a_value_holds_until_the_next_known_one_or_the_minutes_end() -> None:
    ticks = [
        mid_tick(HOUR + 15_000, 100.0, 2.0, bid_qty=1.0, ask_qty=1.0),
        mid_tick(HOUR + 30_000, 106.0, 1.0),  # without quantities
        builders.tick(HOUR + 40_000, SYMBOL, price=1.0, bid_price=None, ask_price=None, volume_24h=7.0),
        mid_tick(HOUR + 45_000, 112.0, 4.0, bid_qty=2.0, ask_qty=3.0, market_cap=9.0),
    ]
    row = one_row(ticks, [])
    assert row["avg_price"] == pytest.approx((15 * 100 + 15 * 106 + 15 * 112) / 45, rel=1e-15)
    assert row["avg_spread"] == pytest.approx((15 * 2 + 15 * 1 + 15 * 4) / 45, rel=1e-15)
    assert row["total_liquidity"] == pytest.approx((30 * 2 + 15 * 5) / 45, rel=1e-15)
    assert (row["avg_volume_24h"], row["last_market_cap"]) == (7.0, 9.0)
    assert (row["n_ticks"], row["n_reference_minutes"], row["coverage"]) == (4, 0, 1 / 60)


def test_an_hour_computed_by_hand() -> None:
    tick = mid_tick(
        HOUR + MINUTE_MS,
        100.0,
        2.0,
        bid_qty=2.0,
        ask_qty=3.0,
        high_24h=110.0,
        low_24h=90.0,
        volume_24h=5.0,
        market_cap=7.0,
    )
    first = Candle(symbol=SYMBOL, open_time=to_rfc3339(HOUR), open=80, high=90, low=70, close=85, volume=10)
    under = Candle(symbol=SYMBOL, open_time=to_rfc3339(HOUR + MINUTE_MS), open=1, high=1000, low=1, close=1, volume=20)
    row = one_row([tick], [first, under])
    assert (row["avg_price"], row["high_price"], row["low_price"]) == ((325 / 4 + 100) / 2, 100, 70)
    assert (row["open_price"], row["last_price"]) == (80, 100)
    assert row["realised_variance"] == pytest.approx(math.log(85 / 80) ** 2 + math.log(100 / 85) ** 2, rel=1e-15)
    assert (row["avg_spread"], row["avg_spread_percentage"], row["total_liquidity"]) == (2, 2, 5)
    assert (row["avg_volatility"], row["avg_volume"], row["avg_volume_24h"]) == (20, 15, 5)
    assert (row["last_market_cap"], row["n_ticks"], row["n_candles"], row["coverage"]) == (7, 1, 1, 2 / 60)
    assert (row["n_reference_minutes"], row["definition"]) == (0, DEFINITION)
    assert [as_row(reference_row) for reference_row in reference.hour_rows([tick], [first, under])] == [row]


@pytest.mark.parametrize("seed", range(4))
def test_days_of_several_markets_equal_the_reference(seed: int) -> None:
    """With gaps in ticks and candles, and the trailing day across midnight."""
    rng = random.Random(seed)
    ticks, candles = [], []
    for symbol in ("BTC-USD", "ETH-EUR"):
        for minute in range(-1440, 3 * 60):
            at = HOUR + minute * MINUTE_MS
            price = rng.uniform(90, 110)
            if rng.random() < (0.97, 0.92, 0.85, 0.0)[seed]:
                candles.append(builders.candle(at, symbol, price))
            if minute >= 0 and rng.random() < (0.3, 0.9, 0.5, 0.5)[seed]:
                quote = {} if rng.random() < 0.7 else {"bid_price": None, "ask_price": None}
                offsets = {0, rng.randrange(1, MINUTE_MS)}
                ticks += [builders.tick(at + o, symbol, high_24h=111.0, low_24h=89.0, **quote) for o in offsets]
    hours = [row for row in reference.hour_rows(ticks, candles) if from_rfc3339(row.hour_start) >= HOUR]
    found = rows(ticks, candles, hours=3)
    assert_same(found, [as_row(row) for row in hours])
    assert len(found) == 2 * 3
    assert any(row["n_candles"] and row["n_reference_minutes"] for row in found) == (seed != 3)


@given(st.sets(st.integers(0, 3 * 24 + 5), min_size=1), st.integers(0, 2**32))
def test_trailing_volatility_of_any_window_equals_the_direct_one(hours: set[int], seed: int) -> None:
    rng = random.Random(seed)
    known = {}
    for hour in hours | set(range(20, 50)):
        at = HOUR + hour * HOUR_MS
        low, opening, close, high = sorted(rng.uniform(1, 100) for _ in range(4))
        known[at] = Candle(
            symbol=SYMBOL,
            open_time=to_rfc3339(at),
            interval="1h",
            open=opening,
            high=high,
            low=low,
            close=close,
            volume=1.0,
        )
    n = 3 * 24 + 6
    grid = [known.get(HOUR + i * HOUR_MS) for i in range(n)]
    opening, high, low, close = (
        np.array([math.nan if kline is None else getattr(kline, name) for kline in grid])
        for name in ("open", "high", "low", "close")
    )
    found = trailing_volatility(Prices(close, opening, high, low, close), DAY_MS // HOUR_MS)
    expected = [
        None if kline is None else reference.trailing_volatility(known, kline.open_time_ms, HOUR_MS) for kline in grid
    ]
    assert [None if math.isnan(value) else value for value in found.tolist()] == expected
    assert any(value is not None for value in expected)


def test_hours_of_which_only_the_klines_are_known() -> None:
    rng = random.Random(13)
    klines = [
        replace(builders.candle(HOUR + i * HOUR_MS, symbol, rng.uniform(1, 2)), interval="1h", volume=60.0 * i)
        for symbol in ("XRP-USD", "BTC-USD")
        for i in range(100)
        if i not in {40, 41, 77}
    ]
    wanted = [kline.symbol == "XRP-USD" or i % 2 == 0 for i, kline in enumerate(klines)]
    order = list(range(len(klines)))
    rng.shuffle(order)
    table = candle_table(klines).append_column("wanted", pa.array(wanted)).take(order)
    known = {s: {k.open_time_ms: k for k in klines if k.symbol == s} for s in ("XRP-USD", "BTC-USD")}
    expected = [as_row(reference.kline_row(k, known[k.symbol])) for k, w in zip(klines, wanted, strict=True) if w]
    found = rows_of(kline_rows(table))
    assert_same(found, sorted(expected, key=lambda row: (row["symbol"], row["hour_start"])))
    first = [row["avg_volatility"] is not None for row in found if row["symbol"] == "XRP-USD"][:25]
    assert first == [False] * 23 + [True] * 2


def test_an_hour_of_which_only_the_kline_is_known() -> None:
    kline = Candle(symbol=SYMBOL, open_time=to_rfc3339(HOUR), interval="1h", open=1, high=4, low=1, close=2, volume=60)
    (row,) = rows_of(kline_rows(candle_table([kline]).append_column("wanted", pa.array([True]))))
    assert (row["avg_price"], row["avg_volume"], row["realised_variance"], row["avg_volatility"]) == (2, 1, None, None)
    assert (row["n_ticks"], row["n_candles"], row["coverage"]) == (0, 0, 1.0)
    assert (row["origin"], row["basis"]) == ("backfill", "candles_1h")


def test_no_input_gives_no_rows_with_all_columns() -> None:
    empty = hour_rows(tick_table([]), candle_table([]), HOUR, HOUR + HOUR_MS)
    assert empty.num_rows == 0
    assert empty.schema == kline_rows(candle_table([]).append_column("wanted", pa.array([], pa.bool_()))).schema
    assert rows([mid_tick(HOUR - 1, 1.0), mid_tick(HOUR + HOUR_MS, 1.0)], []) == []


def test_a_lower_basis_does_not_replace_a_higher() -> None:
    ranks = ("candles_1h", "candles_1m", "ticks")
    assert [[replaces(new, old) for old in ranks] for new in ranks] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
