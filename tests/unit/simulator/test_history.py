"""History of the simulated exchange: the bridge preserves its hours, stored candles are served unchanged."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import InvalidValueError
from marketdata.times import HOUR_MS, MINUTE_MS
from simulator.bridge import bridge_hour
from simulator.candles import Candles
from simulator.derive import decimals_of
from simulator.history import MarketHistory, read_candles
from simulator.listing import PER_USD
from tests.support.exchange_server import DAY, SEED, small_history, walk


@st.composite
def hours(draw: st.DrawFn) -> Candles:
    decimals = draw(st.sampled_from([2, 4]))
    step = 10**decimals
    low = draw(st.integers(1, 10**7))
    high = low + draw(st.integers(0, 10**5))
    open_, close = (draw(st.integers(low, high)) for _ in range(2))
    volume = draw(st.integers(0, 10**9)) / 10 ** draw(st.integers(0, 5))
    row = (open_ / step, high / step, low / step, close / step, volume, 0.0)
    hour_ms = draw(st.integers(400_000, 500_000)) * HOUR_MS
    return Candles(np.array([hour_ms]), *(np.array([value]) for value in row))


@given(hours(), st.integers(0, 2**63), st.sampled_from(["BTCUSDT", "XRPUSDT"]))
def test_a_bridged_hour_keeps_its_open_high_low_close_and_volume(hour: Candles, seed: int, symbol: str) -> None:
    minutes = bridge_hour(seed, symbol, hour)
    assert minutes.time_ms.tolist() == [int(hour.time_ms[0]) + number * MINUTE_MS for number in range(60)]
    assert minutes.open[0] == hour.open[0]
    assert minutes.high.max() == hour.high[0]
    assert minutes.low.min() == hour.low[0]
    assert minutes.close[-1] == hour.close[0]
    assert (minutes.open[1:] == minutes.close[:-1]).all()
    assert (minutes.low <= np.minimum(minutes.open, minutes.close)).all()
    assert (minutes.high >= np.maximum(minutes.open, minutes.close)).all()
    assert (minutes.volume >= 0).all()
    assert math.fsum(minutes.volume.tolist()) == pytest.approx(float(hour.volume[0]), rel=1e-14, abs=1e-9)
    decimals = max(decimals_of(float(hour.volume[0])), 5)
    units = np.round(minutes.volume * 10**decimals)
    assert units.sum() == round(float(hour.volume[0]) * 10**decimals)


def test_the_bridge_depends_on_the_seed_only() -> None:
    hour = walk(DAY, 1, HOUR_MS, 3_000.0)
    again = walk(DAY, 1, HOUR_MS, 3_000.0)
    assert (bridge_hour(1, "ETHUSDT", hour).close == bridge_hour(1, "ETHUSDT", again).close).all()
    assert (bridge_hour(1, "ETHUSDT", hour).close != bridge_hour(2, "ETHUSDT", hour).close).any()
    assert (bridge_hour(1, "ETHUSDT", hour).close != bridge_hour(1, "XRPUSDT", hour).close).any()


def test_minutes_of_bridged_hours_aggregate_to_the_stored_hours() -> None:
    history = small_history()
    minutes = history.minutes("ETHUSDT", history.start_ms, history.end_ms)
    grouped, counts = minutes.grouped(HOUR_MS)
    stored = history.hours("ETHUSDT", history.start_ms, history.end_ms)
    assert counts.tolist() == [60] * 72
    for mine, theirs in zip(grouped.prices(), stored.prices(), strict=True):
        assert mine.tolist() == theirs.tolist()
    assert grouped.volume.tolist() == stored.volume.tolist()


def test_stored_minutes_are_unchanged_and_missing_ones_stay_missing() -> None:
    minutes = walk(DAY, 180, MINUTE_MS, 60_000.0)
    holed = minutes[np.r_[0:70, 80:180]]
    hours_stored = walk(DAY, 4, HOUR_MS, 61_000.0, seed=2)
    history = MarketHistory({"BTCUSDT": (holed, hours_stored)}, SEED)
    assert history.minutes("BTCUSDT", DAY, DAY + 3 * HOUR_MS).open.tolist() == holed.open.tolist()
    served = history.hours("BTCUSDT", DAY, DAY + 4 * HOUR_MS)
    # Complete hours come from their minutes; the one with a gap and the one without minutes from the hour file.
    assert served.open[0] == minutes.open[0]
    assert served.close[1] == hours_stored.close[1]
    assert served.close[2] == minutes.close[179]
    assert served.close[3] == hours_stored.close[3]
    assert len(history.minutes("BTCUSDT", DAY + 3 * HOUR_MS, DAY + 4 * HOUR_MS)) == 60


def test_euro_prices_use_the_documented_rate() -> None:
    history = small_history()
    assert history.symbols == ("BTCEUR", "BTCUSDT", "ETHEUR", "ETHUSDT")
    dollars = history.minutes("BTCUSDT", DAY, DAY + HOUR_MS)
    euros = history.minutes("BTCEUR", DAY, DAY + HOUR_MS)
    assert euros.close.tolist() == np.round(dollars.close * PER_USD["EUR"], 2).tolist()
    assert euros.volume.tolist() == dollars.volume.tolist()
    assert history.hours("BTCEUR", DAY, DAY + HOUR_MS).high[0] == euros.high.max()


def _write(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def _columns(times: list[int]) -> dict[str, object]:
    count = len(times)
    prices = {"open": [10.0] * count, "high": [11.0] * count, "low": [9.0] * count, "close": [10.5] * count}
    return {"timestamp": times, **prices, "volume": [2.0] * count}


def test_a_folder_is_read_with_quote_volume_microseconds_and_overlaps(tmp_path: Path) -> None:
    times = [DAY + number * MINUTE_MS for number in range(3)]
    _write(tmp_path / "klines_1m/ABCUSDT-1m-a.parquet", **_columns(times))
    _write(
        tmp_path / "klines_1m/ABCUSDT-1m-b.parquet", **_columns([time * 1000 for time in times]), quote_volume=[7.0] * 3
    )
    history = MarketHistory.load(tmp_path, SEED)
    minutes = history.minutes("ABCUSDT", DAY, DAY + HOUR_MS)
    assert minutes.time_ms.tolist() == times
    assert minutes.quote_volume.tolist() == [7.0] * 3  # the file read last wins
    assert history.symbols == ("ABCEUR", "ABCUSDT")


def test_invalid_rows_are_skipped(tmp_path: Path) -> None:
    columns = _columns([DAY + number * MINUTE_MS for number in range(4)])
    columns["high"] = [11.0, 10.2, 11.0, 11.0]
    columns["volume"] = [2.0, 2.0, None, 2.0]
    _write(tmp_path / "one.parquet", **columns)
    candles = read_candles(tmp_path / "one.parquet")
    assert candles.time_ms.tolist() == [DAY, DAY + 3 * MINUTE_MS]
    assert candles.quote_volume.tolist() == [2.0 * (10 + 11 + 9 + 10.5) / 4] * 2


def test_a_folder_without_candles_and_a_file_without_a_column_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="klines_1m"):
        MarketHistory.load(tmp_path, SEED)
    columns = _columns([DAY])
    del columns["low"]
    _write(tmp_path / "klines_1m/ABCUSDT-1m-a.parquet", **columns)
    with pytest.raises(InvalidValueError, match="a column low"):
        MarketHistory.load(tmp_path, SEED)
    (tmp_path / "klines_1m/ABCUSDT-1m-a.parquet").write_bytes(b"no parquet")
    with pytest.raises(InvalidValueError, match="readable Parquet"):
        MarketHistory.load(tmp_path, SEED)
