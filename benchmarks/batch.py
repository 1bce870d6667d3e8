"""Batch jobs as complete commands, and Spark's hourly rows compared with pandas on the same minutes."""

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from batch.schemas import CANDLES, column_names
from batch.spark.session import spark_session
from batch.tables.hours import hourly_rows
from batch.tables.layout import raw_data
from benchmarks.feed import START_MS, preload, steady
from benchmarks.report import Bench, Row, median_seconds
from clients.webhdfs import WebHdfs
from config import Settings
from devstack.stack import ROOT
from marketdata.parquet import read_parquet
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS
from marketdata.topics import TopicRole
from tests.support.kafka_records import make_topics
from tests.support.stack import alone, environment_of, eventually, running, running_exchange

DAYS = 14
SYMBOLS = ("BTC-USD", "ETH-USD", "XRP-USD", "BTC-EUR", "ETH-EUR", "XRP-EUR")
BATCHES = {6: 7, 10_000: 3}
"""Number of repetitions by ticks per micro-batch."""
_BATCH = re.compile(r"batch \d+: (\d+) ticks, .* in (\d+) ms .* hours (\d+)\)")


class _Batch(NamedTuple):
    """Values of a log line."""

    ticks: int
    ms: int
    hours_ms: int


def _minutes() -> pa.Table:
    """One-minute candles of all markets, one random walk per market, with the columns of minute_candles."""
    n = DAYS * 1440
    rng = np.random.default_rng(0)
    frames = []
    for symbol in SYMBOLS:
        closes = 100 * np.exp(np.cumsum(rng.normal(0, 5e-4, n)))
        opens = np.concatenate([[100.0], closes[:-1]])
        frames.append(
            pd.DataFrame(
                {
                    "symbol": symbol,
                    "open_time": pd.to_datetime(START_MS + MINUTE_MS * np.arange(n), unit="ms", utc=True),
                    "open": opens,
                    "high": np.maximum(opens, closes) * 1.0002,
                    "low": np.minimum(opens, closes) * 0.9998,
                    "close": closes,
                    "volume": rng.exponential(10, n),
                    "quote_volume": rng.exponential(1000, n),
                    "n_trades": rng.integers(1, 1000, n),
                    "taker_buy_volume": rng.exponential(5, n),
                    "taker_buy_quote_volume": rng.exponential(500, n),
                    "source": "binance",
                }
            )
        )
    table = pa.Table.from_pandas(pd.concat(frames), preserve_index=False)
    stamps = table["open_time"].cast(pa.timestamp("us", "UTC"))
    return table.set_column(1, "open_time", stamps).select(list(column_names(CANDLES)))


def _pandas_hours(path: Path) -> pd.DataFrame:
    """Hourly rows from candles, by the formulas of docs/features.md."""
    minutes = pd.read_parquet(path)
    by_symbol = minutes.groupby("symbol", sort=False)
    high = by_symbol["high"].rolling(1440).max().droplevel(0)
    low = by_symbol["low"].rolling(1440).min().droplevel(0)
    minutes["volatility"] = (high - low) / minutes["close"] * 100
    minutes["hour_start"] = minutes["open_time"].dt.floor("h")
    before = minutes.groupby(["symbol", "hour_start"])["close"].shift().fillna(minutes["open"])
    minutes["mean"] = minutes[["open", "high", "low", "close"]].mean(axis=1)
    minutes["square"] = np.log(minutes["close"] / before) ** 2
    return minutes.groupby(["symbol", "hour_start"], as_index=False).agg(
        avg_price=("mean", "mean"),
        avg_volatility=("volatility", "mean"),
        high_price=("high", "max"),
        low_price=("low", "min"),
        avg_volume=("volume", "mean"),
        open_price=("open", "first"),
        last_price=("close", "last"),
        realised_variance=("square", "sum"),
        n_candles=("close", "size"),
    )


def _aggregation(bench: Bench, settings: Settings) -> list[Row]:
    path = bench.folder / "minutes.parquet"
    pq.write_table(_minutes(), path)
    began = time.monotonic()
    with spark_session(settings, "bench") as spark:
        started = time.monotonic() - began
        ticks = spark.createDataFrame([], raw_data(settings).ddl)
        until = START_MS + DAYS * DAY_MS

        def spark_hours() -> pd.DataFrame:
            candles = spark.read.schema(CANDLES).parquet(path.as_uri())
            made: pd.DataFrame = hourly_rows(ticks, candles.coalesce(1), START_MS, until).toPandas()
            return made

        by_spark, by_pandas = spark_hours(), _pandas_hours(path)
        _check_same(by_spark, by_pandas)
        spark_s = median_seconds(spark_hours, 3, warm_up=False)
    pandas_s = median_seconds(lambda: _pandas_hours(path), 3)
    count = DAYS * 1440 * len(SYMBOLS)
    return [
        Row("Spark session", started, "s"),
        Row(f"{count:,} minutes to hourly rows", spark_s, "s", "pandas, same rows", spark_s / pandas_s),
        Row("peer: pandas, same rows", pandas_s, "s"),
    ]


