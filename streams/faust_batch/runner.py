"""Runs an agent on its stream of batches: one after another in a partition, those of several partitions at once.

What a batch waits for is the broker (its outputs must be delivered before its state is stored), so batches of other
partitions are worked on meanwhile. It must never know what an agent does with a batch.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from aiokafka.structs import ConsumerRecord
from faust.types import TP

from streams.faust_batch.delivered_offsets import DeliveredOffsets
from streams.metrics import Metrics

log = logging.getLogger(__name__)


class BatchAgent(Protocol):
    """What is run. `handle` returns when outputs and states of a batch are sent."""

    delivered: DeliveredOffsets

    async def handle(self, partition: int, records: Sequence[ConsumerRecord]) -> None: ...


class BatchRunner:
    """One agent on one source topic; ends the worker when a batch cannot be handled.

    What comes after a batch that failed is not handled any more, nor what comes after one that was cut off before its
    partition was given anew (which reads it again): nothing may be answered before it is.
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
        self._running: dict[int, tuple[asyncio.Task[None], int]] = {}  # the newest of a partition, and its generation
        self._cut_off: dict[int, int] = {}  # partition to the generation in which a batch of it was
        self._loading = asyncio.Lock()
        self._failed = False

    async def run(self, stream: Any) -> None:
        """The agent's coroutine."""
        async for event in stream.events():
            partition, generation = event.value[0].partition, event.message.generation_id
            await self._wait_for(partition)
            if self._failed or self._app.producer.send_error is not None:
                continue
            if generation != self._app.consumer_generation_id or self._cut_off.get(partition) == generation:
                continue
            # The task has the event in its context and as its argument: Faust's tables ask for it.
            task = asyncio.create_task(self._handle(event), name=f"{self._name}-{partition}")
            self._running[partition] = task, generation
            self._app.consumer.began(task)

    async def _wait_for(self, partition: int) -> None:
        """Until the batch before is done, in one way or another."""
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
                delivered.read(partition, last)
                await self._agent.handle(partition, records)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # From within, as aiokafka does where a client ends: nobody meant this batch to be cut off.
            await self._fail(records[0], RuntimeError("what the batch waited for was cancelled"))
            return
        except Exception as error:  # noqa: BLE001  told, and the end of the worker
            await self._fail(records[0], error)
            return
        self._app.consumer.handled(TP(self._topic, partition), last)
        self._metrics.delivered(self._name, records[0], self._now())
        self._app.worker_state.progress[self._name] = self._app.loop.time()

    async def _fail(self, first: ConsumerRecord, error: Exception) -> None:
        self._failed = True
        log.error("%s stops at %s-%d@%d", self._name, self._topic, first.partition, first.offset, exc_info=error)
        await self._app.crash(error)

    async def _load(self, partition: int) -> None:
        async with self._loading:
            if not self._agent.delivered.known(partition):
                assigned = [tp.partition for tp in self._app.consumer.assignment() if tp.topic == self._topic]
                await self._agent.delivered.load(sorted(assigned))
