"""Reads the tables' rows and merges new rows into their files.

A merge reads the files of the affected slots, keeps one row per key, and replaces each file atomically. Merging the
same rows again changes nothing. Callers hold the table's lease (`Store.locks`) during a merge.
"""

import logging
import time
from collections.abc import Iterable, Sequence

from pyspark.sql import DataFrame, Row, SparkSession

from batch.hdfs.lease import Lease
from batch.hdfs.store import SLOT, Store
from batch.tables.layout import Table

LISTED_ROWS = 5
"""Examples in a comparison."""

_MAX_SINGLE_TASK_SLOTS = 64  # up to this many slots, one task is faster than a shuffle
_MAX_EXISTENCE_CHECKS = 8  # files; for more, one listing of the folder is faster
_log = logging.getLogger(__name__)


def read_slots(spark: SparkSession, store: Store, table: Table, slots: Iterable[str]) -> DataFrame:
    """Return the rows of the given slots; slots without a file are skipped."""
    return _read(spark, table, _existing_files(store, table, list(slots)))


def read_table(spark: SparkSession, store: Store, table: Table) -> DataFrame:
    """Return all rows of the table."""
    return _read(spark, table, [name for name in store.files(table.folder) if name.endswith(".parquet")])


def _existing_files(store: Store, table: Table, slots: Sequence[str]) -> list[str]:
    wanted = [table.file_of(slot) for slot in slots]
    if len(wanted) <= _MAX_EXISTENCE_CHECKS:
        return store.existing(wanted)
    existing = set(store.files(table.folder))
    return [name for name in wanted if name in existing]


def _read(spark: SparkSession, table: Table, files: Sequence[str]) -> DataFrame:
    if not files:
        return spark.createDataFrame([], table.ddl)
    return spark.read.schema(table.ddl).parquet(*files)


def differing_rows(
    spark: SparkSession, store: Store, table: Table, new: DataFrame, slots: Iterable[str], columns: Sequence[str]
) -> tuple[int, list[Row]]:
    """Compare rows with the stored ones of the same key, and of the same basis in a table that has one.

    Args:
        spark: the session.
        store: the HDFS root that holds the table.
        table: the table's layout.
        new: rows with the table's columns, all within `slots`.
        slots: names of the slots to read.
        columns: columns to compare; null equals null.

    Returns:
        The number of stored rows that differ, and up to `LISTED_ROWS` of them, in order of the key: the key, `stored_X`
        and `new_X` for each column X.
    """
    files = _existing_files(store, table, sorted(set(slots)))
    if not files:
        return 0, []
    key = [*table.key, *(["basis"] if "basis" in table.columns else [])]
    old = _read(spark, table, files).selectExpr(*key, *(f"{name} AS stored_{name}" for name in columns))
    both = new.selectExpr(*key, *(f"{name} AS new_{name}" for name in columns)).join(old, key)
    differing = both.where(" OR ".join(f"NOT stored_{name} <=> new_{name}" for name in columns)).persist()
    try:
        count = differing.count()
        return count, differing.orderBy(*key).limit(LISTED_ROWS).collect() if count else []
    finally:
        differing.unpersist()


def merge_rows(
    spark: SparkSession, store: Store, table: Table, new: DataFrame, slots: Iterable[str], lease: Lease
) -> int:
    """Merge rows into the table: each slot's file becomes old ∪ new, one row per key, sorted.

    Args:
        spark: the session.
        store: the HDFS root that holds the table.
        table: the table's layout.
        new: rows with the table's columns, all within `slots`. An optional integer column `_seq` orders rows with
            equal keys, lowest first; without it the choice among them is arbitrary.
        slots: names of the slots whose files are replaced.
        lease: the table's lease, held by the caller during the whole call.

    Returns:
        The number of files replaced.

    Raises:
        StorageError: the lease was lost, or two files were staged for one slot.
    """
    slots = sorted(set(slots))
    if not slots:
        return 0
    began = time.monotonic()
    seq = "_seq" if "_seq" in new.columns else "0L AS _seq"
    rows = new.selectExpr(*table.columns, "1 AS _new", seq)
    files = _existing_files(store, table, slots)
    if files:
        old = _read(spark, table, files)
        rows = old.selectExpr(*table.columns, "0 AS _new", "0L AS _seq").union(rows)
    single = len(slots) == 1
    rows = rows.selectExpr("*", f"{table.slot_sql} AS {SLOT}")
    rows = rows.coalesce(1) if len(slots) <= _MAX_SINGLE_TASK_SLOTS else rows.repartition(SLOT)
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
