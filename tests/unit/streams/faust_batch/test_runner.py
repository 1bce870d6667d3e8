"""Batches of a partition are handled in order, and none after a cancelled one until it is reassigned."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

from aiokafka.structs import ConsumerRecord

from config import load_settings
from streams.faust_batch.runner import BatchRunner
from streams.kafka.delivered_offsets import DeliveredOffsets
from streams.metrics import Metrics


class Gate(asyncio.Event):
    """Blocks a batch; raises `error` if set."""

    error: BaseException | None = None


class Gated:
    """An agent that records which batches began and ended; each waits for the gate of its offset."""

    def __init__(self) -> None:
        self.delivered = DeliveredOffsets(load_settings().kafka, "source", "output")
        self.began: list[int] = []
        self.ended: list[int] = []
        self.gates: dict[int, Gate] = {}

    async def handle(self, partition: int, records: Sequence[ConsumerRecord]) -> None:  # noqa: ARG002
        first = records[0].offset
        self.began.append(first)
        gate = self.gates.setdefault(first, Gate())
        await gate.wait()
        if gate.error is not None:
            raise gate.error
        self.ended.append(first)


class Known(DeliveredOffsets):
    """No outputs are delivered, and no broker is used."""

    def known(self, partition: int) -> bool:  # noqa: ARG002
        return True


class Bench:
    """A runner on a stream that the test feeds."""

    def __init__(self) -> None:
        self.agent = Gated()
        self.agent.delivered = Known(load_settings().kafka, "source", "output")
        self.tasks: list[asyncio.Task[None]] = []
        self.handled: list[tuple[int, int]] = []
        self.crashes: list[Exception] = []
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.app: Any = SimpleNamespace(
            producer=SimpleNamespace(send_error=None),
            consumer=SimpleNamespace(
                began=self.tasks.append, handled=lambda tp, offset: self.handled.append((tp.partition, offset))
            ),
            consumer_generation_id=1,
            loop=asyncio.get_running_loop(),
            worker_state=SimpleNamespace(progress={}),
            crash=self._crash,
        )
        self.runner = BatchRunner(self.app, "clean", "source", self.agent, Metrics(), now=lambda: 0.0)
        self.loop = asyncio.create_task(self.runner.run(SimpleNamespace(events=self._stream)))

    async def _crash(self, error: Exception) -> None:
        self.crashes.append(error)

    async def _stream(self) -> AsyncIterator[Any]:
        while True:
            yield await self.events.get()

    async def feed(self, partition: int, offset: int, generation: int = 1) -> None:
        record = ConsumerRecord("source", partition, offset, 0, 1, b"k", b"v", None, -1, -1, ())
        await self.events.put(SimpleNamespace(value=[record], message=SimpleNamespace(generation_id=generation)))
        await settled()

    async def open(self, offset: int) -> None:
        self.agent.gates.setdefault(offset, Gate()).set()
        await settled()


async def settled() -> None:
    """Let every task run until it blocks."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_partitions_are_handled_concurrently_and_each_in_order() -> None:
    bench = Bench()
    await bench.feed(0, 10)
    await bench.feed(1, 20)
    await bench.feed(0, 11)
    assert bench.agent.began == [10, 20]
    await bench.open(10)
    assert bench.agent.began == [10, 20, 11]
    await bench.open(11)
    await bench.open(20)
    assert bench.handled == [(0, 10), (0, 11), (1, 20)]
    bench.loop.cancel()


async def test_no_batch_follows_a_cancelled_one_until_the_partition_is_reassigned() -> None:
    bench = Bench()
    await bench.feed(0, 10)
    await bench.feed(0, 11)
    bench.tasks[0].cancel()
    await settled()
    await bench.feed(0, 12)
    await bench.feed(1, 20)
    assert bench.agent.began == [10, 20]
    bench.app.consumer_generation_id = 2
    await bench.feed(0, 13)
    assert bench.agent.began == [10, 20]  # of an old generation
    await bench.feed(0, 10, generation=2)
    assert bench.agent.began == [10, 20, 10]
    await bench.open(10)
    assert bench.handled == [(0, 10)]
    for task in [bench.loop, *bench.tasks]:
        task.cancel()


async def test_a_batch_whose_future_was_cancelled_ends_the_worker() -> None:
    bench = Bench()
    await bench.feed(0, 10)
    bench.agent.gates[10].error = asyncio.CancelledError()
    await bench.open(10)
    await bench.feed(0, 11)
    await bench.feed(1, 20)
    assert bench.agent.began == [10]
    assert bench.handled == []
    assert [str(error) for error in bench.crashes] == ["a future that the batch awaited was cancelled"]
    bench.loop.cancel()
