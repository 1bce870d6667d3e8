"""How far an output topic already answers its source, as the output itself tells.

An agent sends its outputs before it stores the state that suppresses their replay, so a crash between the two makes it
read records again whose outputs are already there. Each output record carries its source's offset as a header, outputs
keep their source's partition and order, and so the last record of an output partition says up to where the source is
answered: what a replay computes for offsets up to there is not sent again. This needs no transactions.

It must never know what the records mean.
"""

import logging
from collections.abc import Iterable

from clients.kafka.reader import TopicReader
from config.sections import KafkaSettings

log = logging.getLogger(__name__)

HEADER = "source-offset"
NOTHING = -1

# Records looked at from the end, until one of each partition carries the header: those sent back by hand do not.
_TAILS = (200, 5_000, 200_000)


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

    def read(self, partition: int, offset: int) -> None:
        """A source record was read: the source's end is after it."""
        self._ends[partition] = max(self._ends[partition], offset + 1)

    def trusted(self, partition: int, offset: int) -> int:
        """A source offset found in a state, or -1 when the source has never come that far: it was created anew."""
        return offset if offset < self._ends[partition] else NOTHING

    async def load(self, partitions: Iterable[int]) -> None:
        """Read the tail of the output's partitions.

        Raises:
            ConfigurationError: the broker does not answer.
        """
        async with TopicReader(self._kafka, self._source) as reader:
            ends = {tp.partition: end for tp, end in (await reader.ends()).items()}
        async with TopicReader(self._kafka, self._output) as reader:
            newest = await _newest(reader)
        for partition in partitions:
            last = newest.get(partition, NOTHING)
            self._ends[partition] = ends[partition]
            self._delivered[partition] = self.trusted(partition, last)
            if last != self._delivered[partition]:
                log.warning(
                    "%s: partition %d ends at %d, before %s says it was read (%d): taken for a new topic",
                    self._source,
                    partition,
                    ends[partition],
                    self._output,
                    last,
                )


async def _newest(reader: TopicReader) -> dict[int, int]:
    """Partition to the newest source offset that its last records carry."""
    found: dict[int, int] = {}
    async for _, froms, ends in reader.backwards(_TAILS):
        lacking = {tp: first for tp, first in froms.items() if tp.partition not in found}
        async for record in reader.between(lacking, ends):
            for key, value in record.headers:
                if key == HEADER:
                    found[record.partition] = max(found.get(record.partition, NOTHING), int(value))
        if all(tp.partition in found for tp in froms):
            break
    return found
