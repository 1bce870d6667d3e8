"""The stream of clean ticks and closed candles into raw_data, minute_candles and hourly_metrics.

One Structured Streaming query reads both topics; each micro-batch is merged into the files it belongs to, so a replay
(after a crash, or with the checkpoint deleted) changes nothing. A batch that fails ends the program: the checkpoint
never moves over data that is not stored. A record that cannot be read, that breaks a rule of `marketdata.rules`, or
that is ahead of the clock, becomes a dead letter and touches nothing else, whoever wrote it: event time closes hours,
so one time out of the future would close all of them.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sql
from pyspark.sql.streaming.query import StreamingQuery

from batch.hdfs.store import Store, hdfs_failure, java_text
from batch.spark.dead_letters import Letters
from batch.spark.kafka import kafka_options
from batch.sql import parse as wire
from batch.tables import merge as tables
from batch.tables.hour_writer import DueHours, HourWriter, grace_ms
from config import Settings
from marketdata.errors import StorageError
from marketdata.times import HOUR_MS, SECOND_MS
from marketdata.topics import TopicRole

_LOOK_S = 0.2
_FINISH_S = 2.5  # a batch under way may end by itself; the program has 5 s in all
# What a batch must know of its records: how many, how far event time is, which minutes they touch, how many are bad.
_GOOD = "FILTER (WHERE why IS NULL)"
_SUMMARY = (
    f"count(*) {_GOOD} AS n",
    f"unix_millis(max(CASE WHEN kind = 'candle' THEN at + INTERVAL '1' MINUTE ELSE at END) {_GOOD}) AS newest",
    f"collect_set(unix_millis(date_trunc('MINUTE', at))) {_GOOD} AS minutes",
    "count(why) AS bad",
    f"count_if(why = '{wire.FUTURE}') AS ahead",
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one micro-batch did: new ticks and candles read, hourly rows written, and the time each part took.

    refused: records that became dead letters.
    """

    batch: int
    ticks: int
    candles: int
    hours: int
    parse_ms: float
    ticks_ms: float
    candles_ms: float
    hours_ms: float
    refused: int = 0

    @property
    def total_ms(self) -> float:
        return self.parse_ms + self.ticks_ms + self.candles_ms + self.hours_ms


class RawWriter:
    """Merges micro-batches. The caller holds the lease of raw_data for as long as it calls `write`."""

    def __init__(
        self,
        spark: SparkSession,
        store: Store,
        settings: Settings,
        lease: Any,
        *,
        hourly: bool = True,
        stopped: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int],
    ) -> None:
        self._letters = Letters(spark, settings, now_ms)
        self._now_ms = now_ms
        self._max_future_ms = int(settings.streams.max_future_s * SECOND_MS)
        self._spark = spark
        self._store = store
        self._lease = lease
        self._stopped = stopped
        self._monotonic = monotonic
        self._wait_s = settings.hdfs.wait_s
        self._topics = {
            "ticks_topic": settings.topic(TopicRole.TICKS_CLEAN).name,
            "candles_topic": settings.topic(TopicRole.CANDLES).name,
        }
        self._raw = tables.raw_data(settings)
        self._candles = tables.minute_candles(settings)
        self._hours = HourWriter(spark, store, settings) if hourly else None
        self._due = DueHours(grace_ms(settings))

    def resume(self) -> None:
        """Find the hours that an earlier run stored and did not write."""
        if self._hours is not None:
            self._due.pending |= self._hours.unwritten()

    def write(self, records: DataFrame, batch: int) -> BatchReport:
        """Merge one micro-batch of Kafka rows and write the hours that it closed or changed.

        Raises:
            StorageError: a lease is lost, or there is no topic for dead letters where one is needed.
        """
        clock = self._monotonic
        began = clock()
        parsed, groups, latest_ms = self._look(records)
        if any(group.ahead for group in groups):
            # Our clock may run behind the writers' by as long as its look at the exchange took: time has passed since.
            parsed.unpersist()
            parsed, groups, latest_ms = self._look(records)
        try:
            refused = 0
            if any(group.bad for group in groups):
                refused = self._letters.send(records, parsed.where("why IS NOT NULL"), latest_ms)
            groups = [group for group in groups if group.n]
            found = {group.kind: group for group in groups}
            parsed_at = clock()
            ticks = found.get(wire.TICK)
            if ticks is not None:
                slots = {self._raw.name_of(at) for at in ticks.minutes}
                tables.merge(self._spark, self._store, self._raw, wire.enriched_ticks(parsed), slots, self._lease)
            ticks_at = clock()
            candles = found.get(wire.CANDLE)
            if candles is not None:
                slots = {self._candles.name_of(at) for at in candles.minutes}
                with self._store.locks.held(self._candles.name, self._wait_s, self._stopped) as lease:
                    tables.merge(self._spark, self._store, self._candles, wire.candle_rows(parsed), slots, lease)
            candles_at = clock()
        finally:
            parsed.unpersist()
        for group in groups:
            self._due.touch({at - at % HOUR_MS for at in group.minutes}, group.newest)
        if candles is not None:
            self._due.touch_trailing(at - at % HOUR_MS for at in candles.minutes)
        rows = self._write_hours()
        done = clock()
        report = BatchReport(
            batch=batch,
            ticks=ticks.n if ticks is not None else 0,
            candles=candles.n if candles is not None else 0,
            hours=rows,
            parse_ms=(parsed_at - began) * 1e3,
            ticks_ms=(ticks_at - parsed_at) * 1e3,
            candles_ms=(candles_at - ticks_at) * 1e3,
            hours_ms=(done - candles_at) * 1e3,
            refused=refused,
        )
        _log.info(
            "batch %d: %d ticks, %d candles, %d hourly rows%s in %.0f ms "
            "(read %.0f, ticks %.0f, candles %.0f, hours %.0f)",
            batch,
            report.ticks,
            report.candles,
            report.hours,
            f", {refused} refused" if refused else "",
            report.total_ms,
            report.parse_ms,
            report.ticks_ms,
            report.candles_ms,
            report.hours_ms,
        )
        return report

    def _look(self, records: DataFrame) -> tuple[DataFrame, list[Any], int]:
        """The records parsed (and kept), what stands in them by kind, and beyond which time they are ahead."""
        latest_ms = self._now_ms() + self._max_future_ms
        parsed = wire.parse(records, **self._topics, latest_ms=latest_ms).persist()
        return parsed, parsed.coalesce(1).groupBy("kind").agg(*map(sql.expr, _SUMMARY)).collect(), latest_ms

    def _write_hours(self) -> int:
        due = self._due.due()
        if self._hours is None or not due:
            return 0
        rows = self._hours.write(due, wait_s=self._wait_s, live=True, stopped=self._stopped)
        self._due.written(due)
        return rows


