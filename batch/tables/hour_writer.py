"""Computes hourly rows from raw_data and minute_candles and writes them; used by `raw`, `hourly` and `backfill`.

A row is always recomputed in full from the stored data, so every job writes the same row.
"""

import logging
import time
from collections.abc import Callable, Iterable

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sql

from batch.hdfs.lease import Lease
from batch.hdfs.store import Store
from batch.tables.due_hours import contiguous_ranges
from batch.tables.hours import hourly_rows
from batch.tables.layout import hour_of_raw_file, hourly_metrics, minute_candles, raw_data
from batch.tables.merge import merge_rows, read_slots, read_table
from config import Settings
from marketdata.times import DAY_MS, HOUR_MS, to_datetime, to_rfc3339
from marketdata.vocabulary import Basis

_log = logging.getLogger(__name__)


class HourWriter:
    """Computes hourly rows from the stored ticks and candles and merges them into hourly_metrics."""

    def __init__(self, spark: SparkSession, store: Store, settings: Settings) -> None:
        self._spark = spark
        self._store = store
        self._raw = raw_data(settings)
        self._candles = minute_candles(settings)
        self._hourly = hourly_metrics(settings)

    def _compute(self, from_ms: int, to_ms: int, *, trailing: bool) -> DataFrame:
        candles_from_ms = from_ms - (DAY_MS if trailing else 0)
        ticks = read_slots(self._spark, self._store, self._raw, self._raw.slots(from_ms, to_ms))
        candles = read_slots(self._spark, self._store, self._candles, self._candles.slots(candles_from_ms, to_ms))
        # The inputs are small: one task avoids a shuffle.
        return hourly_rows(ticks.coalesce(1), candles.coalesce(1), from_ms, to_ms)

    def rows(self, hours: Iterable[int]) -> list[DataFrame]:
        """Return the rows of some hours (start times, ms), one lazily computed frame per contiguous range."""
        return [self._compute(from_ms, to_ms, trailing=True) for from_ms, to_ms in contiguous_ranges(hours)]

    def write(
        self, hours: Iterable[int], *, wait_s: float, live: bool = False, stopped: Callable[[], bool] = lambda: False
    ) -> int:
        """Recompute and merge the rows of some hours.

        Args:
            hours: start times, ms.
            wait_s: how long to wait for the table's lease, in seconds.
            live: expect ticks in every minute: the trailing day is read only if a minute's prices are its candle's.
            stopped: polled while waiting; True aborts the wait.

        Returns:
            The number of rows written.

        Raises:
            StorageError: the lease was not acquired, or was lost.
        """
        began = time.monotonic()
        written = 0
        for from_ms, to_ms in contiguous_ranges(hours):
            # Read under the lease, so that rows computed from older data never replace another writer's newer rows.
            with self._store.locks.held(self._hourly.name, wait_s, stopped) as lease:
                count = self._write_range(from_ms, to_ms, lease, live=live)
            written += count
            _log.info(
                "hours %s to %s: %d rows in %.0f ms",
                to_rfc3339(from_ms)[:16],
                to_rfc3339(to_ms)[:16],
                count,
                (time.monotonic() - began) * 1e3,
            )
        return written

    def _write_range(self, from_ms: int, to_ms: int, lease: Lease, *, live: bool) -> int:
        rows = self._compute(from_ms, to_ms, trailing=not live).persist()
        count = rows.count()
        if live and rows.where("n_candles > 0").limit(1).count():
            rows.unpersist()
            rows = self._compute(from_ms, to_ms, trailing=True).persist()
        if count:
            slots = self._hourly.slots(from_ms, to_ms)
            merge_rows(self._spark, self._store, self._hourly, rows, slots, lease)
        rows.unpersist()
        return count

    def stored_hours(self) -> tuple[set[int], int]:
        """Return the hours (start times, ms) with stored ticks or candles, and the latest stored event time (or 0)."""
        stored = self._tick_hours()
        latest = 0
        if stored:
            last = max(stored)
            ticks = read_slots(self._spark, self._store, self._raw, self._raw.slots(last, last + HOUR_MS))
            found = ticks.selectExpr("unix_millis(max(timestamp)) AS at").collect()
            latest = found[0].at or 0
        candles = read_table(self._spark, self._store, self._candles)
        hours = candles.groupBy(sql.expr("unix_millis(date_trunc('HOUR', open_time)) AS hour")).agg(
            sql.expr("unix_millis(max(open_time)) + 60000 AS at")
        )
        for hour, at in hours.collect():
            stored.add(hour)
            latest = max(latest, at)
        return stored, latest

    def _tick_hours(self) -> set[int]:
        """Return the hours (start times, ms) for which raw_data has a file."""
        hours = map(hour_of_raw_file, self._store.files(self._raw.folder))
        return {hour for hour in hours if hour is not None}

    def unwritten_hours(self) -> set[int]:
        """Return stored hours without an up-to-date row, as a stopped program leaves them.

        These are hours of ticks without a row of basis `ticks`, and hours of candles after the last row whose basis
        is not `candles_1h`.
        """
        rows = read_table(self._spark, self._store, self._hourly)
        done = (
            rows.where(f"basis <> '{Basis.CANDLES_1H}'").selectExpr("unix_millis(hour_start) AS at", "basis").distinct()
        )
        with_ticks, written = set(), set()
        for at, basis in done.collect():
            written.add(at)
            if basis == Basis.TICKS:
                with_ticks.add(at)
        unwritten = self._tick_hours() - with_ticks
        last = max(written, default=0)
        slots = [
            name.rsplit("candles-", 1)[1].removesuffix(".parquet") for name in self._store.files(self._candles.folder)
        ]
        recent = [slot for slot in slots if slot >= to_datetime(last).strftime("%Y-%m-%d")]
        if recent:
            candles = read_slots(self._spark, self._store, self._candles, recent)
            hours = candles.selectExpr("unix_millis(date_trunc('HOUR', open_time)) AS at").distinct().collect()
            unwritten |= {at for (at,) in hours if at > last}
        return unwritten
