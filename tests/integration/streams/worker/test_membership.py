"""A worker that lost its group membership stops, because it no longer owns its partitions."""

import signal
from collections import Counter
from pathlib import Path

from config import Settings
from marketdata.records import FeatureRow, Tick
from marketdata.topics import TopicRole
from streams.kafka import topics
from tests.integration.streams.agents.test_agents import are_through, keyed, walk
from tests.support.stack import Program, eventually, eventually_async
from tests.support.streams_worker import (
    REFUSING_ASSIGNMENT,
    are_ready,
    assert_features,
    decoded,
    one_of_many,
    send,
    without_exchanges,
    worker,
)


def wait_ended(program: Program) -> None:
    eventually(lambda: program.process.poll() is not None, 30, "the worker's end")


async def test_a_worker_that_cannot_join_its_group_ends(settings: Settings, tmp_path: Path) -> None:
    own = without_exchanges(settings)
    await topics.ensure(own)
    with worker(own, tmp_path / "worker.log", faust=REFUSING_ASSIGNMENT) as program:
        wait_ended(program)
    assert program.process.returncode == 1
    assert "stopping the worker: it lost its group membership" in program.output()


async def test_a_suspended_worker_ends_when_it_resumes(settings: Settings, tmp_path: Path) -> None:
    own = without_exchanges(settings)
    await topics.ensure(own)
    ticks = walk(6_000, seed=4)
    sleeper, other = (one_of_many(own, number, tmp_path) for number in range(2))
    with (
        worker(sleeper, tmp_path / "sleeper.log") as stopped,
        worker(other, tmp_path / "other.log") as living,
    ):
        await are_ready([sleeper, other])
        await send(own, TopicRole.TICKS, keyed(ticks[:3_000]))
        await eventually_async(lambda: are_through(own, ticks[:3_000]), 60, "the first half is through")
        stopped.process.send_signal(signal.SIGSTOP)
        await send(own, TopicRole.TICKS, keyed(ticks[3_000:]))
        await eventually_async(lambda: are_through(own, ticks), 60, "all ticks are through without the sleeper")
        stopped.process.send_signal(signal.SIGCONT)
        wait_ended(stopped)
        assert stopped.process.returncode == 1
        assert "process suspended for" in stopped.output()
        living.check_running()
    clean = await decoded(own, TopicRole.TICKS_CLEAN, Tick)
    assert Counter(tick.tick_id for tick in clean) == Counter(tick.tick_id for tick in ticks)
    assert_features(await decoded(own, TopicRole.FEATURES, FeatureRow), ticks)
