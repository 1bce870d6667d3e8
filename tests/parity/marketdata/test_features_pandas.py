"""The rolling features equal a pandas implementation of docs/features.md, for any order of arrival."""

import math
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.features import EWMA_HALF_LIFE_MS, MarketFeatures
from marketdata.records import FeatureRow
from marketdata.times import to_rfc3339
from marketdata.windows import WINDOWS, Window

START = 1_722_816_000_000
COLUMNS = ["t", "bid", "bid_qty", "ask", "ask_qty", "volume", "quote_volume"]
Row = tuple[int, float | None, float | None, float | None, float | None, float | None, float | None]


def frame(rows: list[Row]) -> pd.DataFrame:
    df = (
        pd.DataFrame(rows, columns=COLUMNS)
        .astype(dict.fromkeys(COLUMNS[1:], float))
        .sort_values("t", ignore_index=True)
    )
    valid = (df.bid > 0) & (df.ask >= df.bid)
    df["mid"] = ((df.bid + df.ask) / 2).where(valid)
    df["spread"] = (df.ask - df.bid) / df.mid * 10_000
    df["liquidity"] = (df.bid_qty + df.ask_qty).where(valid)
    df["imbalance"] = ((df.bid_qty - df.ask_qty) / df.liquidity).where(df.liquidity > 0)
    return df


def last_by_slot(df: pd.DataFrame, window: Window) -> pd.Series:
    mids = df.dropna(subset="mid")
    return mids.groupby(mids.t // window.slot_ms).mid.last()


def reference(df: pd.DataFrame, window: Window) -> dict[str, float | None]:
    newest = int(df.t.max())
    end = newest - newest % window.slot_ms + window.slot_ms
    df = df[(df.t >= end - window.length_ms) & (df.t < end)]
    mids = df.dropna(subset="mid")
    traded = df.dropna(subset=["volume", "quote_volume"])
    volume = float(traded.volume.sum()) if len(traded) else None
    out: dict[str, float | None] = {
        "n_ticks": len(df),
        "volume": volume,
        "vwap": float(traded.quote_volume.sum()) / volume if volume else None,
    }
    names = "open high low last log_return realised_volatility mean_spread_bps max_spread_bps mean_liquidity imbalance"
    if mids.empty:
        return out | dict.fromkeys(names.split()) | {"coverage": 0.0}
    cell = (end - 1 - mids.t) // 60_000
    path = np.log([mids.mid.iloc[0], *last_by_slot(df, window)])
    known = len(mids) > 1
    return out | {
        "coverage": cell.nunique() / max(1, window.length_ms // 60_000),
        "open": mids.mid.iloc[0],
        "high": mids.mid.max(),
        "low": mids.mid.min(),
        "last": mids.mid.iloc[-1],
        "log_return": math.log(mids.mid.iloc[-1] / mids.mid.iloc[0]) if known else None,
        "realised_volatility": math.sqrt((np.diff(path) ** 2).sum()) if known else None,
        "mean_spread_bps": mids.spread.mean(),
        "max_spread_bps": mids.spread.max(),
        "mean_liquidity": None if mids.liquidity.isna().all() else mids.liquidity.mean(),
        "imbalance": None if mids.imbalance.isna().all() else mids.imbalance.mean(),
    }


def reference_ewma(df: pd.DataFrame) -> float | None:
    window = next(w for w in WINDOWS if w.name == "1h")
    newest = int(df.t.max())
    end = newest - newest % window.slot_ms + window.slot_ms
    closes = last_by_slot(df[df.t >= end - window.length_ms], window)
    if len(closes) < 2:
        return None
    minutes = closes.index.to_numpy()
    weights = 0.5 ** ((newest // window.slot_ms - minutes[1:]) * window.slot_ms / EWMA_HALF_LIFE_MS)
    squares = np.diff(np.log(closes.to_numpy())) ** 2
    return math.sqrt((weights * squares).sum() / (weights * np.diff(minutes)).sum())


def assert_equals_reference(row: FeatureRow, rows: list[Row]) -> None:
    df = frame(rows)
    assert row.timestamp == to_rfc3339(int(df.t.max()))
    for window in WINDOWS:
        got = row.windows[window.name]
        for name, want in reference(df, window).items():
            assert getattr(got, name) == (None if want is None else pytest.approx(want, rel=1e-9, abs=1e-12)), (
                window.name,
                name,
            )
    want_ewma = reference_ewma(df)
    assert row.ewma_volatility == (None if want_ewma is None else pytest.approx(want_ewma, rel=1e-9, abs=1e-12))
    newest = df.iloc[-1]
    assert row.mid == (None if np.isnan(newest.mid) else pytest.approx(newest.mid, rel=1e-12))
    assert row.spread_bps == (None if np.isnan(newest.mid) else pytest.approx(newest.spread, rel=1e-12))


def none_or(values: st.SearchStrategy[float]) -> st.SearchStrategy[float | None]:
    return st.one_of(st.none(), values, values, values)


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    """Ticks ordered by time, with gaps from a millisecond to a day and a half, nulls and crossed quotes."""
    gaps = st.one_of(st.integers(1, 3_000), st.integers(1, 120_000), st.integers(1, 4_000_000), st.just(130_000_000))
    at, rows = START + draw(st.integers(0, 86_400_000)), []
    for _ in range(draw(st.integers(1, 60))):
        at += draw(gaps)
        bid = draw(none_or(st.floats(1e-3, 1e5)))
        ask = None if bid is None else bid * draw(st.floats(0.9999, 1.01))
        sizes = draw(none_or(st.floats(0, 1e3))), draw(none_or(st.floats(0, 1e3)))
        volume = draw(none_or(st.floats(0, 1e3)))
        rows.append((at, bid, sizes[0], ask, sizes[1], volume, None if volume is None else volume * 100))
    return rows


def shuffled_within(rows: list[Row], lateness_ms: int, seed: int) -> list[Row]:
    """Return the rows in an order of arrival in which no tick exceeds the lateness."""
    rng = random.Random(seed)
    return sorted(rows, key=lambda row: row[0] + rng.uniform(0, lateness_ms))


@settings(max_examples=100, deadline=None)
@given(histories(), st.integers(0, 2**32))
def test_any_order_of_arrival_equals_pandas(rows: list[Row], seed: int) -> None:
    state = MarketFeatures("BTC-USD", lateness_ms=120_000)
    for row in shuffled_within(rows, 120_000, seed):
        assert state.add(*row)
    assert_equals_reference(state.result(), rows)


@settings(max_examples=30, deadline=None)
@given(histories(), st.integers(0, 2**32), st.integers(1, 10))
def test_intermediate_rows_equal_pandas(rows: list[Row], seed: int, every: int) -> None:
    state = MarketFeatures("BTC-USD", lateness_ms=120_000)
    arrived = shuffled_within(rows, 120_000, seed)
    for n, row in enumerate(arrived, start=1):
        state.add(*row)
        row_now = state.result()
        if n % every == 0:
            assert_equals_reference(row_now, arrived[:n])


def test_a_day_of_seconds_equals_pandas() -> None:
    rng = random.Random(7)
    rows: list[Row] = []
    mid = 60_000.0
    for i in range(90_000):
        if rng.random() < 0.7:
            continue
        mid *= math.exp(rng.gauss(0, 1e-5))
        rows.append((START + i * 1_000 + rng.randrange(1000), mid - 1, rng.random(), mid + 1, rng.random(), 1.0, mid))
    state = MarketFeatures("BTC-USD")
    for row in shuffled_within(rows, 30_000, 3):
        assert state.add(*row)
    assert_equals_reference(state.result(), rows)
