"""Runs the five jobs: each function builds its Spark session, store and clients, and passes them to the job."""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from batch.hdfs.java_errors import hdfs_failures_as_storage_errors
from batch.hdfs.store import open_store
from batch.jobs.backfill import BackfillWriter, summary
from batch.jobs.gaps import Gaps, find_gaps
from batch.jobs.stream import BatchReport, StreamEvents, run_stream
from batch.jobs.verify import Report, Verifier
from batch.klines.archive import read_archives
from batch.klines.download import download_klines
from batch.klines.history import History
from batch.klines.plan import Plan, make_plan
from batch.spark.session import cancel_jobs, spark_session
from batch.tables.due_hours import grace_ms
from batch.tables.hour_writer import HourWriter
from batch.tables.stored_times import stored_times
from clients.clock import Clock, SystemClock, build_clock, clock_speed
from clients.kafka.status import PartReporter, StatusPublisher
from clients.kafka.topics import wait_for_topics
from clients.proxies import open_blocking_client
from clients.stop_signals import StopFlag
from clients.webhdfs import WebHdfs
from config import Settings
from exchanges.binance.endpoints import FIRST_KLINE_MS, INVALID_SYMBOL, KLINES_PER_REQUEST
from exchanges.binance.kline_client import KlineClient
from marketdata.errors import ArgumentError, BitcoinDataError, FatalSourceError, RetryableSourceError, StorageError
from marketdata.printable import write_line
from marketdata.times import HOUR_MS, to_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import Activity, ProductPart

_SMALL_PLAN = 24  # requests; up to this many, wait for the klines before starting Spark
_STOP_CHECK_S = 0.5
_log = logging.getLogger(__name__)


def run_raw(settings: Settings, stop: StopFlag, *, once: bool, hourly: bool, from_earliest: bool = False) -> int:
    """Store ticks and candles until stopped or, with `once`, up to the current end of the topics.

    With `from_earliest`, records that are not on the topics any more are recorded as lost, and skipped.
    """
    parts = (ProductPart.RAW, ProductPart.HOURLY) if hourly else (ProductPart.RAW,)
    with (
        reporting(settings, stop, *parts) as reporters,
        spark_session(settings, "raw") as spark,
        hdfs_failures_as_storage_errors(settings.hdfs.url),
    ):
        raw = reporters[0]
        stop.running(lambda: None)  # `run_stream` polls the flag
        try:
            raw.waiting(f"HDFS at {settings.hdfs.url}")
            store = open_store(spark, settings, stop.is_set)
            raw.waiting("the topics of ticks and candles")
            topics = [settings.topic(role).name for role in (TopicRole.TICKS_CLEAN, TopicRole.CANDLES)]
            _wait_for_topics(settings, topics, stop)
            raw.waiting("the lease of raw_data, which another writer holds")
            run_stream(
                spark,
                store,
                settings,
                once=once,
                hourly=hourly,
                from_earliest=from_earliest,
                stopped=stop.is_set,
                now_ms=_event_time(settings, SystemClock()),
                events=_stream_events(*reporters),
            )
            if once and not stop.is_set():
                for reporter in reporters:
                    reporter.end(Activity.DONE)
        except BitcoinDataError:
            if not stop.is_set():
                raise
    return 0


def _wait_for_topics(settings: Settings, topics: Sequence[str], stop: StopFlag) -> None:
    """Wait until the topics exist.

    Raises:
        BrokerError: they do not within `hdfs.wait_s`.
        StorageError: the job was stopped.
    """

    async def wait() -> None:
        waiting = asyncio.create_task(wait_for_topics(settings.kafka, topics, settings.hdfs.wait_s))
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=_STOP_CHECK_S)
            if stop.is_set():
                waiting.cancel()
                await asyncio.wait({waiting})
                raise StorageError("stopped while waiting for the topics")
        await waiting

    asyncio.run(wait())


@contextmanager
def reporting(settings: Settings, stop: StopFlag, *parts: ProductPart) -> Iterator[tuple[PartReporter, ...]]:
    """Publish the status of a job's parts while it runs; after a signal they are stopped, whatever error it causes."""
    with StatusPublisher(settings) as publisher:
        reporters = tuple(publisher.part(part) for part in parts)
        try:
            yield reporters
        except Exception:
            if stop.is_set():
                for reporter in reporters:
                    reporter.end(Activity.STOPPED)
            raise


