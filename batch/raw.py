"""The stream of clean ticks and closed candles into raw_data, minute_candles and hourly_metrics.

One Structured Streaming query reads both topics; each micro-batch is merged into the files it belongs to, so a replay
(after a crash, or with the checkpoint deleted) changes nothing. A batch that fails ends the program: the checkpoint
never moves over data that is not stored. The clean agent has passed every tick, so one that cannot be read is a fault
of the product and fails the batch; nobody passes candles before, so a record that is none becomes a dead letter.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sql
from pyspark.sql.streaming.query import StreamingQuery

from batch import tables, wire
from batch.hours import DueHours, HourWriter, grace_ms
from batch.kafka import kafka_options
from batch.letters import Letters
from batch.storage import Store
from config import Settings
from config.clock import SystemClock, build_clock
from marketdata.errors import RetryableSourceError, StorageError
from marketdata.times import HOUR_MS
from marketdata.topics import TopicRole

_LOOK_S = 0.2
_FINISH_S = 2.5  # a batch under way may end by itself; the program has 5 s in all
# What a batch must know of its records: how many, how far event time is, which minutes they touch, the first bad one.
_GOOD = "FILTER (WHERE why IS NULL)"
_SUMMARY = (
    f"count(*) {_GOOD} AS n",
    f"unix_millis(max(CASE WHEN kind = 'candle' THEN at + INTERVAL '1' MINUTE ELSE at END) {_GOOD}) AS newest",
    f"collect_set(unix_millis(date_trunc('MINUTE', at))) {_GOOD} AS minutes",
    "min_by(struct(topic, partition, offset, why), offset) FILTER (WHERE why IS NOT NULL) AS bad",
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
            StorageError: a tick cannot be read (named by topic, partition and offset), or a lease is lost.
        """
        clock = self._monotonic
        began = clock()
        parsed = wire.parse(records, **self._topics).persist()
        try:
            groups = parsed.coalesce(1).groupBy("kind").agg(*map(sql.expr, _SUMMARY)).collect()
            bad = {group.kind for group in groups if group.bad is not None}
            self._refuse([group.bad for group in groups if group.kind in bad - {wire.CANDLE}])
            refused = 0
            if wire.CANDLE in bad:
                refused = self._letters.send(records, parsed.where(f"kind = '{wire.CANDLE}' AND why IS NOT NULL"))
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

    def _write_hours(self) -> int:
        due = self._due.due()
        if self._hours is None or not due:
            return 0
        rows = self._hours.write(due, wait_s=self._wait_s, live=True, stopped=self._stopped)
        self._due.written(due)
        return rows

    @staticmethod
    def _refuse(bad: list[Any]) -> None:
        if bad:
            first = bad[0]
            msg = (
                f"{first.topic} partition {first.partition} offset {first.offset}: {first.why}; expected a record that "
                "the clean agent passed. Nothing of this batch is committed"
            )
            raise StorageError(msg)


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
) -> None:
    """Stream until `stopped` (or, with `once`, until everything published so far is stored).

    Raises:
        StorageError: a batch failed; the reason is in its message.
    """
    with store.locks.held("raw_data", wait_s=float("inf"), stopped=stopped) as lease:
        writer = RawWriter(
            spark, store, settings, lease, hourly=hourly, stopped=stopped, now_ms=lambda: _now_ms(settings)
        )
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
            msg = f"raw stream: {_first_line(failure[0] if failure else error)}"
            raise StorageError(msg) from error
        finally:
            if query.isActive:
                idle.wait(_FINISH_S)
                hush()
                query.stop()


def _now_ms(settings: Settings) -> int:
    """Event time for a letter; this machine's where the exchange does not answer: storing goes on without it."""
    try:
        return build_clock(settings).now_ms()
    except RetryableSourceError:
        return SystemClock().now_ms()


def _first_line(error: BaseException) -> str:
    if isinstance(error, Py4JJavaError):
        return str(error.java_exception.toString()).splitlines()[0]
    return str(error).strip().splitlines()[0]
