"""The composition roots of the four jobs: each builds its session and store once and hands them on."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import httpx

from batch import backfill as history
from batch.kafka import wait_for_topics
from batch.klines import KlineClient
from batch.raw import run as run_raw
from batch.session import spark_session
from batch.storage import open_store
from batch.stored import Reader
from config import Settings
from config.clock import build_clock
from marketdata.errors import BitcoinDataError
from marketdata.topics import TopicRole

_log = logging.getLogger(__name__)
Stopped = Callable[[], bool]
Install = Callable[[], None]


def raw(settings: Settings, stopped: Stopped, install: Install, *, once: bool, hourly: bool) -> int:
    """Stream until stopped, or once through what is there."""
    with spark_session(settings, "raw") as spark:
        install()
        try:
            store = open_store(spark, settings)
            topics = [settings.topic(role).name for role in (TopicRole.TICKS_CLEAN, TopicRole.CANDLES)]
            wait_for_topics(spark, settings.kafka, topics, settings.hdfs.wait_s)
            run_raw(spark, store, settings, once=once, hourly=hourly, stopped=stopped)
        except BitcoinDataError:
            if not stopped():
                raise
    return 0


def backfill(
    settings: Settings,
    stopped: Stopped,
    install: Install,
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
    known_hours, known_minutes = history.stored(reader, settings)
    plan = history.plan(
        settings.parsed_markets,
        known_hours,
        known_minutes,
        hours=settings.batch.backfill_hours if hours is None else hours,
        minutes=settings.batch.backfill_minutes if minutes is None else minutes,
        to_ms=end_ms,
    )
    if not plan.spans:
        _log.info("backfill: everything asked for is stored")
        return 0
    with httpx.Client(trust_env=False) as http, ThreadPoolExecutor(1, thread_name_prefix="backfill") as side:
        client = KlineClient(http, settings.binance)
        fetching: Future[history.History] = side.submit(history.fetch, client, plan.spans, stopped)
        with spark_session(settings, "backfill") as spark:
            install()
            store = open_store(spark, settings)
            found = fetching.result()
            _log.info("klines here after %.1f s", time.monotonic() - began)
            rows = history.BackfillWriter(spark, store, reader, settings).write(found, plan.hours, end_ms, stopped)
    _log.info("%s in %.1f s", history.summary(found, rows, end_ms), time.monotonic() - began)
    return 0
