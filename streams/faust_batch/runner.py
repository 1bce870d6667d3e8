"""Run an agent on its stream of batches: in order within a partition, concurrently across partitions.

A batch mostly waits for the broker, because its outputs must be delivered before its state is stored; batches of other
partitions run meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aiokafka.structs import ConsumerRecord
from faust.types import TP

from streams.kafka.delivered_offsets import DeliveredOffsets
from streams.metrics import Metrics

log = logging.getLogger(__name__)


class BatchAgent(Protocol):
    """An agent that handles batches; `handle` returns when the outputs and states of a batch are sent."""

    delivered: DeliveredOffsets

    def forget(self) -> None: ...

    async def handle(self, partition: int, records: Sequence[ConsumerRecord]) -> None: ...


class BatchRunner:
    """Runs one agent on one source topic; crashes the worker when a batch cannot be handled.

    After a failed batch no further batch is handled. After a cancelled batch, no further batch of its partition is
    handled until the partition is reassigned, which reads the cancelled batch again: outputs keep their source's order.

    Args:
        app: the `StreamsApp`.
        name: of the agent.
        topic: the source topic.
        agent: handles the batches.
        metrics: the worker's.
        now: Unix time, in seconds.
    """

    def __init__(
        self,
        app: Any,
        name: str,
        topic: str,
        agent: BatchAgent,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._name = name
        self._topic = topic
        self._agent = agent
        self._metrics = metrics
        self._now = now
        self._running: dict[int, tuple[asyncio.Task[None], int]] = {}  # newest batch of a partition, and its generation
        self._cut_off: dict[int, int] = {}  # partition to the generation of its cancelled batch
        self._loading = asyncio.Lock()
        self._failed = False

    async def run(self, stream: Any) -> None:
        """Handle batches until the stream ends; the coroutine of the Faust agent."""
        async for event in stream.events():
            partition, generation = event.value[0].partition, event.message.generation_id
            await self._wait_for(partition)
            if self._failed or self._app.producer.send_error is not None:
                continue
            if generation != self._app.consumer_generation_id or self._cut_off.get(partition) == generation:
                continue
            # Faust's tables read the current event from the task's context.
            task = asyncio.create_task(self._handle(event), name=f"{self._name}-{partition}")
            self._running[partition] = task, generation
            self._app.consumer.began(task)

    async def _wait_for(self, partition: int) -> None:
        """Wait until the partition's previous batch has ended, successfully or not."""
        task, generation = self._running.pop(partition, (None, 0))
        if task is None:
            return
        await asyncio.wait([task])
        if task.cancelled():
            self._cut_off[partition] = generation

    async def _handle(self, event: Any) -> None:
        records: list[ConsumerRecord] = event.value
        partition, last = records[0].partition, records[-1].offset
        delivered = self._agent.delivered
        try:
            with self._metrics.agent_seconds.labels(self._name).time():
                if not delivered.known(partition):
                    await self._load(partition)
                await self._agent.handle(partition, records)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Raised inside the batch, as by an aiokafka client that closes; this task itself was not cancelled.
            await self._fail(records[0], RuntimeError("a future that the batch awaited was cancelled"))
            return
        except Exception as error:  # noqa: BLE001  logged, and crashes the worker
            await self._fail(records[0], error)
            return
        self._app.consumer.handled(TP(self._topic, partition), last)
        self._metrics.delivered(self._name, records[0], self._now())
        self._app.worker_state.progress[self._name] = self._app.loop.time()

    async def _fail(self, first: ConsumerRecord, error: Exception) -> None:
        self._failed = True
        log.error("agent %s failed at %s-%d@%d", self._name, self._topic, first.partition, first.offset, exc_info=error)
        await self._app.crash(error)

    async def _load(self, partition: int) -> None:
        async with self._loading:
            if not self._agent.delivered.known(partition):
                assigned = [tp.partition for tp in self._app.consumer.assignment() if tp.topic == self._topic]
                await self._agent.delivered.load(sorted(assigned))
