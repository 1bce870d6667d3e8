"""Reading a topic without a consumer group: its tail, a range of offsets, or new records."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Self, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

from clients.kafka.connection import GRACEFUL_CLOSE_S, client_options, close_client, connect
from clients.kafka.topics import partition_of, wait_for_topics
from config.sections import KafkaSettings
from marketdata.codec import decode
from marketdata.errors import BrokerError, DecodeError
from marketdata.records import Record
from marketdata.vocabulary import Reason

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)
Offsets = Mapping[TopicPartition, int]
SkippedRecords = Callable[[str, Mapping[str, int]], None]
"""Called with a topic and the number of its skipped records by reason."""

_POLL_MS = 500
_METADATA_MS = 10_000  # after which a reader that follows notices new partitions
_STALLED_S = 10.0  # timeout without a record while the broker reports more


def ignore_skipped(_topic: str, _skipped: Mapping[str, int]) -> None:
    """Do nothing: for readers whose log is enough."""


def read_record(
    cls: type[R],
    raw: ConsumerRecord,
    *,
    check: Callable[[R], object] = lambda _record: None,
    skip_level: int = logging.DEBUG,
    skipped: Counter[str] | None = None,
) -> R | None:
    """Decode one record and check it; return None for a record to skip, so that none ends its reader.

    Args:
        cls: the record type.
        raw: from Kafka.
        check: raises `DecodeError` for a record that breaks a rule.
        skip_level: the level at which a skipped record is logged; an unexpected error is logged as an error.
        skipped: counts skipped records by reason.
    """
    reason = Reason.UNEXPECTED
    try:
        record = decode(cls, raw.value)
        check(record)
    except DecodeError as error:
        reason = error.reason
        log.log(skip_level, "skipped %s-%d@%d: %s", raw.topic, raw.partition, raw.offset, error)
    except Exception:
        log.exception("skipped %s-%d@%d: unexpected error", raw.topic, raw.partition, raw.offset)
    else:
        return record
    if skipped is not None:
        skipped[reason] += 1
    return None


class TopicReader:
    """All partitions of one topic, or the one that a key goes to. An async context manager.

    `skipped` counts the records that `decoded` skipped, by reason.

    Args:
        kafka: where the topic is.
        topic: its name.
        key: read only the partition to which producers send records with this key.
        wait_s: how long to wait for the broker and the topic, in seconds; 0: one attempt.
        close_s: graceful-close timeout, in seconds.
        on_skipped: called when the reader is closed, if it skipped records.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        topic: str,
        *,
        key: bytes | None = None,
        wait_s: float = 0.0,
        close_s: float = GRACEFUL_CLOSE_S,
        on_skipped: SkippedRecords = ignore_skipped,
    ) -> None:
        self.topic = topic
        self.partitions: list[TopicPartition] = []
        self.skipped: Counter[str] = Counter()
        self._kafka = kafka
        self._key = key
        self._wait_s = wait_s
        self._close_s = close_s
        self._on_skipped = on_skipped
        self._consumer: AIOKafkaConsumer

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            BrokerError: no broker answers, or the topic does not exist, within `wait_s`.
        """
        # A consumer that subscribes to a missing topic retries for 40 s, so its partitions are looked up first.
        found = await wait_for_topics(self._kafka, [self.topic], self._wait_s, close_s=self._close_s)
        self.partitions = self._wanted(found[self.topic])
        options = {
            **client_options(self._kafka),
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "metadata_max_age_ms": _METADATA_MS,
        }
        self._consumer = await connect(
            self._kafka, lambda: AIOKafkaConsumer(**options), wait_s=self._wait_s, close_s=self._close_s
        )
        self._consumer.assign(self.partitions)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if self.skipped:
            self._on_skipped(self.topic, self.skipped)
        await close_client(self._consumer, self._close_s)

    def _wanted(self, numbers: Sequence[int]) -> list[TopicPartition]:
        """The partitions to read, out of a topic's sorted partition numbers."""
        chosen = numbers if self._key is None else [partition_of(self._key, numbers)]
        return [TopicPartition(self.topic, number) for number in chosen]

    async def starts(self) -> dict[TopicPartition, int]:
        """The oldest offset of each partition."""
        found: dict[TopicPartition, int] = await self._consumer.beginning_offsets(self.partitions)
        return found

    async def ends(self) -> dict[TopicPartition, int]:
        """The offset after the newest record of each partition."""
        found: dict[TopicPartition, int] = await self._consumer.end_offsets(self.partitions)
        return found

    async def arrived(self, ms: int) -> dict[TopicPartition, int]:
        """The first offset of each partition whose record arrived at `ms` or later; the partition's end if none did."""
        found = await self._consumer.offsets_for_times(dict.fromkeys(self.partitions, ms))
        ends = await self.ends()
        return {tp: end if found.get(tp) is None else found[tp].offset for tp, end in ends.items()}

    async def tails(self, count: int | None) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """The offset at which the last `count` records of each partition begin (None: all), and the partition's end."""
        starts, ends = await self.starts(), await self.ends()
        if count is None:
            return starts, ends
        return {tp: max(starts[tp], ends[tp] - count) for tp in starts}, ends

    async def backwards(self, tails: Sequence[int | None]) -> AsyncIterator[tuple[int | None, Offsets, Offsets]]:
        """Ever longer tails of each partition, each without the records of the tail before: length, begin and end.

        Ends after the last of `tails` (None: the whole topic), or at the beginning of the topic.
        """
        starts, ends = await self.tails(None)
        upto = ends
        for tail in tails:
            froms = starts if tail is None else {tp: max(starts[tp], ends[tp] - tail) for tp in ends}
            yield tail, froms, upto
            if froms == starts:
                return
            upto = froms

    async def between(self, froms: Offsets, ends: Offsets) -> AsyncIterator[ConsumerRecord]:
        """The records of [from, end) of each partition, in order within each.

        Raises:
            BrokerError: no record comes for 10 s although the broker reports more.
        """
        position = dict(froms)
        for tp, offset in froms.items():
            self._consumer.seek(tp, offset)
        loop = asyncio.get_running_loop()
        last = loop.time()
        while open_ := [tp for tp in position if position[tp] < ends[tp]]:
            batches = await self._consumer.getmany(*open_, timeout_ms=_POLL_MS)
            for tp, records in batches.items():
                last = loop.time()
                position[tp] = records[-1].offset + 1
                for record in records:
                    if record.offset < ends[tp]:
                        yield record
            if loop.time() - last > _STALLED_S:
                raise BrokerError(f"topic {self.topic}: no record from partitions {open_} for {_STALLED_S:g} s")

    async def decoded(
        self,
        cls: type[R],
        froms: Offsets,
        ends: Offsets,
        *,
        check: Callable[[R], object] = lambda _record: None,
        skip_level: int = logging.DEBUG,
    ) -> AsyncIterator[tuple[ConsumerRecord, R]]:
        """As `between`, with decoded values; see `read_record` for the records that are skipped."""
        async for raw in self.between(froms, ends):
            record = read_record(cls, raw, check=check, skip_level=skip_level, skipped=self.skipped)
            if record is not None:
                yield raw, record

    async def follow(self, froms: Offsets) -> AsyncIterator[ConsumerRecord]:
        """The records from these offsets on, without end; those of partitions added meanwhile from their start."""
        position = dict(froms)
        for tp, offset in froms.items():
            self._consumer.seek(tp, offset)
        while True:
            for tp, records in (await self._consumer.getmany(timeout_ms=_POLL_MS)).items():
                for record in records:
                    yield record
                position[tp] = records[-1].offset + 1
            self._add_partitions(position)

    def _add_partitions(self, position: dict[TopicPartition, int]) -> None:
        """Read partitions that were added to the topic, in addition to those at `position`."""
        numbers = self._consumer.partitions_for_topic(self.topic) or ()
        added = [tp for tp in self._wanted(sorted(numbers)) if tp not in self.partitions] if numbers else []
        if not added:
            return
        log.info("topic %s: partitions %s were added", self.topic, ", ".join(str(tp.partition) for tp in added))
        self.partitions += added
        self._consumer.assign(self.partitions)  # an assignment discards the positions
        position.update(dict.fromkeys(added, 0))
        for tp, offset in position.items():
            self._consumer.seek(tp, offset)
