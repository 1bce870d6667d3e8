"""Stores historical klines: one-minute klines in minute_candles, and hourly rows made from minutes or one-hour klines.

Stored data is not requested again, and a row of a higher basis is never replaced by one of a lower basis. A stored
minute that differs from the kline read is reported, and replaced only on request; hourly rows are made from what is
stored then.
"""

import dataclasses
import io
import logging
import uuid
from collections.abc import Callable, Sequence
from functools import reduce

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as sql

from batch.hdfs.store import Store
from batch.klines.history import History
from batch.progress import write_progress
from batch.schemas import CANDLES, HOURLY, column_names
from batch.tables.due_hours import trailing_hours
from batch.tables.hour_writer import HourWriter
from batch.tables.layout import Table, hourly_metrics, minute_candles
from batch.tables.merge import differing_rows, merge_rows
from clients.webhdfs import WebHdfs
from config import Settings
from marketdata.candle_rules import STEP_MS
from marketdata.hourly import kline_rows
from marketdata.times import HOUR_MS, floor_to, to_rfc3339

_LISTED_FILES = 5
_COMPARED = tuple(name for name in column_names(CANDLES) if name not in {"symbol", "open_time", "source"})
_COMPARED_HOURS = ("open_price", "high_price", "low_price", "last_price", "avg_volume")  # of a row of any definition

_log = logging.getLogger(__name__)


class BackfillWriter:
    """Stores a history: minute candles first, then all hourly rows in one merge."""

    def __init__(
        self, spark: SparkSession, store: Store, hdfs: WebHdfs, settings: Settings, *, replace: bool = False
    ) -> None:
        self._replace = replace
        self._spark = spark
        self._store = store
        self._hdfs = hdfs
        self._candles = minute_candles(settings)
        self._hourly = hourly_metrics(settings)
        self._hours = HourWriter(spark, store, settings)
        self._wait_s = settings.hdfs.wait_s

    def write(self, history: History, hours: dict[str, set[int]], to_ms: int, stopped: Callable[[], bool]) -> int:
        """Merge a history into the tables.

        Args:
            history: klines.
            hours: by symbol, the hours (start times, ms) whose rows are made from one-hour klines.
            to_ms: end of the backfill, Unix time in ms.
            stopped: polled while waiting for a lease; True aborts the wait.

        Returns:
            The number of hourly rows merged.

        Raises:
            StorageError: a lease was not acquired, or was lost.
        """
        folder = f"{self._store.staging}/klines-{uuid.uuid4().hex}"
        try:
            return self._write(history, hours, to_ms, stopped, folder)
        finally:
            self._store.discard(folder)

    def _write(
        self, history: History, hours: dict[str, set[int]], to_ms: int, stopped: Callable[[], bool], folder: str
    ) -> int:
        changed: set[int] = set()
        parts: list[DataFrame] = []
        minutes = history.to_arrow("1m")
        if minutes.num_rows:
            rows = self._upload(minutes, f"{folder}/1m.parquet", CANDLES)
            starts = set[int]().union(*history.open_times("1m").values())
            slots = {self._candles.slot_of(at) for at in starts}
            table = dataclasses.replace(self._candles, prefer="_new DESC") if self._replace else self._candles
            with self._store.locks.held(table.name, self._wait_s, stopped) as lease:
                done = "replaced" if self._replace else "kept; --replace stores the klines read instead"
                self._report_differences(table, rows, slots, _COMPARED, "minutes", done)
                merge_rows(self._spark, self._store, table, rows, slots, lease)
            write_progress("backfill minute candles", minutes.num_rows, minutes.num_rows)
            changed = trailing_hours({floor_to(at, HOUR_MS) for at in starts}, to_ms)
        from_klines = kline_rows(history.to_arrow("1h", hours))
        if from_klines.num_rows:
            parts.append(self._upload(from_klines, f"{folder}/1h.parquet", HOURLY))
        if not parts and not changed:
            return 0
        counted = Observation("merged")
        slots = {self._hourly.slot_of(at) for at in changed.union(*hours.values())}
        with self._store.locks.held(self._hourly.name, self._wait_s, stopped) as lease:
            # Read under the lease, as in `HourWriter.write`.
            if parts:
                self._report_differences(self._hourly, parts[0], slots, _COMPARED_HOURS, "hours", "replaced")
            parts += self._hours.rows(changed)
            merged = reduce(DataFrame.union, parts).observe(counted, sql.count(sql.lit(1)).alias("rows"))
            merge_rows(self._spark, self._store, self._hourly, merged, slots, lease)
        rows_merged = int(counted.get["rows"])
        write_progress("backfill hourly rows", rows_merged, rows_merged)
        return rows_merged

    def _report_differences(
        self, table: Table, rows: DataFrame, slots: set[str], columns: Sequence[str], what: str, done: str
    ) -> None:
        """Log how many stored rows of the same key and basis differ in `columns`, with examples."""
        count, examples = differing_rows(self._spark, self._store, table, rows, slots, columns)
        if not count:
            return
        _log.warning("%d stored %s differ from the klines read: %s", count, what, done)
        for row in examples:
            values = ", ".join(
                f"{name} {row[f'stored_{name}']!r} stored, {row[f'new_{name}']!r} read"
                for name in columns
                if row[f"stored_{name}"] != row[f"new_{name}"]
            )
            _log.warning("%s %s: %s", row.symbol, row[table.time].strftime("%Y-%m-%dT%H:%MZ"), values)

    def _upload(self, rows: pa.Table, file: str, ddl: str) -> DataFrame:
        """Write rows as a staged Parquet file, which Spark reads many times faster than rows through Py4J."""
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="snappy")
        self._hdfs.write(file, buffer.getvalue(), overwrite=False)
        return self._spark.read.schema(ddl).parquet(file)


def summary(history: History, rows: int, to_ms: int) -> str:
    """Return one line for the log."""
    counts = {i: sum(len(k) for (_, j), k in history.klines.items() if i == j) for i in STEP_MS}
    refused = f"; refused: {', '.join(sorted(history.refused))}" if history.refused else ""
    if history.n_conflicting:
        refused += f"; {history.n_conflicting} klines given again with other values, the last ones kept"
    if history.n_refused:
        refused += f"; {history.n_refused} invalid rows left out"
    if history.failed:
        refused += f"; {len(history.failed)} files not read: {', '.join(history.failed[:_LISTED_FILES])}"
    return (
        f"backfill to {to_rfc3339(to_ms)}: {counts['1h']} hours and {counts['1m']} minutes of klines, "
        f"{rows} hourly rows merged{refused}"
    )
