"""The composition roots of the four jobs: each builds its session and store once and hands them on."""

import json
import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from batch.hdfs.reader import Reader
from batch.hdfs.store import hdfs_failures_told, open_store
from batch.jobs import backfill as history
from batch.jobs.stream import run as run_raw
from batch.jobs.verify import Verifier
from batch.spark.kafka import wait_for_topics
from batch.spark.session import cut_off, spark_session
from batch.tables.hour_writer import HourWriter, grace_ms
from clients.clock import Clock, SystemClock, build_clock, clock_speed
from clients.stop_signals import StopFlag
from config import Settings
from exchanges.binance.kline_client import KlineClient
from marketdata.errors import BitcoinDataError, RetryableSourceError
from marketdata.times import HOUR_MS, to_rfc3339
from marketdata.topics import TopicRole

_SMALL_PLAN = 24  # requests: their answers are waited for before a session is worth its start
_log = logging.getLogger(__name__)


def raw(settings: Settings, stop: StopFlag, *, once: bool, hourly: bool) -> int:
    """Stream until stopped, or once through what is there."""
    with spark_session(settings, "raw") as spark, hdfs_failures_told(settings.hdfs.url):
        stop.running(lambda: None)  # the stream ends by the flag
        try:
            store = open_store(spark, settings)
            topics = [settings.topic(role).name for role in (TopicRole.TICKS_CLEAN, TopicRole.CANDLES)]
            wait_for_topics(spark, settings.kafka, topics, settings.hdfs.wait_s)
            run_raw(
                spark,
                store,
                settings,
                once=once,
                hourly=hourly,
                stopped=stop.is_set,
                now_ms=_event_time(settings, SystemClock()),
            )
        except BitcoinDataError:
            if not stop.is_set():
                raise
    return 0


def _event_time(settings: Settings, machine: Clock) -> Callable[[], int]:
    """Event time; this machine's for as long as an exchange was never heard: storing goes on without it."""
    known: list[Clock] = []
    told = False

    def now_ms() -> int:
        nonlocal told
        if not known:
            try:
                known.append(build_clock(settings))
            except RetryableSourceError as error:
                if not told:
                    _log.warning("no event time yet, this machine's is taken: %s", error)
                told = True
                return machine.now_ms()
        return known[0].now_ms()

    return now_ms


def backfill(
    settings: Settings,
    stop: StopFlag,
    *,
    hours: int | None,
    minutes: int | None,
    to_ms: int | None,
    archive: str | None,
) -> int:
    """Fill the tables with history. Klines are fetched while Spark starts: both take seconds, of different machines."""
    began = time.monotonic()
    end_ms = build_clock(settings).now_ms() if to_ms is None else to_ms
    reader = Reader(settings.hdfs)
    reader.wait()
    if archive is not None:
        found = history.from_archives(Path(archive), settings.parsed_markets, stop.is_set)
        return _store_history(settings, reader, stop, lambda: found, None, end_ms, began)
    known_hours, known_minutes = history.stored(reader, settings)
    plan = history.plan(
        settings.parsed_markets,
        known_hours,
        known_minutes,
        hours=settings.batch.backfill_hours if hours is None else hours,
        minutes=settings.batch.backfill_minutes if minutes is None else minutes,
        to_ms=end_ms,
    )
    speed = clock_speed(settings)
    with httpx.Client(trust_env=False) as http, ThreadPoolExecutor(1, thread_name_prefix="backfill") as side:
        client = KlineClient(http, settings.binance, real_seconds=lambda exchange_s: exchange_s / speed)
        fetching = side.submit(history.fetch, client, plan.spans, stop.is_set)
        small = len(plan.spans) <= _SMALL_PLAN
        if small and history.brings_nothing(fetching.result(), plan, known_minutes):
            _log.info("backfill to %s: everything that the exchange has is stored", to_rfc3339(end_ms))
            return 0
        return _store_history(settings, reader, stop, fetching.result, plan.hours, end_ms, began)


def _store_history(
    settings: Settings,
    reader: Reader,
    stop: StopFlag,
    fetched: Callable[[], history.History],
    wanted: dict[str, set[int]] | None,
    end_ms: int,
    began: float,
) -> int:
    with spark_session(settings, "backfill", archives=True) as spark, hdfs_failures_told(settings.hdfs.url):
        stop.running(lambda: cut_off(spark))
        store = open_store(spark, settings)
        found = fetched()
        _log.info("klines here after %.1f s", time.monotonic() - began)
        hours = history.wanted_hours(found) if wanted is None else wanted
        rows = history.BackfillWriter(spark, store, reader, settings).write(found, hours, end_ms, stop.is_set)
    _log.info("%s in %.1f s", history.summary(found, rows, end_ms), time.monotonic() - began)
    return 0


def hourly(settings: Settings, stop: StopFlag, *, from_ms: int | None, to_ms: int | None) -> int:
    """Recompute the rows of the closed hours in [from_ms, to_ms) that have ticks or candles."""
    with spark_session(settings, "hourly") as spark, hdfs_failures_told(settings.hdfs.url):
        stop.running(lambda: cut_off(spark))
        store = open_store(spark, settings)
        writer = HourWriter(spark, store, settings)
        hours, high_water_ms = writer.stored_hours()
        last_ms = high_water_ms - grace_ms(settings) - HOUR_MS
        chosen = [
            hour
            for hour in sorted(hours)
            if hour <= last_ms and (from_ms is None or hour >= from_ms) and (to_ms is None or hour + HOUR_MS <= to_ms)
        ]
        written = writer.write(chosen, wait_s=settings.hdfs.wait_s, stopped=stop.is_set)
        _log.info("hourly: %d rows of %d hours", written, len(chosen))
    return 0


def verify(settings: Settings, *, as_json: bool) -> int:
    """Check what is stored; 0 where every promise holds, 1 where one does not or nothing is stored."""
    reader = Reader(settings.hdfs)
    reader.wait()
    report = Verifier(reader, settings).run()
    if not report.ok:
        # A running stream may have written between two of our looks: what is truly wrong is wrong twice.
        report = Verifier(reader, settings).run()
    text = json.dumps(report.as_json()) if as_json else "\n".join(report.lines())
    sys.stdout.write(text + "\n")
    return 0 if report.ok else 1
