"""Find the source offset up to which an agent's outputs are already on its output topic.

An agent sends its outputs before it stores the state that suppresses their replay, so after a crash between the two it
reads records again whose outputs already exist. Each output record carries its source offset as a header, and outputs
keep the partition and order of their source. The last record of an output partition therefore gives the source offset
up to which outputs exist, and a replay does not send those again. This needs no transactions.
"""

import logging
from collections.abc import Iterable

from clients.kafka.reader import TopicReader
from config.sections import KafkaSettings
from streams.kafka.records import NO_OFFSET, source_offset

log = logging.getLogger(__name__)

# Records to read from the end, until one of each partition carries the header; republished dead letters have none.
_TAILS = (200, 5_000, 200_000)


class DeliveredOffsets:
    """Per partition, the newest source offset whose output is on the output topic, and the end of the source topic.

    Call `load` for a partition after it was assigned, before its first batch.
    """

    def __init__(self, kafka: KafkaSettings, source: str, output: str) -> None:
        self._kafka = kafka
        self._source = source
        self._output = output
        self._delivered: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._warned: set[int] = set()

    def forget(self) -> None:
        """Discard everything: partitions were reassigned."""
        self._delivered.clear()
        self._ends.clear()
        self._warned.clear()

    def known(self, partition: int) -> bool:
        return partition in self._delivered

    def delivered(self, partition: int) -> int:
        """Return the newest source offset whose output is on the output topic; -1 for none."""
        return self._delivered[partition]

    def trusted(self, partition: int, offset: int) -> int:
        """Return a source offset stored before the assignment, or -1 if the source ended before it at the assignment.

        Then the topic was recreated. The end at the assignment is compared, not the current one: as the new topic
        grows past a stored offset, that offset would suppress new records. There is one warning per partition.
        """
        end = self._ends[partition]
        if offset < end:
            return offset
        if partition not in self._warned:
            self._warned.add(partition)
            log.warning(
                "%s: partition %d ended at %d when it was assigned, but stored states or outputs on %s refer to its"
                " offset %d: the topic was recreated, and its records are handled from the start",
                self._source,
                partition,
                end,
                self._output,
                offset,
            )
        return NO_OFFSET

    async def load(self, partitions: Iterable[int]) -> None:
        """Read the source's ends and the tails of the output's partitions.

        Raises:
            ConfigurationError: no broker answers.
        """
        async with TopicReader(self._kafka, self._source) as reader:
            ends = {tp.partition: end for tp, end in (await reader.ends()).items()}
        async with TopicReader(self._kafka, self._output) as reader:
            newest = await _newest(reader)
        for partition in partitions:
            last = newest.get(partition, NO_OFFSET)
            self._ends[partition] = ends[partition]
            self._delivered[partition] = self.trusted(partition, last)


async def _newest(reader: TopicReader) -> dict[int, int]:
    """Return each partition's newest source offset among its last records."""
    found: dict[int, int] = {}
    async for _, froms, ends in reader.backwards(_TAILS):
        lacking = {tp: first for tp, first in froms.items() if tp.partition not in found}
        async for record in reader.between(lacking, ends):
            offset = source_offset(record.headers)
            if offset is not None:
                found[record.partition] = max(found.get(record.partition, NO_OFFSET), offset)
        if all(tp.partition in found for tp in froms):
            break
    return found
