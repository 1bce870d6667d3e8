"""Reading a topic without a consumer group: its tail, a range, or what comes.

It must never decode or judge what it reads.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Self

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from clients.kafka.connection import client_options, close_client
from config.sections import KafkaSettings
from marketdata.errors import ConfigurationError

Offsets = Mapping[TopicPartition, int]

_POLL_MS = 500
_PATIENCE_S = 10.0  # without a record, while the broker says that there is one


class TopicReader:
    """All partitions of one topic. An async context manager."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self.topic = topic
        self._brokers = kafka.brokers
        # One topic and no group: aiokafka assigns all its partitions when it starts.
        self._consumer = AIOKafkaConsumer(
            topic, **client_options(kafka), enable_auto_commit=False, auto_offset_reset="earliest"
        )

    async def __aenter__(self) -> Self:
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as error:
            await close_client(self._consumer)
            raise ConfigurationError(f"kafka.brokers: {self._brokers}: no broker answers: {error}") from error
        if not self.partitions:
            await self.__aexit__()
            raise ConfigurationError(
                f"topic {self.topic}: it does not exist; `faust -A streams topics create` makes it"
            )
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await close_client(self._consumer)

    @property
    def partitions(self) -> list[TopicPartition]:
        return sorted(self._consumer.assignment())

    async def starts(self) -> dict[TopicPartition, int]:
        """The oldest offset of each partition."""
        found: dict[TopicPartition, int] = await self._consumer.beginning_offsets(self.partitions)
        return found

    async def ends(self) -> dict[TopicPartition, int]:
        """The offset after the newest record of each partition."""
        found: dict[TopicPartition, int] = await self._consumer.end_offsets(self.partitions)
        return found

    async def arrived(self, ms: int) -> dict[TopicPartition, int]:
        """The first offset of each partition that arrived at a time (ms) or later; its end where none did."""
        found = await self._consumer.offsets_for_times(dict.fromkeys(self.partitions, ms))
        ends = await self.ends()
        return {tp: end if found.get(tp) is None else found[tp].offset for tp, end in ends.items()}

    async def tails(self, count: int | None) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Where the last `count` records of each partition begin (all for None), and the ends."""
        starts, ends = await self.starts(), await self.ends()
        if count is None:
            return starts, ends
        return {tp: max(starts[tp], ends[tp] - count) for tp in starts}, ends

    async def backwards(self, tails: Sequence[int | None]) -> AsyncIterator[tuple[int | None, Offsets, Offsets]]:
        """Ever longer tails of each partition, each without what the one before had: its length, begin and end.

        It ends with the last of `tails` (None: the whole topic), or where the topic holds no more.
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
            ConfigurationError: the broker says that there are more and gives none.
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
            if loop.time() - last > _PATIENCE_S:
                raise ConfigurationError(f"topic {self.topic}: partitions {open_} gave nothing for {_PATIENCE_S:g} s")

    async def follow(self, froms: Offsets) -> AsyncIterator[ConsumerRecord]:
        """The records from there on, for ever."""
        for tp, offset in froms.items():
            self._consumer.seek(tp, offset)
        while True:
            for records in (await self._consumer.getmany(timeout_ms=_POLL_MS)).values():
                for record in records:
                    yield record
