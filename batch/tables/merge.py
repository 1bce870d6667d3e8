"""The three tables: how their files are cut, and how new rows are merged into them.

A merge reads the files of the slots that new rows belong to, keeps one row a key, and replaces each file whole: doing
it again with the same rows changes nothing. Every merge is done under the table's lease (`storage.Store.locks`).
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession

from batch.hdfs.lease import Lease
from batch.hdfs.store import SLOT, Store
from batch.schemas import CANDLES, HOURLY, RAW, column_names
from config import Settings
from marketdata.hourly import BASIS_RANK
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, floor_to, to_datetime

_ONE_TASK_SLOTS = 64  # up to here one task writes all: cheaper than a shuffle
_BASIS = " ".join(f"WHEN '{basis}' THEN {rank}" for basis, rank in BASIS_RANK.items())
_ASK_ONE_BY_ONE = 8  # files; for more the folder is listed once
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of Parquet files, each holding one slot of time.

    Attributes:
        ddl: its columns. key: what makes a row unique. order: how a file is sorted.
        time: the column that decides a row's slot.
        slot_sql: the slot of a row, a text that may stand in a path.
        prefer: which of two rows of one key stays, the first in this order; `_new` is 1 for a row being merged.
        slot_ms, name_of: a slot's length, and its text by its time.
        file_of: the file of a slot by its text.
    """

    name: str
    folder: str
    ddl: str
    key: tuple[str, ...]
    order: tuple[str, ...]
    time: str
    slot_sql: str
    prefer: str
    name_of: Callable[[int], str]
    file_of: Callable[[str], str]
    step_ms: int

    @property
    def columns(self) -> tuple[str, ...]:
        return column_names(self.ddl)

    def slots(self, from_ms: int, to_ms: int) -> list[str]:
        """The slots that hold times of [from_ms, to_ms)."""
        starts = range(floor_to(from_ms, self.step_ms), to_ms, self.step_ms)
        return list(dict.fromkeys(self.name_of(at) for at in starts))


def _raw_file(folder: str, slot: str, minutes: int) -> str:
    date, hour, minute = slot.rsplit("-", 2)
    name = "ticks.parquet" if minutes == 60 else f"ticks-{minute}.parquet"  # noqa: PLR2004  minutes an hour
    return f"{folder}/date={date}/hour={int(hour)}/{name}"


def raw_data(settings: Settings) -> Table:
    """Enriched ticks, one file an hour (or less: `batch.raw_slot_minutes`); the first tick of an id stays."""
    folder, minutes = settings.hdfs.raw_data, settings.batch.raw_slot_minutes
    return Table(
        name="raw_data",
        folder=folder,
        ddl=RAW,
        key=("tick_id",),
        order=("symbol", "timestamp", "tick_id"),
        time="timestamp",
        slot_sql=(
            "concat(date_format(timestamp, 'yyyy-MM-dd-HH-'), "
            f"lpad(cast(minute(timestamp) div {minutes} * {minutes} AS STRING), 2, '0'))"
        ),
        prefer="_new",
        name_of=lambda ms: (
            to_datetime(ms).strftime("%Y-%m-%d-%H-") + f"{to_datetime(ms).minute // minutes * minutes:02d}"
        ),
        file_of=lambda slot: _raw_file(folder, slot, minutes),
        step_ms=MINUTE_MS * minutes if 60 % minutes == 0 else MINUTE_MS,
    )


def minute_candles(settings: Settings) -> Table:
    """Closed one-minute candles, one file a day; what is stored stays."""
    folder = settings.hdfs.minute_candles
    return Table(
        name="minute_candles",
        folder=folder,
        ddl=CANDLES,
        key=("symbol", "open_time"),
        order=("symbol", "open_time"),
        time="open_time",
        slot_sql="date_format(open_time, 'yyyy-MM-dd')",
        prefer="_new",
        name_of=lambda ms: to_datetime(ms).strftime("%Y-%m-%d"),
        file_of=lambda slot: f"{folder}/candles-{slot}.parquet",
        step_ms=DAY_MS,
    )


