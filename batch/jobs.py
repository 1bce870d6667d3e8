"""The composition roots of the four jobs: each builds its session and store once and hands them on."""

from collections.abc import Callable
from pathlib import Path

from batch.kafka import wait_for_topics
from batch.raw import run as run_raw
from batch.session import spark_session
from batch.storage import open_store
from config import Settings
from marketdata.errors import BitcoinDataError
from marketdata.topics import TopicRole

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