def _check_same(spark: pd.DataFrame, pandas: pd.DataFrame) -> None:
    """Assert that both implementations give the same rows, before their times are compared."""
    order = ["symbol", "hour_start"]
    left, right = (frame.sort_values(order).reset_index(drop=True) for frame in (spark, pandas))
    for name in ("avg_price", "avg_volatility", "high_price", "realised_variance", "avg_volume"):
        np.testing.assert_allclose(left[name].astype(float), right[name].astype(float), rtol=1e-9, err_msg=name)


def _backfill(bench: Bench, settings: Settings) -> list[Row]:
    """Run the complete command twice: the second run finds nothing missing."""
    folder = bench.folder / "backfill"
    folder.mkdir()
    with running_exchange(folder, speed=1) as exchange:
        env = {**environment_of(settings), "BDI_BINANCE__BASE_URL": exchange.binance, "BDI_MARKETS": ",".join(SYMBOLS)}
        command = [sys.executable, "-m", "batch", "backfill", "--minutes", "0", "--to", "2024-08-05T00:00:00Z"]
        taken = []
        for _ in range(2):
            began = time.monotonic()
            subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, timeout=300)
            taken.append(time.monotonic() - began)
    storage = WebHdfs(settings.hdfs)

    def read() -> pa.Table:
        files = [state.path for state in storage.files(settings.hdfs.hourly_metrics, ".parquet")]
        return pa.concat_tables([read_parquet(data) for data in storage.read_many(files)])

    table = read()
    read_s = median_seconds(read, 3)
    local = bench.folder / "hours"
    local.mkdir()
    for state in storage.files(settings.hdfs.hourly_metrics, ".parquet"):
        (local / Path(state.path).name).write_bytes(storage.read(state.path))
    local_s = median_seconds(lambda: [pq.read_table(path) for path in sorted(local.iterdir())], 3)
    count = table.num_rows
    return [
        Row(f"backfill, whole command, {count:,} hourly rows", count / taken[0], "rows/s"),
        Row("backfill, whole command", taken[0], "s"),
        Row("backfill again, nothing missing", taken[1], "s", "the first", taken[1] / taken[0]),
        Row(f"read all hourly rows over WebHDFS ({count:,})", read_s, "s", "local files", read_s / local_s),
        Row("peer: pyarrow on local files", local_s, "s"),
    ]


def _micro_batches(bench: Bench, settings: Settings) -> list[Row]:
    """Feed `python -m batch raw` with one batch after another; durations are read from its log."""
    own = settings.model_copy(update={"batch": settings.batch.model_copy(update={"trigger_s": 0.2})})
    make_topics(own)
    topic = own.topic(TopicRole.TICKS_CLEAN).name
    log = bench.folder / "raw.log"
    found = []
    with running([sys.executable, "-m", "batch", "raw"], log, environment_of(own)) as program:
        at, sent = START_MS, 0

        def stored() -> list[_Batch]:
            program.check_running()
            return [_Batch(*map(int, found)) for found in _BATCH.findall(program.output())]

        def publish(size: int) -> tuple[float, list[_Batch]]:
            """Publish ticks; return the seconds until they are stored, and the resulting batches."""
            nonlocal sent
            sent += preload(own, topic, steady(size, markets=min(size, 100), start_ms=at, step_ms=500))
            began, seen = time.monotonic(), len(stored())
            eventually(lambda: sum(batch.ticks for batch in stored()) == sent, 90, f"{sent} ticks are stored")
            return time.monotonic() - began, stored()[seen:]

        for size, repeats in BATCHES.items():
            runs = []
            for _ in range(repeats + 1):  # the first is a warm-up
                runs.append(publish(size))
                at += MINUTE_MS
            ms = statistics.median(sum(batch.ms for batch in batches) for _, batches in runs[1:])
            seconds = statistics.median(seconds for seconds, _ in runs[1:])
            found.append(Row(f"raw: micro-batches of {size:,} ticks", float(ms), "ms"))
            found.append(Row(f"raw: {size:,} ticks published → stored", seconds, "s"))
        found.append(Row(f"raw: ticks a second of {size:,}", size / ms * 1e3, "ticks/s"))
        at += 2 * HOUR_MS
        closing = publish(min(BATCHES))[1]
        found.append(
            Row("raw: an hour of 100 markets that closes", float(sum(batch.hours_ms for batch in closing)), "ms")
        )
    return found


def rows(bench: Bench) -> list[Row]:
    """Session, aggregation, backfill, raw stream."""
    settings = alone(bench.stack.settings, bench.folder / "batch")
    found = _aggregation(bench, settings)
    found += _backfill(bench, settings)
    return found + _micro_batches(bench, alone(settings, bench.folder / "batch"))