def _stream_events(raw: PartReporter, hours: PartReporter | None = None) -> StreamEvents:
    def started() -> None:
        raw.running()
        if hours is not None:
            hours.running()

    def stored(report: BatchReport) -> None:
        raw.succeeded()
        if hours is not None and report.hours:
            hours.succeeded()

    return StreamEvents(started, stored, raw.set_lag, hours.set_lag if hours is not None else lambda _hours: None)


def _event_time(settings: Settings, fallback: Clock) -> Callable[[], int]:
    """Return a function for event time in ms; it reads `fallback` until the exchange's clock is available."""
    clocks: list[Clock] = []
    logged = False

    def now_ms() -> int:
        nonlocal logged
        if not clocks:
            try:
                clocks.append(build_clock(settings))
            except RetryableSourceError as error:
                if not logged:
                    _log.warning("exchange time is not available, using this machine's clock: %s", error)
                logged = True
                return fallback.now_ms()
        return clocks[0].now_ms()

    return now_ms


def run_backfill(
    settings: Settings,
    stop: StopFlag,
    *,
    hours: int | None,
    minutes: int | None,
    to_ms: int | None,
    archive: str | None,
    replace: bool = False,
) -> int:
    """Fill the tables with historical klines, which are fetched while Spark starts.

    With `replace`, klines that are stored already are read again, and replace those that differ.

    Returns:
        The exit code: 1 if a file of `archive` could not be read; what the others contain is stored.
    """
    began = time.monotonic()
    end_ms = _end_of_history(settings, to_ms, archive)
    hdfs = WebHdfs(settings.hdfs)
    hdfs.wait()
    if archive is not None:
        found = read_archives(Path(archive), settings.parsed_markets, stop.is_set)
        if not found.klines:
            _log.error("%s", summary(found, 0, end_ms))
            return 1
        return _store_history(settings, hdfs, stop, lambda: found, None, end_ms, began, replace=replace)
    stored_hours: dict[str, set[int]] = {}
    stored_minutes: dict[str, set[int]] = {}
    if not replace:
        stored_hours = stored_times(hdfs, settings.hdfs.hourly_metrics, "hour_start")
        stored_minutes = stored_times(hdfs, settings.hdfs.minute_candles, "open_time")
    plan = make_plan(
        settings.parsed_markets,
        stored_hours,
        stored_minutes,
        hours=settings.batch.backfill_hours if hours is None else hours,
        minutes=settings.batch.backfill_minutes if minutes is None else minutes,
        to_ms=end_ms,
    )
    speed = clock_speed(settings)
    with (
        open_blocking_client(settings, settings.binance.base_url) as http,
        ThreadPoolExecutor(1, thread_name_prefix="backfill") as executor,
    ):
        client = KlineClient(
            http,
            settings.binance,
            real_seconds=lambda exchange_s: exchange_s / speed,
            sleep=stop.wait,
            stopped=stop.is_set,
        )

        def resolve() -> None:
            if plan.spans:
                client.resolve(settings.parsed_markets)

        if to_ms is not None:
            resolve()
            _check_listed(client, plan, to_ms)

        def fetch() -> History:
            if to_ms is None:
                resolve()
            return download_klines(client, plan.spans, stop.is_set)

        fetched = executor.submit(fetch)
        small = len(plan.spans) <= _SMALL_PLAN
        if small and not fetched.result().has_missing(plan, stored_minutes):
            _log.info("backfill to %s: up to date, no new klines", to_rfc3339(end_ms))
            return 0
        return _store_history(settings, hdfs, stop, fetched.result, plan.hours, end_ms, began, replace=replace)


def _end_of_history(settings: Settings, to_ms: int | None, archive: str | None) -> int:
    """Return the end of a backfill in ms: `to_ms`, or the present.

    Raises:
        ArgumentError: `to_ms` is in the future, or before any kline of the exchange.
    """
    if to_ms is None:
        return build_clock(settings).now_ms()
    # Archives are read without the exchange, whose clock in a replay is behind this machine's.
    check_end(to_ms, build_clock(settings) if archive is None else SystemClock())
    return to_ms


def check_end(to_ms: int, clock: Clock) -> None:
    """Check the end of a backfill.

    Raises:
        ArgumentError: `to_ms` is ahead of the clock, or before any kline of the exchange.
    """
    now_ms = clock.now_ms()
    if not FIRST_KLINE_MS < to_ms <= now_ms:
        expected = f"a time after {to_rfc3339(FIRST_KLINE_MS)}, the first kline, until now ({to_rfc3339(now_ms)})"
        raise ArgumentError("--to", to_rfc3339(to_ms), expected)


