"""Writer lease, atomic replacement, merging and hourly rows on a real HDFS."""

import io
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hdfs.util import HdfsError
from pyarrow import ArrowException
from pyspark.sql import DataFrame, SparkSession
from requests.exceptions import RequestException

from batch.hdfs.store import open_store
from batch.jobs.verify import Verifier
from batch.schemas import HOURLY, column_names
from batch.sql.parse import enriched_ticks, parse_records
from batch.tables import hour_writer
from batch.tables.hour_writer import HourWriter
from batch.tables.layout import hourly_metrics, minute_candles, raw_data
from batch.tables.merge import merge_rows, read_table
from clients.webhdfs import WebHdfs, connect
from config import Settings
from marketdata.enrichment import enrich
from marketdata.errors import StorageError
from marketdata.hourly import DEFINITION, hour_rows
from marketdata.parquet import read_parquet
from marketdata.records import Tick
from marketdata.times import HOUR_MS, MINUTE_MS, from_rfc3339, to_rfc3339
from tests.support import builders
from tests.support.hour_tables import candle_table, tick_table
from tests.support.spark import TOPICS, kafka_rows, random_tick, session
from tests.support.stack import ROOT, StackUnderTest, environment_of, eventually, running

HOUR = from_rfc3339("2024-08-05T12:00:00Z")
HOLD = """
import sys, time
from batch.spark.session import spark_session
from batch.hdfs.store import open_store
from config import load_settings
settings = load_settings()
with spark_session(settings, "hold") as spark:
    store = open_store(spark, settings)
    lease = store.locks.acquire("table", 60)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def spark(stack: StackUnderTest) -> Iterator[SparkSession]:
    with session(stack.settings) as spark:
        yield spark


def is_priced(tick: Tick) -> bool:
    return tick.price is not None or enrich(tick).mid_price is not None


def hour_sql(value: int) -> str:
    """Return SQL for one month of hourly rows of six markets with all numbers equal to `value`."""
    numbers = dict.fromkeys(column_names(HOURLY)[2:], f"{value}D")
    numbers |= {
        "n_ticks": f"{value}L",
        "n_candles": "0L",
        "n_reference_minutes": "0L",
        "origin": "'live'",
        "basis": "'ticks'",
        "definition": "2",
    }
    columns = ", ".join(f"{sql} AS {name}" for name, sql in numbers.items())
    return (
        "SELECT concat('COIN', cast(id % 6 AS STRING)) AS symbol, "
        f"TIMESTAMP '2024-08-01T00:00:00Z' + make_dt_interval(0, cast(id div 6 AS INT)) AS hour_start, {columns} "
        "FROM range(4320)"
    )


def test_readers_see_whole_files_while_a_writer_replaces_them(spark: SparkSession, settings: Settings) -> None:
    store, table = open_store(spark, settings), hourly_metrics(settings)
    file = table.file_of("2024-08")
    done = threading.Event()
    wrong: list[str] = []
    seen: set[int] = set()
    reads = 0

    def look() -> None:
        nonlocal reads
        client = connect(settings.hdfs)
        while not done.is_set():
            names = [name for name in client.list(settings.hdfs.hourly_metrics) if not name.startswith("_")]
            try:
                for name in names:
                    with client.read(f"{settings.hdfs.hourly_metrics}/{name}") as stream:
                        rows = read_parquet(stream.read(), ["n_ticks"])
                    values = set(rows["n_ticks"].to_pylist())
                    if len(values) != 1 or rows.num_rows != 4320:
                        wrong.append(f"{rows.num_rows} rows of {values}")
                    seen.update(values)
            except (HdfsError, RequestException, ArrowException, OSError) as error:
                wrong.append(repr(error))
            reads += len(names)

    with store.locks.held(table.name, 10) as lease:
        merge_rows(spark, store, table, spark.sql(hour_sql(1)), ["2024-08"], lease)
        reader = threading.Thread(target=look)
        reader.start()
        try:
            for value in range(2, 22):
                merge_rows(spark, store, table, spark.sql(hour_sql(value)), ["2024-08"], lease)
        finally:
            done.set()
            reader.join()
    assert wrong == []
    assert reads >= 20
    assert len(seen) > 5
    assert store.files(settings.hdfs.hourly_metrics) == [file]


def test_a_lower_basis_never_replaces_a_higher(spark: SparkSession, settings: Settings) -> None:
    store, table = open_store(spark, settings), hourly_metrics(settings)
    lower = hour_sql(9).replace("'ticks'", "'candles_1h'")
    with store.locks.held(table.name, 10) as lease:
        merge_rows(spark, store, table, spark.sql(lower), ["2024-08"], lease)
        merge_rows(spark, store, table, spark.sql(hour_sql(3)), ["2024-08"], lease)
        merge_rows(spark, store, table, spark.sql(lower), ["2024-08"], lease)
    rows = read_table(spark, store, table).selectExpr("min(n_ticks)", "max(n_ticks)", "count(*)").collect()
    assert [tuple(row) for row in rows] == [(3, 3, 4320)]


def test_only_one_writer_holds_the_lease_until_release(spark: SparkSession, settings: Settings) -> None:
    locks = open_store(spark, settings).locks
    with locks.held("table", 5):
        owner = locks.owner_of("table")
        assert owner is not None
        assert not owner.is_gone
        with pytest.raises(StorageError, match="lease of table: held by process"):
            locks.acquire("table", 0.3)
    with locks.held("table", 0.3) as lease:
        lease.check()
    assert locks.owner_of("table") is None


def test_a_lost_lease_stops_its_owner(spark: SparkSession, settings: Settings) -> None:
    store = open_store(spark, settings)
    lost = store.locks.acquire("table", 5)
    store.fs.delete(store.path(f"{settings.hdfs.root}/_locks/table.lock"))
    with store.locks.held("table", 5) as lease:
        with pytest.raises(StorageError, match="lost to another writer"):
            lost.check()
        lost.release()  # must not release the new owner's lock
        lease.check()


def test_a_taken_over_lease_is_detected(spark: SparkSession, settings: Settings) -> None:
    store = open_store(spark, settings)
    lost = store.locks.acquire("table", 5)
    # HDFS does this for a successor once an owner has not renewed for a minute; the file keeps its identity.
    store.fs.recoverLease(store.path(f"{settings.hdfs.root}/_locks/table.lock"))
    with store.locks.held("table", 20) as lease:
        with pytest.raises(StorageError, match="lost to another writer"):
            lost.check()
        lost.release()
        lease.check()


def test_an_hour_is_computed_after_the_lease_is_acquired(spark: SparkSession, settings: Settings) -> None:
    """A writer that waited for the lease must not overwrite an hour with rows computed from older data."""
    store, raw = open_store(spark, settings), raw_data(settings)
    rng = random.Random(1)
    ticks = [random_tick(rng, "BTC-USD", HOUR + minute * MINUTE_MS) for minute in range(40)]
    used = [tick for tick in ticks if is_priced(tick)]

    def keep(some: list[Tick]) -> None:
        rows = enriched_ticks(parse_records(kafka_rows(spark, some), **TOPICS))
        with store.locks.held(raw.name, 5) as lease:
            merge_rows(spark, store, raw, rows, [raw.slot_of(HOUR)], lease)

    waiting = threading.Event()

    def stopped() -> bool:
        waiting.set()
        return False

    keep(ticks[:20])
    writer = threading.Thread(
        target=lambda: HourWriter(spark, store, settings).write([HOUR], wait_s=60, live=True, stopped=stopped)
    )
    with store.locks.held("hourly_metrics", 5):
        writer.start()
        assert waiting.wait(60)
        keep(ticks)
    writer.join()
    (row,) = read_table(spark, store, hourly_metrics(settings)).collect()
    assert row.n_ticks == len(used)


def test_hours_are_computed_while_another_writer_replaces_their_files(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, raw = open_store(spark, settings), raw_data(settings)
    rng = random.Random(2)
    ticks = [random_tick(rng, "BTC-USD", HOUR + minute * MINUTE_MS) for minute in range(40)]

    def keep(some: list[Tick]) -> None:
        rows = enriched_ticks(parse_records(kafka_rows(spark, some), **TOPICS))
        with store.locks.held(raw.name, 5) as lease:
            merge_rows(spark, store, raw, rows, [raw.slot_of(HOUR)], lease)

    keep(ticks[:20])
    hourly_rows = hour_writer.hourly_rows
    late = [ticks]

    def plan_and_replace(*args: Any, **options: Any) -> DataFrame:
        rows = hourly_rows(*args, **options)
        if late:
            keep(late.pop())  # between the listing of the files and their reading
        return rows

    monkeypatch.setattr(hour_writer, "hourly_rows", plan_and_replace)
    assert HourWriter(spark, store, settings).write([HOUR], wait_s=5, live=True) == 1
    (row,) = read_table(spark, store, hourly_metrics(settings)).collect()
    assert row.n_ticks == sum(is_priced(tick) for tick in ticks)


def test_rows_of_an_older_definition_are_read_and_recomputed(spark: SparkSession, settings: Settings) -> None:
    store, table = open_store(spark, settings), hourly_metrics(settings)
    hdfs, candles = WebHdfs(settings.hdfs), minute_candles(settings)
    minutes = candle_table([builders.candle(HOUR + i * MINUTE_MS, close=1.5 + i / 100) for i in range(150)])
    rows = hour_rows(tick_table([]), minutes, HOUR, HOUR + 2 * HOUR_MS)
    older = rows.drop_columns(["n_reference_minutes", "definition"])
    older = older.set_column(2, "avg_price", pc.multiply(older["avg_price"], 1.001))
    for path, content in ((candles.file_of(candles.slot_of(HOUR)), minutes), (table.file_of("2024-08"), older)):
        buffer = io.BytesIO()
        pq.write_table(content, buffer)
        hdfs.write(path, buffer.getvalue())
    report = Verifier(hdfs, settings).run()
    assert (report.problems, report.outdated) == ([], [HOUR, HOUR + HOUR_MS])
    wanted = f"`python -m batch hourly --from {to_rfc3339(HOUR)} --to {to_rfc3339(HOUR + 2 * HOUR_MS)}`"
    assert [wanted in line for line in report.lines() if "older definition" in line] == [True]
    assert HourWriter(spark, store, settings).write([HOUR], wait_s=5) == 1
    found = read_table(spark, store, table).orderBy("hour_start").toArrow()
    assert found["definition"].to_pylist() == [DEFINITION, None]
    expected = [rows["avg_price"][0].as_py(), older["avg_price"][1].as_py()]
    assert found["avg_price"].to_pylist() == pytest.approx(expected, rel=1e-12)
    report = Verifier(hdfs, settings).run()
    assert (report.problems, report.outdated) == ([], [HOUR + HOUR_MS])


def test_staged_files_of_a_killed_writer_are_removed_by_the_next(spark: SparkSession, settings: Settings) -> None:
    store, table = open_store(spark, settings), hourly_metrics(settings)
    store.stage(table.name, spark.sql(hour_sql(1)).coalesce(1), slotted=False)
    with store.locks.held(table.name, 10) as lease:
        merge_rows(spark, store, table, spark.sql(hour_sql(1)), ["2024-08"], lease)
    assert store.files(store.staging) == []


def test_the_plain_reader_ignores_proxies_of_the_environment(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, table = open_store(spark, settings), hourly_metrics(settings)
    with store.locks.held(table.name, 10) as lease:
        merge_rows(spark, store, table, spark.sql(hour_sql(1)), ["2024-08"], lease)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    hdfs = WebHdfs(settings.hdfs)
    (file,) = hdfs.files(table.folder)
    assert hdfs.read_table(file.path, ["symbol"]).num_rows == 4320


def test_the_lease_of_a_killed_owner_is_taken_over_at_once(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    log = tmp_path / "owner.log"
    locks = open_store(spark, settings).locks
    with running([sys.executable, "-c", HOLD], log, environment_of(settings)) as program:

        def held() -> bool:
            program.check_running()
            return "held" in program.output()

        eventually(held, 90, "the lease held by another program")
        with pytest.raises(StorageError, match="held by process"):
            locks.acquire("table", 0.5)
        program.process.kill()
        with locks.held("table", 30) as lease:  # sooner than HDFS's soft limit of 60 s
            lease.check()


def test_an_unreachable_hdfs_is_one_clear_line(settings: Settings) -> None:
    env = {**environment_of(settings), "BDI_HDFS__URL": "hdfs://127.0.0.1:9", "BDI_HDFS__WAIT_S": "1"}
    failed = subprocess.run(
        [sys.executable, "-m", "batch", "hourly"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert failed.returncode == 1
    assert "hdfs.url: hdfs://127.0.0.1:9: no writes accepted after 1 s" in failed.stderr.strip().splitlines()[-1]
    assert "Traceback" not in failed.stderr