def hourly_metrics(settings: Settings) -> Table:
    """Hourly rows, one file a month; a higher basis stays, of equals the newer."""
    folder = settings.hdfs.hourly_metrics
    return Table(
        name="hourly_metrics",
        folder=folder,
        ddl=HOURLY,
        key=("symbol", "hour_start"),
        order=("symbol", "hour_start"),
        time="hour_start",
        slot_sql="date_format(hour_start, 'yyyy-MM')",
        prefer=f"CASE basis {_BASIS} END DESC, _new DESC",
        name_of=lambda ms: to_datetime(ms).strftime("%Y-%m"),
        file_of=lambda slot: f"{folder}/hourly-{slot}.parquet",
        step_ms=HOUR_MS,
    )


def read(spark: SparkSession, store: Store, table: Table, slots: Iterable[str]) -> DataFrame:
    """The rows of the slots' files, as far as the files are there."""
    return _read(spark, table, _existing(store, table, list(slots)))


def _existing(store: Store, table: Table, slots: Sequence[str]) -> list[str]:
    wanted = [table.file_of(slot) for slot in slots]
    if len(wanted) <= _ASK_ONE_BY_ONE:
        return store.existing(wanted)
    there = set(store.files(table.folder))
    return [name for name in wanted if name in there]


def _read(spark: SparkSession, table: Table, files: Sequence[str]) -> DataFrame:
    if not files:
        return spark.createDataFrame([], table.ddl)
    return spark.read.schema(table.ddl).parquet(*files)


def read_all(spark: SparkSession, store: Store, table: Table) -> DataFrame:
    """Every row of the table."""
    return _read(spark, table, [name for name in store.files(table.folder) if name.endswith(".parquet")])


def merge(spark: SparkSession, store: Store, table: Table, new: DataFrame, slots: Iterable[str], lease: Lease) -> int:
    """Merge rows into the table: each slot's file becomes old ∪ new, one row a key, sorted.

    Args:
        spark: the session.
        store: where the table lies.
        table: which.
        new: rows of the table's columns, all within `slots`. An integer column `_seq` decides among rows of one key;
            without it any of them stays.
        slots: the slots that are replaced.
        lease: the table's, held by the caller for the whole call.

    Returns:
        How many files were replaced.
    """
    slots = sorted(set(slots))
    if not slots:
        return 0
    began = time.monotonic()
    seq = "_seq" if "_seq" in new.columns else "0L AS _seq"
    rows = new.selectExpr(*table.columns, "1 AS _new", seq)
    files = _existing(store, table, slots)
    if files:
        old = _read(spark, table, files)
        rows = old.selectExpr(*table.columns, "0 AS _new", "0L AS _seq").union(rows)
    single = len(slots) == 1
    rows = rows.selectExpr("*", f"{table.slot_sql} AS {SLOT}")
    rows = rows.coalesce(1) if len(slots) <= _ONE_TASK_SLOTS else rows.repartition(SLOT)
    pick = f"row_number() OVER (PARTITION BY {SLOT}, {', '.join(table.key)} ORDER BY {table.prefer}, _seq) AS _pick"
    rows = rows.selectExpr(*table.columns, SLOT, pick).where("_pick = 1")
    rows = rows.sortWithinPartitions(SLOT, *table.order).selectExpr(*table.columns, *([] if single else [SLOT]))
    store.discard_stale(table.name)
    staged = store.stage(table.name, rows, slotted=not single)
    lease.check()
    for slot, file in staged.files.items():
        store.replace(file, table.file_of(slot or slots[0]))
    store.discard(staged.folder)
    _log.debug("%s: %d files replaced in %.0f ms", table.name, len(staged.files), (time.monotonic() - began) * 1e3)
    return len(staged.files)