def _check_listed(client: KlineClient, plan: Plan, to_ms: int) -> None:
    """Check, before Spark starts, that the exchange listed at least one market before `to_ms`.

    Raises:
        ArgumentError: the newest requests of all markets have no kline.
        SourceError: the exchange refused, or did not answer.
    """
    newest = {span.market: span for span in plan.spans if span.interval == "1h"}
    listed = [span for market, span in newest.items() if client.symbols.is_listed(market)]
    if not listed:
        return
    for span in listed:
        # The longest request, so that a halt of the exchange is not taken for a missing listing.
        from_ms = max(0, span.to_ms - KLINES_PER_REQUEST * HOUR_MS)
        try:
            if client.fetch(client.symbols.name(span.market), "1h", from_ms, span.to_ms):
                return
        except FatalSourceError as error:
            if error.code != INVALID_SYMBOL:
                raise
    names = ", ".join(span.market.symbol for span in listed)
    raise ArgumentError("--to", to_rfc3339(to_ms), f"a time after the exchange listed {names}")


def _store_history(
    settings: Settings,
    hdfs: WebHdfs,
    stop: StopFlag,
    fetched: Callable[[], History],
    hours: dict[str, set[int]] | None,
    end_ms: int,
    began: float,
    *,
    replace: bool,
) -> int:
    with (
        spark_session(settings, "backfill", save_class_archive=True) as spark,
        hdfs_failures_as_storage_errors(settings.hdfs.url),
    ):
        stop.running(lambda: cancel_jobs(spark))
        store = open_store(spark, settings, stop.is_set)
        found = fetched()
        _log.info("klines fetched after %.1f s", time.monotonic() - began)
        hours = found.open_times("1h") if hours is None else hours
        rows = BackfillWriter(spark, store, hdfs, settings, replace=replace).write(found, hours, end_ms, stop.is_set)
    _log.info("%s in %.1f s", summary(found, rows, end_ms), time.monotonic() - began)
    return 1 if found.failed else 0


def run_hourly(settings: Settings, stop: StopFlag, *, from_ms: int | None, to_ms: int | None) -> int:
    """Recompute the hourly rows of all closed hours in [from_ms, to_ms) with ticks or candles."""
    with (
        reporting(settings, stop, ProductPart.HOURLY) as (status,),
        spark_session(settings, "hourly") as spark,
        hdfs_failures_as_storage_errors(settings.hdfs.url),
    ):
        status.running()
        stop.running(lambda: cancel_jobs(spark))
        store = open_store(spark, settings, stop.is_set)
        writer = HourWriter(spark, store, settings)
        hours, high_water_ms = writer.stored_hours()
        last_ms = high_water_ms - grace_ms(settings) - HOUR_MS
        chosen = [
            hour
            for hour in sorted(hours)
            if hour <= last_ms and (from_ms is None or hour >= from_ms) and (to_ms is None or hour + HOUR_MS <= to_ms)
        ]
        written = writer.write(chosen, wait_s=settings.hdfs.wait_s, stopped=stop.is_set)
        _log.info("hourly: %d rows of %d hours written", written, len(chosen))
        status.end(Activity.DONE)
    return 0


def run_verify(settings: Settings, *, as_json: bool) -> int:
    """Check the tables; return 0 if all guarantees hold, 1 if one is violated or nothing is stored."""
    hdfs = WebHdfs(settings.hdfs)
    hdfs.wait()
    report = Verifier(hdfs, settings).run()
    if not report.ok:
        # A running stream may have written between two reads; a real problem is found twice.
        report = Verifier(hdfs, settings).run()
    _print(report, as_json=as_json)
    return 0 if report.ok else 1


def run_gaps(settings: Settings, *, as_json: bool) -> int:
    """List lost ranges and missing hours; return 0."""
    hdfs = WebHdfs(settings.hdfs)
    hdfs.wait()
    found = find_gaps(hdfs, settings)
    _print(found, as_json=as_json)
    return 0


def _print(report: Report | Gaps, *, as_json: bool) -> None:
    for line in [json.dumps(report.as_json())] if as_json else report.lines():
        write_line(sys.stdout, line)
