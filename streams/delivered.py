"""How far an output topic already answers its source, as the output itself tells.

An agent sends its outputs before it stores the state that suppresses their replay, so a crash between the two makes it
read records again whose outputs are already there. Each output record carries its source's offset as a header, outputs
keep their source's partition and order, and so the last record of an output partition says up to where the source is
answered: what a replay computes for offsets up to there is not sent again. This needs no transactions.

It must never know what the records mean.
"""

import logging
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

from config.settings import KafkaSettings
from streams.kafka import client_options

log = logging.getLogger(__name__)

HEADER = "source-offset"
NOTHING = -1

_TAIL = 200  # records looked at from the end for one that carries the header
_READ_TIMEOUT_MS = 5_000


def header(offset: int) -> tuple[tuple[str, bytes], ...]:
    """The headers of an output record whose source record stands at `offset`."""
    return ((HEADER, str(offset).encode()),)


class DeliveredOffsets:
    """Per partition: the newest source offset whose output is on the output topic, and the end of the source topic.

    `load` is called once for each partition after it was assigned, before its first batch.
    """

    def __init__(self, kafka: KafkaSettings, source: str, output: str) -> None:
        self._kafka = kafka
        self._source = source
        self._output = output
        self._delivered: dict[int, int] = {}
        self._ends: dict[int, int] = {}

    def forget(self) -> None:
        """Partitions moved: what is known is no longer sure."""
        self._delivered.clear()
        self._ends.clear()

    def known(self, partition: int) -> bool:
        return partition in self._delivered

    def delivered(self, partition: int) -> int:
        """Outputs of source offsets up to this one are there already; -1 for none."""
        return self._delivered[partition]

    def trusted(self, partition: int, offset: int) -> int:
        """A source offset found in a state, or -1 when the source has never come that far: it was created anew."""
        return offset if offset < self._ends[partition] else NOTHING

    async def load(self, partitions: Iterable[int]) -> None:
        """Read the tail of the output's partitions.

        Raises:
            KafkaError: the broker does not answer.
        """
        wanted = list(partitions)
        consumer = AIOKafkaConsumer(**client_options(self._kafka), enable_auto_commit=False)
        await consumer.start()
        try:
            outputs = [TopicPartition(self._output, partition) for partition in wanted]
            sources = [TopicPartition(self._source, partition) for partition in wanted]
            consumer.assign(outputs)
            ends = await consumer.end_offsets(outputs + sources)
            starts = await consumer.beginning_offsets(outputs)
            for output, source in zip(outputs, sources, strict=True):
                last = await self._last(consumer, output, starts[output], ends[output])
                self._ends[source.partition] = ends[source]
                self._delivered[source.partition] = self.trusted(source.partition, last)
                if last != self._delivered[source.partition]:
                    log.warning(
                        "%s: partition %d ends at %d before %s says it was read (%d): taken for a new topic",
                        self._source,
                        source.partition,
                        ends[source],
                        self._output,
                        last,
                    )
        finally:
            await consumer.stop()

    async def _last(self, consumer: Any, tp: TopicPartition, start: int, end: int) -> int:
        position = max(start, end - _TAIL)
        newest = NOTHING
        consumer.pause(*[other for other in consumer.assignment() if other != tp])
        consumer.resume(tp)
        consumer.seek(tp, position)
        while position < end:
            found: list[ConsumerRecord] = (await consumer.getmany(tp, timeout_ms=_READ_TIMEOUT_MS)).get(tp, [])
            if not found:
                log.warning("%s: partition %d gave nothing from %d to %d", self._output, tp.partition, position, end)
                break
            for record in found:
                newest = max([newest, *(int(value) for key, value in record.headers if key == HEADER)])
            position = found[-1].offset + 1
        return newest
