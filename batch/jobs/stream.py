"""Streams clean ticks and closed candles into raw_data, minute_candles and hourly_metrics.

One Structured Streaming query reads both topics. Each micro-batch is merged into the files it belongs to, so a replay
(after a crash, or with the checkpoint deleted) changes nothing. A failed batch ends the program: the checkpoint never
advances past data that is not stored. A record that cannot be parsed, violates a rule of `marketdata.rules` or is ahead
of the clock becomes a dead letter and has no other effect. Event time closes hours, so a single accepted record from
the future would close all hours before it.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sql
from pyspark.sql.streaming.query import StreamingQuery

from batch.hdfs.java_errors import hdfs_failure, java_message
from batch.hdfs.lease import Lease
from batch.hdfs.store import Store
from batch.spark.dead_letters import DeadLetterWriter
from batch.spark.kafka import kafka_options
from batch.sql.parse import CANDLE, FUTURE, TICK, candle_rows, enriched_ticks, parse_records
from batch.tables.due_hours import DueHours, grace_ms
from batch.tables.hour_writer import HourWriter
from batch.tables.layout import minute_candles, raw_data
from batch.tables.merge import merge_rows
from batch.tables.raw_position import Offsets, RawPosition, checkpoint_of, parse_offsets
from clients.webhdfs import WebHdfs
from config import Settings
from marketdata.errors import BitcoinDataError, StorageError
from marketdata.times import HOUR_MS, SECOND_MS
from marketdata.topics import TopicRole

_POLL_S = 0.2
_LAG_EVERY_S = 5.0
_FINISH_S = 2.5  # time for the current batch to finish; the program has 5 s to stop
_VALID = "FILTER (WHERE error IS NULL)"
# Per kind of record: number of valid ones, latest event time, minutes with data, number of invalid ones.
_SUMMARY = (
    f"count(*) {_VALID} AS n",
    f"unix_millis(max(CASE WHEN kind = 'candle' THEN at + INTERVAL '1' MINUTE ELSE at END) {_VALID}) AS latest",
    f"collect_set(unix_millis(date_trunc('MINUTE', at))) {_VALID} AS minutes",
    "count(error) AS invalid",
    f"count_if(error = '{FUTURE}') AS ahead",
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Result of one micro-batch.

    Attributes:
        batch: the batch id of Structured Streaming.
        ticks, candles: valid records read.
        hours: hourly rows written.
        parse_ms, ticks_ms, candles_ms, hours_ms: duration of each step.
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


@dataclass(frozen=True, slots=True)
class StreamEvents:
    """Callbacks of a stream.

    Attributes:
        started: the lease is held, and the query runs.
        stored: a micro-batch is stored.
        lag: called every few seconds with the records that the last micro-batch left on the topics.
        hours_due: called with the number of closed hours whose rows have to be written.
    """

    started: Callable[[], None] = lambda: None
    stored: Callable[[BatchReport], None] = lambda _report: None
    lag: Callable[[int], None] = lambda _records: None
    hours_due: Callable[[int], None] = lambda _hours: None


class RawWriter:
    """Merges micro-batches into the tables. The caller holds the lease of raw_data during each `write`."""

    def __init__(
        self,
        spark: SparkSession,
        store: Store,
        settings: Settings,
        lease: Lease,
        *,
        hourly: bool = True,
        stopped: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int],
        events: StreamEvents = StreamEvents(),
    ) -> None:
        self._events = events
        self._dead_letters = DeadLetterWriter(spark, settings, now_ms)
        self._now_ms = now_ms
        self._max_future_ms = int(settings.event_time.max_future_s * SECOND_MS)
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
        self._raw = raw_data(settings)
        self._candles = minute_candles(settings)
        self._hours = HourWriter(spark, store, settings) if hourly else None
        self._due = DueHours(grace_ms(settings))

    def resume(self) -> None:
        """Add the hours that an earlier run stored without writing their hourly rows."""
        if self._hours is not None:
            self._due.pending |= self._hours.unwritten_hours()

    def write(self, records: DataFrame, batch: int) -> BatchReport:
        """Merge one micro-batch of Kafka rows and write the hourly rows that it closed or changed.

        Raises:
            StorageError: a lease was lost.
            BrokerError: a dead letter has to be published, and its topic does not exist or no broker answers.
        """
        clock = self._monotonic
        began = clock()
        parsed, groups, latest_ms = self._parse(records)
        if any(group.ahead for group in groups):
            # This clock may lag the producers' by its request time to the exchange. Time has passed, so check again.
            parsed.unpersist()
            parsed, groups, latest_ms = self._parse(records)
        try:
            refused = 0
            if any(group.invalid for group in groups):
                refused = self._dead_letters.send(records, parsed.where("error IS NOT NULL"), latest_ms)
            groups = [group for group in groups if group.n]
            found = {group.kind: group for group in groups}
            parsed_at = clock()
            ticks = found.get(TICK)
            if ticks is not None:
                slots = {self._raw.slot_of(at) for at in ticks.minutes}
                merge_rows(self._spark, self._store, self._raw, enriched_ticks(parsed), slots, self._lease)
            ticks_at = clock()
            candles = found.get(CANDLE)
            if candles is not None:
                slots = {self._candles.slot_of(at) for at in candles.minutes}
                with self._store.locks.held(self._candles.name, self._wait_s, self._stopped) as lease:
                    merge_rows(self._spark, self._store, self._candles, candle_rows(parsed), slots, lease)
            candles_at = clock()
        finally:
            parsed.unpersist()
        for group in groups:
            self._due.mark_changed({at - at % HOUR_MS for at in group.minutes}, group.latest)
        if candles is not None:
            self._due.mark_trailing(at - at % HOUR_MS for at in candles.minutes)
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
        self._events.stored(report)
        return report

    def _parse(self, records: DataFrame) -> tuple[DataFrame, list[Any], int]:
        """Return the parsed records (persisted), a summary row per kind, and the latest event time accepted (ms)."""
        latest_ms = self._now_ms() + self._max_future_ms
        parsed = parse_records(records, **self._topics, latest_ms=latest_ms).persist()
        return parsed, parsed.coalesce(1).groupBy("kind").agg(*map(sql.expr, _SUMMARY)).collect(), latest_ms

    def _write_hours(self) -> int:
        due = self._due.due()
        if self._hours is None or not due:
            return 0
        self._events.hours_due(len(due))
        rows = self._hours.write(due, wait_s=self._wait_s, live=True, stopped=self._stopped)
        self._due.mark_written(due)
        self._events.hours_due(0)
        return rows


def _topics(settings: Settings) -> list[str]:
    return [settings.topic(role).name for role in (TopicRole.TICKS_CLEAN, TopicRole.CANDLES)]


def start_query(
    spark: SparkSession,
    settings: Settings,
    write: Callable[[DataFrame, int], Any],
    *,
    once: bool,
    starting_offsets: str,
) -> StreamingQuery:
    """Start the query on both topics; `write` is called with each micro-batch and its id.

    A query with a checkpoint ignores `starting_offsets`.
    """
    topics = _topics(settings)
    source = (
        spark.readStream.format("kafka")
        .options(**kafka_options(settings.kafka))
        .option("subscribe", ",".join(topics))
        .option("startingOffsets", starting_offsets)
        .option("failOnDataLoss", "true")
        .option("maxOffsetsPerTrigger", str(settings.batch.max_offsets_per_trigger))
        .load()
    )
    writer = (
        source.selectExpr("topic", "partition", "offset", "key", "value")
        .writeStream.queryName("raw")
        .option("checkpointLocation", f"{settings.hdfs.url}{checkpoint_of(settings)}")
        .foreachBatch(write)
    )
    if once:
        return writer.trigger(availableNow=True).start()
    return writer.trigger(processingTime=f"{settings.batch.trigger_s:g} seconds").start()


def run_stream(
    spark: SparkSession,
    store: Store,
    settings: Settings,
    *,
    once: bool,
    hourly: bool,
    from_earliest: bool = False,
    stopped: Callable[[], bool],
    now_ms: Callable[[], int],
    events: StreamEvents = StreamEvents(),
) -> None:
    """Stream until `stopped` returns True or, with `once`, until everything published so far is stored.

    Args:
        spark: the session.
        store: the HDFS root.
        settings: topics, tables, trigger.
        once: stop at the current end of the topics.
        hourly: also write hourly_metrics.
        from_earliest: record and skip records that are not on the topics any more.
        stopped: polled while streaming.
        now_ms: current event time, ms; later records are ahead of the clock.
        events: called as the stream proceeds.

    Raises:
        StorageError, BrokerError: a batch failed, or the next records are not on the topics any more; the message
            contains the reason.
    """
    position = RawPosition(WebHdfs(settings.hdfs), settings, _topics(settings))
    with store.locks.held("raw_data", wait_s=float("inf"), stopped=stopped) as lease:
        writer = RawWriter(spark, store, settings, lease, hourly=hourly, stopped=stopped, now_ms=now_ms, events=events)
        writer.resume()
        failure: list[BaseException] = []

        def silence_spark() -> None:
            """Silence Spark and Py4J, which report a failed or interrupted batch in hundreds of lines."""
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
                silence_spark()
                raise
            finally:
                idle.set()

        starting_offsets = position.starting_offsets(store, now_ms(), from_earliest=from_earliest)
        query = start_query(spark, settings, write, once=once, starting_offsets=starting_offsets)
        _log.info("streaming into %s", settings.hdfs.raw_data)
        events.started()
        try:
            _wait_for_end(query, stopped, events)
        except PySparkException as error:
            if stopped():
                return
            if failure and isinstance(failure[0], BitcoinDataError):
                raise failure[0] from error
            silence_spark()
            cause = failure[0] if failure else error
            msg = hdfs_failure(java_message(cause), settings.hdfs.url)
            if msg is None:
                position.require_available()  # Spark's message does not name what is lost
                msg = f"raw stream: {_first_line(str(cause))}"
            raise StorageError(msg) from error
        finally:
            if query.isActive:
                idle.wait(_FINISH_S)
                silence_spark()
                query.stop()


def _wait_for_end(query: StreamingQuery, stopped: Callable[[], bool], events: StreamEvents) -> None:
    measure_s = time.monotonic()
    while not stopped() and not query.awaitTermination(_POLL_S):  # type: ignore[arg-type]  # floats are fine
        if time.monotonic() >= measure_s:
            measure_s += _LAG_EVERY_S
            if (progress := query.lastProgress) is not None:
                events.lag(lag_of(progress["sources"]))


def lag_of(sources: Sequence[Mapping[str, Any]]) -> int:
    """Return the records between the end of a micro-batch and the ends of the topics, from Spark's progress report.

    Args:
        sources: each has the JSON objects `endOffset` and `latestOffset`: topic to partition to offset.
    """
    lag = 0
    for source in sources:
        end, latest = (_offsets(source.get(name)) for name in ("endOffset", "latestOffset"))
        lag += sum(max(offset - end.get(partition, offset), 0) for partition, offset in latest.items())
    return lag


def _offsets(value: Any) -> Offsets:
    return parse_offsets((json.loads(value) if isinstance(value, str) else value) or {})


def _first_line(text: str) -> str:
    """Return the first line of an exception's text, without the line in which Py4J names the call."""
    lines = [line.removeprefix(": ") for line in text.strip().splitlines()]
    return next((line for line in lines if not line.startswith("An error occurred while calling")), "unknown reason")
