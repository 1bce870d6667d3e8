"""Where `raw` continues: the offsets of its checkpoint, compared with those that the topics have.

Retention may have deleted records that were not stored, and a recreated topic ends before the stored offset. Spark
stops then, at every start. `raw` names what is missing in one line, and continues without it only on request.

The checkpoint's files are those of Spark's OffsetSeqLog, CommitLog and KafkaSourceInitialOffsetWriter.
"""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaError

from batch.hdfs.store import Store
from batch.tables.lost_ranges import LostRange, file_of, record_lost_ranges
from clients.kafka.reader import TopicReader
from clients.webhdfs import WebHdfs
from config import Settings
from config.sections import KafkaSettings
from marketdata.errors import BrokerError, StorageError
from marketdata.times import to_rfc3339

_log = logging.getLogger(__name__)

EARLIEST = "earliest"
OPTION = "--from-earliest-available"
_SHOWN = 4
Offsets = dict[tuple[str, int], int]
Ranges = Mapping[tuple[str, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Lost:
    """A partition whose next records to store are not on its topic.

    Attributes:
        topic, partition: of the records.
        wanted: the offset to continue at.
        start, end: the topic's offsets (end exclusive); None if the partition does not exist.
    """

    topic: str
    partition: int
    wanted: int
    start: int | None
    end: int | None
    planned: int | None = None

    @property
    def is_deleted(self) -> bool:
        """True if retention deleted the records, False if the topic was recreated."""
        return self.start is not None and self.wanted < self.start

    @property
    def text(self) -> str:
        wanted = self.wanted if self.planned is None else self.planned
        where = f"{self.topic}, partition {self.partition}: wanted offset {wanted}"
        if self.start is None or self.end is None:
            return f"{where}, but there is no such partition"
        if self.is_deleted:
            return f"{where}, available {self.start} to {self.end}: {self.start - self.wanted} records were deleted"
        return f"{where}, available {self.start} to {self.end}: the topic was recreated"

    def as_range(self, now_ms: int) -> LostRange:
        return LostRange(
            topic=self.topic,
            partition=self.partition,
            from_offset=self.wanted,
            to_offset=self.start if self.is_deleted else None,
            recorded_at=to_rfc3339(now_ms),
        )


def checkpoint_of(settings: Settings) -> str:
    """Return the folder of Spark's checkpoint."""
    return f"{settings.hdfs.checkpoints}/raw"


def stored_offsets(client: WebHdfs, checkpoint: str) -> tuple[Offsets, Offsets]:
    """Return the offsets at which the checkpoint continues, and the ends of a batch that was begun; empty if none.

    Raises:
        StorageError: a file of the checkpoint cannot be read.
    """
    begun = _newest(client, f"{checkpoint}/offsets")
    committed = _newest(client, f"{checkpoint}/commits")
    planned = {} if begun is None else _offsets(client, f"{checkpoint}/offsets/{begun}")
    if committed is not None:
        return _offsets(client, f"{checkpoint}/offsets/{committed}"), planned
    first = f"{checkpoint}/sources/0/0"
    return (_offsets(client, first) if client.exists(first) else {}), planned


def _newest(client: WebHdfs, folder: str) -> int | None:
    names = [file.path.rpartition("/")[2] for file in client.files(folder)]
    return max((int(name) for name in names if name.isdecimal()), default=None)


def parse_offsets(document: Mapping[str, Mapping[str, Any]]) -> Offsets:
    """Return the offsets by topic and partition of Spark's `{"TOPIC": {"PARTITION": OFFSET}}`."""
    return {(topic, int(number)): int(at) for topic, known in document.items() for number, at in known.items()}


def _offsets(client: WebHdfs, path: str) -> Offsets:
    """Read the last line, `{"TOPIC": {"PARTITION": OFFSET}}`; the lines before are a version and Spark's metadata."""
    try:
        return parse_offsets(json.loads(client.read(path).splitlines()[-1]))
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise StorageError(f"{path}: expected offsets written by Spark: {error!r}") from error


async def available_offsets(kafka: KafkaSettings, topics: Iterable[str]) -> Ranges:
    """Return the first and the end offset (exclusive) of each partition of the topics.

    Raises:
        BrokerError: no broker answers, or a topic does not exist.
    """
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for topic in topics:
        async with TopicReader(kafka, topic) as reader:
            starts, ends = await reader.starts(), await reader.ends()
        found.update({(topic, tp.partition): (starts[tp], ends[tp]) for tp in starts})
    return found


def find_lost(wanted: Offsets, planned: Offsets, available: Ranges) -> list[Lost]:
    """Return the partitions that cannot continue where the checkpoint ends, sorted.

    Args:
        wanted: where to continue.
        planned: ends of a batch that was begun; a topic that ends before was recreated, too.
        available: first and end offset of each partition.
    """
    lost = []
    for (topic, partition), offset in sorted(wanted.items()):
        start, end = available.get((topic, partition), (None, None))
        if start is None or end is None or not start <= offset <= end:
            lost.append(Lost(topic, partition, offset, start, end))
        elif planned.get((topic, partition), offset) > end:
            lost.append(Lost(topic, partition, offset, start, end, planned[topic, partition]))
    return lost


def refusal(lost: list[Lost]) -> str:
    """Return the line that names what is lost, and the command that continues without it."""
    more = f" (and {len(lost) - _SHOWN} more partitions)" if len(lost) > _SHOWN else ""
    return (
        f"{'; '.join(one.text for one in lost[:_SHOWN])}{more}. Nothing was changed. To continue without these records,"
        f" and record the loss: python -m batch raw {OPTION}"
    )


class RawPosition:
    """The position of `raw` on its topics; each method reads it again.

    Args:
        client: reads the checkpoint, and records what is lost.
        settings: brokers, HDFS.
        topics: that `raw` reads.
    """

    def __init__(self, client: WebHdfs, settings: Settings, topics: Sequence[str]) -> None:
        self._client = client
        self._settings = settings
        self._topics = topics

    def require_available(self) -> None:
        """Check that the topics have the next records, as far as they can be asked.

        Raises:
            StorageError: a topic does not have them.
        """
        try:
            _wanted, _available, lost = self._read()
        except (BrokerError, KafkaError, StorageError) as error:
            _log.debug("the position on the topics cannot be read: %s", error)
            return
        if lost:
            raise StorageError(refusal(lost))

    def starting_offsets(self, store: Store, now_ms: int, *, from_earliest: bool) -> str:
        """Return Spark's `startingOffsets`, which apply if there is no checkpoint. The caller holds raw_data's lease.

        Args:
            store: renames the checkpoint.
            now_ms: event time.
            from_earliest: if records are lost, record that and set the checkpoint aside. Partitions with lost records
                are read from their start, the others from their stored offset. A crash in between loses nothing more:
                without a checkpoint all partitions are read from their start, and the merge keeps each tick once.

        Raises:
            StorageError: records are lost and `from_earliest` is False, or HDFS failed.
            BrokerError: no broker answers.
        """
        wanted, available, lost = self._read()
        if not lost:
            if from_earliest:
                _log.info("no record is lost; continuing where the last batch ended")
            return EARLIEST
        if not from_earliest:
            raise StorageError(refusal(lost))
        for one in lost:
            _log.warning("lost: %s", one.text)
        hdfs = self._settings.hdfs
        record_lost_ranges(self._client, hdfs, [one.as_range(now_ms) for one in lost])
        aside = store.set_aside(checkpoint_of(self._settings))
        _log.warning("recorded in %s; the checkpoint is set aside as %s", file_of(hdfs), aside)
        unusable = {(one.topic, one.partition) for one in lost}
        starting: dict[str, dict[str, int]] = {}
        for (topic, partition), (start, _end) in available.items():
            usable = (topic, partition) in wanted and (topic, partition) not in unusable
            starting.setdefault(topic, {})[str(partition)] = wanted[topic, partition] if usable else start
        return json.dumps(starting)

    def _read(self) -> tuple[Offsets, Ranges, list[Lost]]:
        wanted, planned = stored_offsets(self._client, checkpoint_of(self._settings))
        if not wanted:
            return {}, {}, []
        available = asyncio.run(available_offsets(self._settings.kafka, self._topics))
        return wanted, available, find_lost(wanted, planned, available)
