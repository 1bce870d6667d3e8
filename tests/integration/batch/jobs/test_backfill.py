"""Backfill from the simulated exchange into a real HDFS."""

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from clients.webhdfs import connect
from config import Settings
from marketdata.parquet import read_parquet
from marketdata.times import HOUR_MS, MINUTE_MS, from_rfc3339
from tests.support.stack import ROOT, ExchangeUnderTest, read_table

END = "2024-08-04T06:30:00Z"
END_MS = from_rfc3339("2024-08-04T06:00:00Z")
FEW = ("backfill", "--hours", "72", "--minutes", "1800", "--to", END)


@pytest.fixture(scope="module")
def exchange(start_exchange: Callable[..., ExchangeUnderTest]) -> ExchangeUnderTest:
    return start_exchange(speed=1)


@pytest.fixture
def env(child_env: dict[str, str], exchange: ExchangeUnderTest) -> dict[str, str]:
    return {**child_env, "BDI_BINANCE__BASE_URL": exchange.binance, "BDI_MARKETS": "BTC-USD,XRP-EUR"}


def run(env: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "batch", *words],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def fault(exchange: ExchangeUnderTest, **wanted: Any) -> None:
    exchange.control("POST", "faults", **wanted)


def test_history_is_stored_once_with_its_origin_and_verified(
    settings: Settings, env: dict[str, str], exchange: ExchangeUnderTest
) -> None:
    fault(exchange, fault="429", match="klines", count=1, retry_after_s=1)
    fault(exchange, fault="garbage", match="klines", count=1)
    first = run(env, *FEW)
    assert first.returncode == 0, first.stderr
    assert "progress: backfill klines" in first.stderr
    rows = read_table(settings, settings.hdfs.hourly_metrics)
    assert len(rows) == 2 * 72
    assert set(rows["origin"]) == {"backfill"}
    # 1,800 minutes before 06:30 start at 00:30 of the previous day, rounded down to 00:00: 30 closed hours of minutes.
    assert rows["basis"].value_counts().to_dict() == {"candles_1h": 2 * 42, "candles_1m": 2 * 30}
    assert rows["hour_start"].max().value // 1_000_000 == END_MS - HOUR_MS
    for name in ("avg_spread", "avg_spread_percentage", "total_liquidity", "last_market_cap", "avg_volume_24h"):
        assert rows[name].isna().all(), name
    hours = rows[rows["basis"] == "candles_1h"]
    assert hours["avg_volatility"].notna().all()
    assert hours["realised_variance"].isna().all()
    minutes = read_table(settings, settings.hdfs.minute_candles)
    assert len(minutes) == 2 * (30 * 60 + 30)
    assert list(minutes.columns[:2]) == ["symbol", "open_time"]

    checked = run(env, "verify", "--json")
    assert checked.returncode == 0, checked.stdout
    assert json.loads(checked.stdout)["checked_hours"] == 2 * 31

    again = run(env, *FEW)
    assert again.returncode == 0
    assert "up to date, no new klines" in again.stderr
    assert read_table(settings, settings.hdfs.hourly_metrics).equals(rows)


def test_a_wider_backfill_requests_only_missing_klines(settings: Settings, env: dict[str, str]) -> None:
    assert run(env, "backfill", "--hours", "24", "--minutes", "0", "--to", END).returncode == 0
    wider = run(env, "backfill", "--hours", "48", "--minutes", "0", "--to", END)
    assert wider.returncode == 0
    rows = read_table(settings, settings.hdfs.hourly_metrics)
    assert len(rows) == 2 * 48
    assert rows["avg_volatility"].notna().all()
    assert "48 hourly rows merged" in wider.stderr


def test_earlier_minutes_complete_the_trailing_day_of_stored_ones(settings: Settings, env: dict[str, str]) -> None:
    assert run(env, "backfill", "--hours", "1", "--minutes", "1500", "--to", END).returncode == 0
    rows = read_table(settings, settings.hdfs.hourly_metrics)
    assert rows["avg_volatility"].isna().sum() == 2 * 23
    assert run(env, "backfill", "--hours", "1", "--minutes", "3300", "--to", END).returncode == 0
    rows = read_table(settings, settings.hdfs.hourly_metrics)
    assert rows["avg_volatility"].isna().sum() == 2 * 23  # of the first day only
    checked = run(env, "verify")
    assert checked.returncode == 0, checked.stdout


