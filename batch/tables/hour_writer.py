"""Which hourly rows are due, and writing them: the part that `raw`, `hourly` and `backfill` share.

Rows are always computed whole from what raw_data and minute_candles hold, so whoever writes them, they are the same.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sql

from batch.hdfs.lease import Lease
from batch.hdfs.store import Store
from batch.sql.hourly import hourly_rows
from batch.tables import merge as tables
from config import Settings
from marketdata.times import DAY_MS, HOUR_MS, SECOND_MS, from_rfc3339, to_datetime, to_rfc3339

_LONGEST_RUN_MS = 31 * DAY_MS  # what one Spark job computes at once
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class DueHours:
    """Hours that were touched and are not written yet; an hour is due when it is closed.

    Attributes:
        grace_ms: event time after an hour's end before its row is written first.
        high_water_ms: the newest event time seen, None before any.
    """

    grace_ms: int
    high_water_ms: int | None = None
    pending: set[int] = field(default_factory=set)

    def touch(self, hours: Iterable[int], high_water_ms: int) -> None:
        """Note hours (their starts, ms) that got data, and how far event time is."""
        self.pending.update(hours)
        self.high_water_ms = high_water_ms if self.high_water_ms is None else max(self.high_water_ms, high_water_ms)

    def touch_trailing(self, hours: Iterable[int]) -> None:
        """Note the closed hours in whose trailing day candles of `hours` lie. Call it after `touch`."""
        self.pending.update(trailing_hours(hours, self._closed_ms))

    @property
    def _closed_ms(self) -> int:
        """Hours that end by then are closed."""
        return 0 if self.high_water_ms is None else self.high_water_ms - self.grace_ms

    def due(self) -> list[int]:
        """The pending hours that are closed, oldest first."""
        return sorted(hour for hour in self.pending if hour + HOUR_MS <= self._closed_ms)

    def written(self, hours: Iterable[int]) -> None:
        self.pending.difference_update(hours)


def trailing_hours(hours: Iterable[int], closed_ms: int) -> set[int]:
    """Hours (starts, ms) whose trailing day holds minutes of `hours`, those included, as far as they end by then."""
    reached = {hour + ahead * HOUR_MS for hour in set(hours) for ahead in range(25)}
    return {hour for hour in reached if hour + HOUR_MS <= closed_ms}


def runs(hours: Iterable[int]) -> list[tuple[int, int]]:
    """Hours (starts, ms) as [from, to) ranges without gaps, none longer than 31 days."""
    ranges: list[tuple[int, int]] = []
    for hour in sorted(set(hours)):
        if ranges and ranges[-1][1] == hour and hour - ranges[-1][0] < _LONGEST_RUN_MS:
            ranges[-1] = (ranges[-1][0], hour + HOUR_MS)
        else:
            ranges.append((hour, hour + HOUR_MS))
    return ranges


class HourWriter:
    """Computes hourly rows from the stored ticks and candles and merges them into hourly_metrics."""

    def __init__(self, spark: SparkSession, store: Store, settings: Settings) -> None:
        self._spark = spark
        self._store = store
        self._raw = tables.raw_data(settings)
        self._candles = tables.minute_candles(settings)
        self._hourly = tables.hourly_metrics(settings)

    def _compute(self, from_ms: int, to_ms: int, *, trailing: bool) -> DataFrame:
        day_before = from_ms - (DAY_MS if trailing else 0)
        ticks = tables.read(self._spark, self._store, self._raw, self._raw.slots(from_ms, to_ms))
        candles = tables.read(self._spark, self._store, self._candles, self._candles.slots(day_before, to_ms))
        # Few rows: in one task nothing is shuffled.
        ticks, candles = ticks.coalesce(1), candles.coalesce(1)
        return hourly_rows(self._spark, ticks, candles, from_ms, to_ms, trailing=trailing)

    def rows(self, hours: Iterable[int]) -> list[DataFrame]:
        """The rows of some hours (starts, ms), computed when they are used, one frame a run of hours."""
        return [self._compute(from_ms, to_ms, trailing=True) for from_ms, to_ms in runs(hours)]

    def write(
        self, hours: Iterable[int], *, wait_s: float, live: bool = False, stopped: Callable[[], bool] = lambda: False
    ) -> int:
        """Write the rows of some hours (starts, ms), each whole.

        Args:
            hours: which.
            wait_s: how long to wait for another writer of the table.
            live: most of the hours have ticks, so the trailing day is computed only where that turns out wrong.
            stopped: ends the wait.

        Returns:
            How many rows were written.
        """
        began = time.monotonic()
        written = 0
        for from_ms, to_ms in runs(hours):
            # Computed under the lease: rows of an older look must not replace those that another writer made since.
            with self._store.locks.held(self._hourly.name, wait_s, stopped) as lease:
                count = self._write_run(from_ms, to_ms, lease, live=live)
            written += count
            _log.info(
                "hours %s to %s: %d rows in %.0f ms",
                to_rfc3339(from_ms)[:16],
                to_rfc3339(to_ms)[:16],
                count,
                (time.monotonic() - began) * 1e3,
            )
        return written

    def _write_run(self, from_ms: int, to_ms: int, lease: Lease, *, live: bool) -> int:
        rows = self._compute(from_ms, to_ms, trailing=not live).persist()
        count = rows.count()
        if live and rows.where("n_ticks = 0").limit(1).count():
            rows.unpersist()
            rows = self._compute(from_ms, to_ms, trailing=True).persist()
        if count:
            slots = self._hourly.slots(from_ms, to_ms)
            tables.merge(self._spark, self._store, self._hourly, rows, slots, lease)
        rows.unpersist()
        return count

    def stored_hours(self) -> tuple[set[int], int]:
        """The hours (starts, ms) of which ticks or candles are stored, and the newest event time stored (0: none)."""
        slots = self._raw_hours()
        newest = 0
        if slots:
            last = max(slots)
            ticks = tables.read(self._spark, self._store, self._raw, self._raw.slots(last, last + HOUR_MS))
            found = ticks.selectExpr("unix_millis(max(timestamp)) AS at").collect()
            newest = found[0].at or 0
        candles = tables.read_all(self._spark, self._store, self._candles)
        hours = candles.groupBy(sql.expr("unix_millis(date_trunc('HOUR', open_time)) AS hour")).agg(
            sql.expr("unix_millis(max(open_time)) + 60000 AS at")
        )
        for hour, at in hours.collect():
            slots.add(hour)
            newest = max(newest, at)
        return slots, newest

    def _raw_hours(self) -> set[int]:
        hours = set()
        for name in self._store.files(self._raw.folder):
            parts = dict(part.split("=", 1) for part in name.split("/") if "=" in part)
            if "date" in parts and "hour" in parts:
                hours.add(_hour_ms(parts["date"], int(parts["hour"])))
        return hours

    def unwritten(self) -> set[int]:
        """Stored hours of ticks or recent candles that have no row of their basis: what a stopped program left over."""
        rows = tables.read_all(self._spark, self._store, self._hourly)
        done = rows.where("basis <> 'candles_1h'").selectExpr("unix_millis(hour_start) AS at", "basis").distinct()
        with_ticks, known = set(), set()
        for at, basis in done.collect():
            known.add(at)
            if basis == "ticks":
                with_ticks.add(at)
        left = self._raw_hours() - with_ticks
        newest = max(known, default=0)
        slots = [
            name.rsplit("candles-", 1)[1].removesuffix(".parquet") for name in self._store.files(self._candles.folder)
        ]
        recent = [slot for slot in slots if slot >= to_datetime(newest).strftime("%Y-%m-%d")]
        if recent:
            candles = tables.read(self._spark, self._store, self._candles, recent)
            hours = candles.selectExpr("unix_millis(date_trunc('HOUR', open_time)) AS at").distinct().collect()
            left |= {at for (at,) in hours if at > newest}
        return left


def _hour_ms(date: str, hour: int) -> int:
    return from_rfc3339(f"{date}T{hour:02d}:00:00Z")


def grace_ms(settings: Settings) -> int:
    """`batch.hour_grace_s` in ms."""
    return int(settings.batch.hour_grace_s * SECOND_MS)
