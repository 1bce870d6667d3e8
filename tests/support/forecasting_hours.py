"""Hourly rows for tests of forecasting, from 1 h klines or from a seeded random walk."""

import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clients.webhdfs import WebHdfs
from config.sections import HdfsSettings
from forecasting.data.hourly_grid import month_file
from marketdata.times import HOUR_MS, from_rfc3339

SCHEMA = pa.schema(
    [
        ("symbol", pa.string()),
        ("hour_start", pa.timestamp("us", "UTC")),
        *[
            (name, pa.float64())
            for name in (
                "avg_price",
                "avg_spread",
                "avg_spread_percentage",
                "total_liquidity",
                "avg_volatility",
                "high_price",
                "low_price",
                "avg_volume",
                "avg_volume_24h",
                "last_market_cap",
                "open_price",
                "last_price",
                "realised_variance",
            )
        ],
        ("n_ticks", pa.int64()),
        ("n_candles", pa.int64()),
        ("coverage", pa.float64()),
        ("origin", pa.string()),
        ("basis", pa.string()),
    ]
)
START_MS = from_rfc3339("2023-01-01T00:00:00Z")


def table(
    symbol: str,
    start_ms: np.ndarray,
    prices: dict[str, np.ndarray],
    volume: np.ndarray,
    *,
    live: bool = False,
) -> pa.Table:
    """Rows of one market; `prices` contains open, high, low and close."""
    n = len(start_ms)
    high = [prices["high"][max(0, i - 23) : i + 1].max() for i in range(n)]
    low = [prices["low"][max(0, i - 23) : i + 1].min() for i in range(n)]
    volatility = [
        (h - lo) / c * 100 if i >= 23 else None
        for i, (h, lo, c) in enumerate(zip(high, low, prices["close"], strict=True))
    ]
    average = (prices["open"] + prices["high"] + prices["low"] + prices["close"]) / 4
    columns: dict[str, Any] = {
        "symbol": [symbol] * n,
        "hour_start": pa.array(start_ms * 1000, pa.timestamp("us", "UTC")),
        "avg_price": average,
        "avg_spread": average * 1e-5 if live else [None] * n,
        "avg_spread_percentage": [1e-3] * n if live else [None] * n,
        "total_liquidity": [5.0] * n if live else [None] * n,
        "avg_volatility": volatility,
        "high_price": prices["high"],
        "low_price": prices["low"],
        "avg_volume": volume / 60,
        "avg_volume_24h": [None] * n,
        "last_market_cap": [None] * n,
        "open_price": prices["open"],
        "last_price": prices["close"],
        "realised_variance": [None] * n,
        "n_ticks": [60 if live else 0] * n,
        "n_candles": [0] * n,
        "coverage": [1.0] * n,
        "origin": ["live" if live else "backfill"] * n,
        "basis": ["ticks" if live else "candles_1h"] * n,
    }
    return pa.table(columns, schema=SCHEMA)


def from_klines(path: Path, symbol: str, *, since_ms: int = 0, until_ms: int = 2**62) -> pa.Table:
    """Backfilled rows of a file of 1 h klines."""
    klines = pq.read_table(path).to_pydict()
    stamps = np.asarray(klines["timestamp"], dtype=np.int64)
    keep = (stamps >= since_ms) & (stamps < until_ms)
    prices = {name: np.asarray(klines[name], dtype=float)[keep] for name in ("open", "high", "low", "close")}
    return table(symbol, stamps[keep], prices, np.asarray(klines["volume"], dtype=float)[keep])


def walk(n: int, *, seed: int = 0, symbol: str = "BTC-USD", start_ms: int = START_MS, live: bool = False) -> pa.Table:
    """A random walk of n hours with persistent volatility; the same for the same seed."""
    rng = np.random.default_rng(seed)
    log_variance = np.zeros(n)
    for i in range(1, n):
        log_variance[i] = 0.97 * log_variance[i - 1] + 0.25 * rng.standard_normal()
    scale = 0.004 * np.exp(log_variance / 2)
    minutes = rng.standard_normal((n, 60)) * scale[:, None] / np.sqrt(60)
    path = np.log(30_000.0) + np.cumsum(minutes.ravel()).reshape(n, 60)
    opens = np.concatenate([[np.log(30_000.0)], path[:-1, -1]])
    prices = {
        "open": np.exp(opens),
        "high": np.exp(np.maximum(path.max(axis=1), opens)),
        "low": np.exp(np.minimum(path.min(axis=1), opens)),
        "close": np.exp(path[:, -1]),
    }
    volume = 100 * np.exp(log_variance / 2 + 0.2 * rng.standard_normal(n))
    return table(symbol, start_ms + HOUR_MS * np.arange(n, dtype=np.int64), prices, volume, live=live)


def store(settings: HdfsSettings, *tables: pa.Table) -> None:
    """Write rows to HDFS as month files of all markets, sorted, as batch does."""
    storage = WebHdfs(settings)
    for name, data in month_files(*tables).items():
        storage.write(f"{settings.hourly_metrics}/{name}", data)


def month_files(*tables: pa.Table) -> dict[str, bytes]:
    """Rows as Parquet month files of all markets, sorted, by file name."""
    rows = pa.concat_tables(tables).sort_by([("symbol", "ascending"), ("hour_start", "ascending")])
    months: dict[str, list[int]] = defaultdict(list)
    for i, stamp in enumerate(rows["hour_start"].cast(pa.int64()).to_pylist()):
        months[month_file(stamp // 1000)].append(i)
    files = {}
    for name, places in months.items():
        sink = io.BytesIO()
        pq.write_table(rows.take(places), sink)
        files[name] = sink.getvalue()
    return files