def start_query(
    spark: SparkSession, settings: Settings, write: Callable[[DataFrame, int], Any], *, once: bool
) -> StreamingQuery:
    """Start the query over both topics; `write` gets each micro-batch."""
    topics = [settings.topic(role).name for role in (TopicRole.TICKS_CLEAN, TopicRole.CANDLES)]
    source = (
        spark.readStream.format("kafka")
        .options(**kafka_options(settings.kafka))
        .option("subscribe", ",".join(topics))
        .option("startingOffsets", "earliest")
        .option("failOnDataLoss", "true")
        .option("maxOffsetsPerTrigger", str(settings.batch.max_offsets_per_trigger))
        .load()
    )
    writer = (
        source.selectExpr("topic", "partition", "offset", "key", "value")
        .writeStream.queryName("raw")
        .option("checkpointLocation", f"{settings.hdfs.url}{settings.hdfs.checkpoints}/raw")
        .foreachBatch(write)
    )
    if once:
        return writer.trigger(availableNow=True).start()
    return writer.trigger(processingTime=f"{settings.batch.trigger_s:g} seconds").start()


def run(
    spark: SparkSession,
    store: Store,
    settings: Settings,
    *,
    once: bool,
    hourly: bool,
    stopped: Callable[[], bool],
    now_ms: Callable[[], int],
) -> None:
    """Stream until `stopped` (or, with `once`, until everything published so far is stored).

    `now_ms` is event time, by which a record is ahead of the clock.

    Raises:
        StorageError: a batch failed; the reason is in its message.
    """
    with store.locks.held("raw_data", wait_s=float("inf"), stopped=stopped) as lease:
        writer = RawWriter(spark, store, settings, lease, hourly=hourly, stopped=stopped, now_ms=now_ms)
        writer.resume()
        failure: list[BaseException] = []

        def hush() -> None:
            """A batch that ends half way is told by us in one line, by Spark and Py4J in hundreds."""
            logging.getLogger("py4j").setLevel(logging.CRITICAL)
            spark.sparkContext.setLogLevel("OFF")

        idle = threading.Event()
        idle.set()

        def write(records: DataFrame, batch: int) -> None:
            idle.clear()
            try:
                writer.write(records, batch)
            except BaseException as error:
                failure.append(error)
                hush()
                raise
            finally:
                idle.set()

        query = start_query(spark, settings, write, once=once)
        _log.info("streaming into %s", settings.hdfs.raw_data)
        try:
            while not stopped() and not query.awaitTermination(_LOOK_S):  # type: ignore[arg-type]  # floats are fine
                pass
        except PySparkException as error:
            if stopped():
                return
            if failure and isinstance(failure[0], StorageError):
                raise failure[0] from error
            hush()
            cause = failure[0] if failure else error  # without a failure of ours it is the checkpoint's
            msg = hdfs_failure(java_text(cause), settings.hdfs.url) or f"raw stream: {_first_line(str(cause))}"
            raise StorageError(msg) from error
        finally:
            if query.isActive:
                idle.wait(_FINISH_S)
                hush()
                query.stop()


def _first_line(text: str) -> str:
    """What an exception says first; Py4J puts the name of the call before it."""
    lines = [line.removeprefix(": ") for line in text.strip().splitlines()]
    return next((line for line in lines if not line.startswith("An error occurred while calling")), "no reason told")
