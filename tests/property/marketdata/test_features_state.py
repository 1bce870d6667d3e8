"""The state of the rolling features: merging, lateness, revisions, and restoring it from any prefix of its writes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.codec import encode
from marketdata.errors import InvalidValueError
from marketdata.features import JOURNAL_SIZE, MarketFeatures
from marketdata.quote_tick import QuoteTick, decode_quote
from marketdata.records import FeatureRow, Tick, WindowFeatures
from marketdata.windows import WINDOWS

START = 1_722_816_000_000
Row = tuple[int, float, float, float, float]


def walk(n: int, seed: int, gap_ms: int = 700) -> list[Row]:
    rng = random.Random(seed)
    at, mid, rows = START + rng.randrange(10_000), 100.0, []
    for _ in range(n):
        at += rng.randrange(1, gap_ms)
        mid *= 1 + rng.gauss(0, 1e-4)
        rows.append((at, mid * 0.9999, rng.random(), mid * 1.0001, rng.random()))
    return rows


def near(value: float | None) -> object:
    return None if value is None else pytest.approx(value, rel=1e-9, abs=1e-15)


def assert_same(left: FeatureRow, right: FeatureRow) -> None:
    """Equal except for the order of summation."""
    assert (left.timestamp, left.revision, left.mid, left.spread_bps) == (
        right.timestamp,
        right.revision,
        right.mid,
        right.spread_bps,
    )
    assert left.ewma_volatility == near(right.ewma_volatility)
    for name, window in left.windows.items():
        for field in WindowFeatures.__struct_fields__:
            assert getattr(window, field) == near(getattr(right.windows[name], field)), (name, field)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 400), st.integers(0, 10**6), st.sampled_from([50, 700, 20_000, 900_000]))
def test_states_of_two_halves_merge_into_the_whole(n: int, seed: int, gap_ms: int) -> None:
    rows = walk(n, seed, gap_ms)
    rng = random.Random(seed)
    whole, left, right = (MarketFeatures("BTC-USD", 10**12) for _ in range(3))
    for row in rows:
        whole.add(*row)
        (left if rng.random() < 0.5 else right).add(*row)
    left.merge(right)
    assert_same(left.result(), whole.result())
    stored = left.flush()
    assert_same(MarketFeatures.restore("BTC-USD", stored.get).result(), left.result())


def test_a_state_of_another_market_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"symbol: 'ETH-USD': expected BTC-USD"):
        MarketFeatures("BTC-USD").merge(MarketFeatures("ETH-USD"))


def test_no_row_before_the_first_tick() -> None:
    with pytest.raises(InvalidValueError, match="at least one tick"):
        MarketFeatures("BTC-USD").result()


def test_ticks_later_than_the_lateness_are_ignored_and_counted() -> None:
    state = MarketFeatures("BTC-USD", lateness_ms=120_000)
    state.add(START, 99.0, 1.0, 101.0, 1.0)
    assert state.add(START - 120_000, 89.0, 1.0, 91.0, 1.0)
    assert not state.add(START - 120_001, 1.0, 1.0, 2.0, 1.0)
    assert state.late == 1
    row = state.result()
    assert (row.windows["5m"].n_ticks, row.windows["5m"].low, row.windows["1m"].n_ticks) == (2, 90.0, 1)


def test_a_late_tick_gives_the_same_instant_a_higher_revision() -> None:
    state = MarketFeatures("BTC-USD")
    state.add(START, 99.0, 1.0, 101.0, 1.0)
    first = state.result()
    state.add(START - 30_000, 89.0, 1.0, 91.0, 1.0)
    second = state.result()
    state.add(START + 60_000, 99.0, 1.0, 101.0, 1.0)
    third = state.result()
    assert [row.revision for row in (first, second, third)] == [0, 1, 0]
    assert first.timestamp == second.timestamp < third.timestamp
    assert second.windows["1m"].open == 90.0


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 600),
    st.integers(0, 10**6),
    st.sampled_from([50, 700, 20_000, 900_000]),
    st.integers(1, 40),
    st.integers(0, 10**6),
)
def test_any_prefix_of_the_writes_restores_the_state_and_the_rest_replays(
    n: int, seed: int, gap_ms: int, batch: int, cut_at: int
) -> None:
    """After a crash at any write, the restored state plus the records that it has not seen equals an uncrashed one."""
    rows = walk(n, seed, gap_ms)
    steady = MarketFeatures("BTC-USD")
    writes: list[tuple[str, bytes]] = []
    for offset, row in enumerate(rows):
        assert not steady.mark_seen(0, offset)
        steady.add(*row)
        if (offset + 1) % batch == 0:
            writes.extend(steady.flush().items())
    store = dict(writes[: cut_at % (len(writes) + 1)])
    state = MarketFeatures.restore("BTC-USD", store.get)
    for offset, row in enumerate(rows):
        if not state.mark_seen(0, offset):
            state.add(*row)
            if offset % 17 == 0:
                store.update(state.flush())
    assert_same(state.result(), steady.result())
    store.update(state.flush())
    again = MarketFeatures.restore("BTC-USD", store.get)
    assert again.offsets == {0: n - 1}
    assert_same(again.result(), MarketFeatures.restore("BTC-USD", store.get).result())
    assert len(store) <= JOURNAL_SIZE + len(WINDOWS) + 1


def test_revisions_survive_a_restart() -> None:
    state, store = MarketFeatures("BTC-USD"), {}
    for row in walk(100, 1):
        state.add(*row)
        state.result()
        store.update(state.flush())
    back = MarketFeatures.restore("BTC-USD", store.get)
    assert_same(back.result(), state.result())


def test_a_flush_without_ticks_writes_nothing() -> None:
    state = MarketFeatures("BTC-USD")
    state.add(START, 99.0, 1.0, 101.0, 1.0)
    assert list(state.flush()) == ["j1"]
    assert state.flush() == {}


@pytest.mark.parametrize(("suffix", "n"), [("h", 300), ("p0", 300), ("j1", 1)])
def test_bytes_of_another_version_or_truncated_are_refused(suffix: str, n: int) -> None:
    state, store = MarketFeatures("BTC-USD"), {}
    for row in walk(n, 1):
        state.add(*row)
        store.update(state.flush())
    for broken in (b"\x07" + store[suffix][1:], store[suffix][:-1]):
        with pytest.raises(InvalidValueError, match="state"):
            MarketFeatures.restore("BTC-USD", {**store, suffix: broken}.get)


def test_the_fast_decoder_reads_the_output_of_the_strict_codec() -> None:
    tick = Tick(
        symbol="BTC-USD",
        tick_id="BTC-USD|2024-08-05T00:00:00.000Z",
        timestamp="2024-08-05T00:00:00.000Z",
        quote="USD",
        bid_price=1.0,
        bid_qty=2.0,
        ask_price=3.0,
    )
    assert decode_quote(encode(tick)) == QuoteTick("BTC-USD", "2024-08-05T00:00:00.000Z", 1.0, 2.0, 3.0, None)


def test_slots_divide_windows_and_are_on_the_grid() -> None:
    for window in WINDOWS:
        assert window.length_ms % window.slot_ms == 0
        start, end = window.edges(START + 1)
        assert (end - start, end % window.slot_ms) == (window.length_ms, 0)
        assert start <= START + 1 < end