def test_an_unknown_market_is_logged_and_skipped(
    settings: Settings, env: dict[str, str], start_exchange: Callable[..., ExchangeUnderTest], tmp_path: Path
) -> None:
    for path in settings.devstack.exchange_data.glob("*/BTCUSDT*"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name)
    alone = start_exchange(data=tmp_path, speed=1)
    done = run(
        {**env, "BDI_BINANCE__BASE_URL": alone.binance}, "backfill", "--hours", "24", "--minutes", "0", "--to", END
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("binance does not list XRP-EUR; the other markets continue") == 1
    assert set(read_table(settings, settings.hdfs.hourly_metrics)["symbol"]) == {"BTC-USD"}


def test_a_refusal_by_the_exchange_ends_the_backfill_with_one_line(
    env: dict[str, str], exchange: ExchangeUnderTest
) -> None:
    fault(exchange, fault="451", match="klines", count=2)
    try:
        failed = run(env, "backfill", "--hours", "24", "--minutes", "0", "--to", END)
    finally:
        exchange.control("DELETE", "faults")
    assert failed.returncode == 1
    assert "HTTP 451" in failed.stderr.strip().splitlines()[-1]
    assert "Traceback" not in failed.stderr


def test_verify_reports_a_wrong_row(settings: Settings, env: dict[str, str]) -> None:
    assert run(env, "backfill", "--hours", "2", "--minutes", "120", "--to", END).returncode == 0
    client = connect(settings.hdfs)
    file = f"{settings.hdfs.hourly_metrics}/hourly-2024-08.parquet"
    with client.read(file) as stream:
        rows = read_parquet(stream.read())
    place = rows.column_names.index("last_price")
    changed = rows.set_column(place, "last_price", pc.multiply(rows["last_price"], 1.001))
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables([changed, changed.slice(0, 1)]), buffer)
    client.write(file, buffer.getvalue(), overwrite=True)
    checked = run(env, "verify")
    assert checked.returncode == 1
    assert "last_price is" in checked.stdout
    assert "duplicate row" in checked.stdout


def test_a_corrected_archive_of_hours_replaces_them_and_is_reported(
    settings: Settings, env: dict[str, str], tmp_path: Path
) -> None:
    def store(close: float) -> str:
        line = f"{END_MS},10,12,9,{close},3.5,{END_MS + HOUR_MS - 1},35,7,1,10,0"
        with zipfile.ZipFile(tmp_path / "BTCUSDT-1h-2024-08-04.zip", "w") as zipped:
            zipped.writestr("BTCUSDT-1h-2024-08-04.csv", line)
        done = run(env, "backfill", "--archive", str(tmp_path), "--to", "2024-08-04T07:00:00Z")
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "differ" not in store(11.0)
    reported = store(11.6)
    assert "1 stored hours differ from the klines read: replaced" in reported
    assert "BTC-USD 2024-08-04T06:00Z: last_price 11.0 stored, 11.6 read" in reported
    assert read_table(settings, settings.hdfs.hourly_metrics)["last_price"].tolist() == [11.6]


def test_a_corrected_archive_is_reported_and_replaces_on_request(
    settings: Settings, env: dict[str, str], tmp_path: Path
) -> None:
    def store(close: float, *options: str) -> str:
        lines = [
            f"{at},10,12,9,{close if at == END_MS else 11},3.5,{at + MINUTE_MS - 1},35,7,1,10,0"
            for at in range(END_MS, END_MS + HOUR_MS, MINUTE_MS)
        ]
        with zipfile.ZipFile(tmp_path / "BTCUSDT-1m-2024-08-04.zip", "w") as zipped:
            zipped.writestr("BTCUSDT-1m-2024-08-04.csv", "\n".join(lines))
        done = run(env, "backfill", "--archive", str(tmp_path), "--to", "2024-08-04T07:00:00Z", *options)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def stored() -> tuple[float, float]:
        (hour,) = read_table(settings, settings.hdfs.hourly_metrics)["avg_price"]
        return float(read_table(settings, settings.hdfs.minute_candles)["close"][0]), float(hour)

    assert "differ" not in store(11.0)
    assert stored() == (11.0, pytest.approx(10.5))
    reported = store(11.6)
    assert "1 stored minutes differ from the klines read: kept; --replace stores the klines read instead" in reported
    assert "BTC-USD 2024-08-04T06:00Z: close 11.0 stored, 11.6 read" in reported
    assert stored() == (11.0, pytest.approx(10.5))
    assert "1 stored minutes differ from the klines read: replaced" in store(11.6, "--replace")
    assert stored() == (11.6, pytest.approx(10.5025))
