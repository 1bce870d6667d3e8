"""A worker ends when it is told to, also while Kafka does not answer."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from config import Settings
from devstack.state import load_state
from streams import topics
from tests.integration.streams_support import worker
from tests.integration.test_streams_end_to_end import on, polled
from tests.stack import ExchangeUnderTest, StackUnderTest, eventually, eventually_async

STOP_S = 8.0  # the worker's own 4 s, and what a busy machine adds


async def test_a_worker_ends_while_kafka_stands_still(
    stack: StackUnderTest, settings: Settings, start_exchange: Callable[..., ExchangeUnderTest], tmp_path: Path
) -> None:
    own = on(settings, start_exchange(speed=20.0))
    await topics.ensure(own)
    state = load_state(stack.state_dir)
    assert state is not None
    kafka = state.parts["kafka"].process
    assert kafka is not None
    with worker(own, tmp_path / "worker.log") as program:

        async def collects() -> bool:
            program.check_running()
            return await polled(own, 2)

        await eventually_async(collects, 60, "two polls of every market", every_s=0.5)
        os.kill(kafka.pid, signal.SIGSTOP)
        try:
            program.process.send_signal(signal.SIGTERM)
            eventually(lambda: program.process.poll() is not None, STOP_S, "the worker's end")
        finally:
            os.kill(kafka.pid, signal.SIGCONT)
    assert program.process.returncode == 0
