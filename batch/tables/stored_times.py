"""The start times of the rows that a table contains, and the gaps in them. Without Spark."""

from collections.abc import Iterable
from itertools import pairwise

import pyarrow as pa

from clients.webhdfs import WebHdfs
from marketdata.times import to_rfc3339


def stored_times(hdfs: WebHdfs, folder: str, column: str) -> dict[str, set[int]]:
    """Return, by symbol, the values of a time column (Unix ms) in all files of a table's folder."""
    found: dict[str, set[int]] = {}
    for file in hdfs.files(folder, ".parquet", recursive=True):
        rows = hdfs.read_table(file.path, ["symbol", column])
        times = rows[column].cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64()).to_pylist()
        for symbol, time_ms in zip(rows["symbol"].to_pylist(), times, strict=True):
            found.setdefault(symbol, set()).add(time_ms)
    return found


def gap_ranges(times: Iterable[int], step_ms: int) -> list[str]:
    """Return the gaps in a grid of times as `from/to` (exclusive)."""
    ordered = sorted(times)
    return [f"{to_rfc3339(a + step_ms)[:16]}/{to_rfc3339(b)[:16]}" for a, b in pairwise(ordered) if b - a > step_ms]
