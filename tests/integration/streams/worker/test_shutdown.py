"""A worker ends within its limit after a signal, also while Kafka does not answer."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.feed import preload, steady
from benchmarks.worker import working
from config import Settings
from devstack.state import load_state
from marketdata.topics import TopicRole
from streams.kafka import topics
from streams.kafka.records import SOURCE_OFFSET_HEADER
from tests.integration.streams.test_end_to_end import on, polled
from tests.support.stack import ExchangeUnderTest, StackUnderTest, eventually, eventually_async
from tests.support.streams_worker import everything, without_exchanges, worker

STOP_S = 8.0  # the worker's limit of 4 s, and a margin for a busy machine
BACKLOG = 150_000


async def test_a_worker_ends_while_kafka_is_suspended(
    stack: StackUnderTest, settings: Settings, start_exchange: Callable[..., ExchangeUnderTest], tmp_path: Path
) -> None:
    own = on(settings, start_exchange(speed=20.0))
    await topics.ensure(own)
    kafka = pid_of_kafka(stack)
    with worker(own, tmp_path / "worker.log") as program:

        async def collects() -> bool:
            program.check_running()
            return await polled(own, 2)

        await eventually_async(collects, 60, "two polls of every market", every_s=0.5)
        os.kill(kafka, signal.SIGSTOP)
        try:
            program.process.send_signal(signal.SIGTERM)
            eventually(lambda: program.process.poll() is not None, STOP_S, "the worker's end")
        finally:
            os.kill(kafka, signal.SIGCONT)
    assert program.process.returncode == 0


async def test_unfinished_batches_are_read_again_by_the_next_worker(
    stack: StackUnderTest, settings: Settings, tmp_path: Path
) -> None:
    """During a backlog: no later batch may be committed in place of the unfinished one."""
    own = without_exchanges(settings)
    own = own.model_copy(update={"kafka": own.kafka.model_copy(update={"partitions": 1})})
    await topics.ensure(own)
    sent = await asyncio.to_thread(preload, own, own.topic(TopicRole.TICKS).name, steady(BACKLOG))
    kafka, log = pid_of_kafka(stack), tmp_path / "worker.log"

    with working(own, log) as measured:
        program = measured.program

        def ended() -> bool:
            return program.process.poll() is not None

        eventually(lambda: measured.events().get("clean"), 60, "the first batch")
        os.kill(kafka, signal.SIGSTOP)
        try:
            program.process.send_signal(signal.SIGTERM)
            # Usually a batch is cancelled then; if the commit blocks before that, the worker exits.
            eventually(lambda: ended() or "did not finish in time" in log.read_text(), STOP_S, "a batch is cut off")
        finally:
            os.kill(kafka, signal.SIGCONT)
        eventually(ended, STOP_S, "the worker's end")
    with worker(own, tmp_path / "again.log") as program:

        async def done() -> bool:
            program.check_running()
            clean = await everything(own, TopicRole.TICKS_CLEAN)
            return bool(clean) and int(dict(clean[-1].headers)[SOURCE_OFFSET_HEADER]) == sent - 1

        await eventually_async(done, 90, "the last tick is clean", every_s=1.0)
    offsets = Counter(
        int(dict(record.headers)[SOURCE_OFFSET_HEADER]) for record in await everything(own, TopicRole.TICKS_CLEAN)
    )
    assert offsets == Counter(range(sent))


def pid_of_kafka(stack: StackUnderTest) -> int:
    state = load_state(stack.state_dir)
    assert state is not None
    process = state.parts["kafka"].process
    assert process is not None
    return process.pid
