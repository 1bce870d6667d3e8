"""The views when Kafka dies: they report the outage, and read again when Kafka is back."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from config import Settings
from devstack.state import load_state
from marketdata.codec import encode
from marketdata.topics import TopicRole
from streams.kafka import topics
from streams.views import responses
from streams.views.follower import Follower
from streams.views.read_model import ReadModel
from tests.support import builders
from tests.support.stack import environment_of, eventually_async, free_ports, running, settings_with
from tests.support.streams_worker import send

START = 1_722_816_000_000
KEY = builders.SYMBOL.encode()
KILLS = 2  # a client's state after a kill depends on what it was doing


@asynccontextmanager
async def kafka_alone(settings: Settings, log: Path) -> AsyncIterator[int]:
    """Run a broker of its own for these settings; yield its pid. Its data remains for the next one."""
    folder = settings.devstack.state_dir
    command = [sys.executable, "-m", "devstack", "up", "--foreground", "--without", "hdfs", "--without", "exchange"]
    with running(command, log, environment_of(settings)) as program:

        async def healthy() -> int | None:
            program.check_running()
            state = load_state(folder)
            part = None if state is None else state.parts.get("kafka")
            if state is None or part is None or part.process is None or state.supervisor.pid != program.process.pid:
                return None
            return part.process.pid if part.state == "healthy" else None

        pid = await eventually_async(healthy, settings.devstack.startup_s, "a healthy Kafka")
        assert pid is not None
        yield pid


async def test_the_views_report_an_outage_of_kafka_and_recover(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streams.views.follower")
    kafka, web = free_ports(2)
    settings = settings_with(
        {
            "BDI_KAFKA__BROKERS": f"127.0.0.1:{kafka}",
            "BDI_STREAMS__WEB_PORT": str(web),
            "BDI_DEVSTACK__STATE_DIR": str(tmp_path / "state"),
        }
    )
    read_model = ReadModel(settings.markets)
    resets: list[int] = []
    follower = Follower(settings, read_model, lambda _role, _record: None, lambda: START, lambda: resets.append(1))

    async def shows(second: int) -> None:
        at_ms = START + second * 1_000
        await send(settings, TopicRole.FEATURES, [(KEY, encode(builders.feature_row(at_ms)))])

        async def shown() -> bool:
            row = read_model.markets[builders.SYMBOL].features
            return row is not None and row.timestamp_ms == at_ms

        await eventually_async(shown, 30, "the newest row in the read model")
        assert follower.kafka.connected

    async def reports_outage() -> bool:
        health = responses.health(read_model, follower.kafka, settings, START)
        return bool(health["state"] == health["kafka"]["state"] == "outage" and health["kafka"]["problem"])

    following: asyncio.Task[None] | None = None
    try:
        for kill in range(KILLS + 1):
            async with kafka_alone(settings, tmp_path / f"kafka-{kill}.log") as pid:
                if following is None:
                    await topics.ensure(settings)
                    following = asyncio.create_task(follower.run())
                await shows(kill)
                assert len(resets) == kill
                if kill < KILLS:
                    psutil.Process(pid).kill()
                    await eventually_async(reports_outage, 2.0, "the outage of Kafka in the health", every_s=0.02)
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    messages = [record.getMessage() for record in caplog.records]
    assert sum(text.startswith("views cannot read Kafka: ") for text in messages) == KILLS
    assert messages.count("views can read Kafka again") == KILLS
