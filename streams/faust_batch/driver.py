"""Transport driver for Faust with one event per partition and poll, at the speed of aiokafka's batches.

Faust 0.15.3 spends 86-300 µs on every message. Here its aiokafka driver is subclassed: for each of the transport's
`batch_topics`, the consumer yields one event per (partition, poll), whose value is the list of raw records; a table
collects its changelog records and sends them as one record batch per event (`streams.faust_batch.table`); the producer
sends many records at once (`streams.faust_batch.producer`). Rebalancing, recovery, streams and commits remain Faust's.

An agent on a batch topic must catch errors of single records; deliver its outputs before it stores the state that
suppresses their replay; skip records that are not newer than the offset in that state; declare a batch `handled` once
its outputs and states are sent, because only handled batches are committed; and handle no further batch after one that
failed.

Names with an underscore belong to Faust: `PINNED` lists them, and a test checks them against the installed version.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from typing import Any

from aiokafka.structs import ConsumerRecord
from faust.serializers.schemas import Schema
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from streams.faust_batch.consumer_thread import GATHER_MS, BatchConsumerThread
from streams.faust_batch.producer import BatchProducer

FAUST_VERSION = "0.15.3"
PINNED: dict[str, tuple[str, ...]] = {
    "faust.transport.drivers.aiokafka.Consumer": (
        "getmany",
        "_wait_next_records",
        "_add_gap",
        "_new_offset",
        "_commit",
        "perform_seek",
        "seek",
        "seek_wait",
        "earliest_offsets",
        "highwaters",
        "assignment",
        "wait_empty",
        "commit_and_end_transactions",
        "_new_consumer_thread",
        "on_partitions_revoked",
        "_to_message",
        "highwater",
    ),
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread": ("_create_worker_consumer", "verify_event_path"),
    "faust.transport.drivers.aiokafka.Producer": ("on_start", "_ensure_producer", "_settings_extra", "key_partition"),
    "faust.App": ("on_rebalance_end", "consumer_generation_id", "rebalancing"),
    "faust.tables.recovery.Recovery": (
        "_generation_id",
        "_build_offsets",
        "_wait",
        "tp_to_table",
        "active_offsets",
        "standby_offsets",
    ),
    "faust.tables.TableManager": ("recovery",),
    "faust.stores.rocksdb.Store": ("_dbs", "partition_path"),
    "faust.tables.Table": ("on_key_set", "on_key_del", "partition_for_key", "changelog_topic_name"),
    "faust.serializers.schemas.Schema": ("compile",),
}
"""Faust class to its names that are overridden or called here."""

# Maximum wait for batches in progress; unfinished batches are read again by the partition's next owner.
_STOP_WAIT_S = 2.0
_REBALANCE_WAIT_S = 30.0


class BatchConsumer(driver.Consumer):
    """Yields one message per (partition, poll) for batch topics; other topics take Faust's own path.

    The message's offset is that of the batch's last record, its value the list of raw records.

    Faust acknowledges events that a stream skipped during a rebalance and events whose agent raised, drops records
    fetched while its flow is stopped, and does not seek back on partitions without a committed offset. For batch topics
    this class therefore keeps its own offsets: it commits what agents declared `handled`, and it tracks the next offset
    to yield, so that a fetch that begins after that offset is read again from there. After a rebalance Faust seeks,
    fetches, and only then empties the agents' queues: nothing is yielded before that, and records fetched in between
    are read again.

    The application sets `settled` to the group generation whose recovery has ended. Faust's own `rebalancing` is reset
    when an earlier recovery ends, even if the next rebalance has begun.
    """

    logger = logging.getLogger("faust.batching")  # Faust's messages about this service appear under Faust's name

    def __init__(self, transport: "BatchTransport", *args: Any, **kwargs: Any) -> None:
        self.batch_topics = transport.batch_topics
        self._gather_ms = transport.gather_ms
        self._handled: dict[TP, int] = {}
        self._next: dict[TP, int] = {}
        self._begun: dict[TP, int] = {}
        self.sought_at = 0.0
        self._looked_again: dict[TP, int] = {}
        self.settled = -1
        self._passed_over: set[TP] = set()  # partitions with records fetched before the group settled
        self._busy: set[asyncio.Task[None]] = set()
        super().__init__(transport, *args, **kwargs)

    def began(self, task: "asyncio.Task[None]") -> None:
        """Register a batch's task, so that a rebalance waits for it before its partition moves."""
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    def handled(self, tp: TP, offset: int) -> None:
        """Allow the commit of all records up to `offset`: their outputs and states are sent."""
        self._handled[tp] = offset

    def unhandled(self, tp: TP) -> int:
        """Return the consumer lag of a batch topic's partition, in records; 0 while it is unknown."""
        done = self._handled.get(tp)
        first = self._begun.get(tp) if done is None else done + 1
        return 0 if first is None else max((self.highwater(tp) or 0) - first, 0)

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, gather_ms=self._gather_ms, loop=self.loop, beacon=self.beacon)

    async def getmany(  # noqa: C901  one pass over the records of a poll
        self,
        timeout: float,  # noqa: ASYNC109  Faust's signature
    ) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Yield batches as single messages, and other topics message by message."""
        if self._passed_over and self._is_settled():
            again, self._passed_over = self._passed_over, set()
            await self.seek_wait({tp: self._next[tp] for tp in again if tp in self._next})
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            await self._seek_back()
            return
        plain: dict[TP, list[ConsumerRecord]] = {}
        for tp, found in records.items():
            if tp.topic not in self.batch_topics:
                plain[tp] = found
                continue
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if self._is_wanted(tp, active):
                fresh = await self._in_sequence(tp, found)
                if fresh:
                    yield tp, self._to_batch(tp, fresh, generation)
        for tp, record in self.scheduler.iterate(plain) if plain else ():
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if self._is_wanted(tp, active):
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                yield tp, self._to_message(tp, record)

    def _is_settled(self) -> bool:
        return not self.app.rebalancing and self.settled == self.app.consumer_generation_id

    def _is_wanted(self, tp: TP, active: set[TP] | None) -> bool:
        return active is None or tp in active or tp in self._buffered_partitions

    async def _in_sequence(self, tp: TP, records: list[ConsumerRecord]) -> list[ConsumerRecord]:
        """Return the records that follow the last yielded one; none if the partition must be read again from there."""
        if not self._is_settled():
            self._passed_over.add(tp)
            return []
        expected = self._next.get(tp)
        if expected is None or records[0].offset == expected:
            return records
        if records[0].offset < expected:
            return [record for record in records if record.offset >= expected]
        if self._looked_again.get(tp) == expected:
            return records  # the offset does not exist: retention deleted it, or it is a transaction marker
        self._looked_again[tp] = expected
        await self.seek_wait({tp: expected})
        return []

    def _to_batch(self, tp: TP, records: list[ConsumerRecord], generation: int) -> ConsumerMessage:
        self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
        last = records[-1]
        self._next[tp] = last.offset + 1
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000.0,
            last.timestamp_type,
            None,
            None,
            records,  # type: ignore[arg-type]  # a batch, decoded by RawBatchSchema
            None,
            0,
            0,
            tp,
            generation_id=generation,
        )

    async def _seek_back(self) -> None:
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001  as in Faust's getmany: the next poll seeks again
            self.log.warning("seek to committed offsets while the flow is stopped: %r", error)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Skip batch topics: a batch's offset is that of its last record, so it has no gaps."""
        if tp.topic not in self.batch_topics:
            await super()._add_gap(tp, offset_from, offset_to)

    def _new_offset(self, tp: TP) -> int | None:
        """Return the offset to commit, the one after the last handled record; None if there is none."""
        if tp.topic not in self.batch_topics:
            offset: int | None = super()._new_offset(tp)
            return offset
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        handled = self._handled.get(tp)
        return None if handled is None else handled + 1

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        producer: Any = self.app.producer
        if producer.send_error is not None:
            return False
        committed: bool = await super()._commit(offsets)
        return committed

    def _forget(self, tps: Iterable[TP]) -> None:
        for tp in tps:
            self._handled.pop(tp, None)
            self._next.pop(tp, None)
            self._begun.pop(tp, None)
            self._looked_again.pop(tp, None)
            self._acked.pop(tp, None)
            self._acked_index.pop(tp, None)

    async def perform_seek(self) -> None:
        """Seek to the committed offsets, and to the start of partitions without one.

        A committed offset that the topic does not contain counts as none, with a warning.
        """
        tps = {tp for tp in self.assignment() if tp.topic in self.batch_topics}
        self._forget(tps)
        for tp in tps:
            self._committed_offset.pop(tp, None)  # Faust records a failed commit as done, so ask the broker
        await super().perform_seek()
        known = {tp: offset for tp in tps if (offset := self._committed_offset[tp])}
        starts = await self.earliest_offsets(*tps) if tps else {}
        ends = await self.highwaters(*known) if known else {}
        committed = {tp: offset for tp, offset in known.items() if self._exists(tp, offset, starts[tp], ends[tp])}
        earliest = {tp: starts[tp] for tp in tps - committed.keys()}
        for tp in known.keys() - committed.keys():
            self._committed_offset[tp] = None  # Faust would commit nothing up to it
        if earliest:
            await self.seek_wait(earliest)
        begun = {ensure_TP(tp): offset for tp, offset in {**committed, **earliest}.items()}
        self._next.update(begun)
        self._begun.update(begun)
        self.sought_at = self.app.loop.time()

    def _exists(self, tp: TP, offset: int, start: int, end: int | None) -> bool:
        if start <= offset <= (end or 0):
            return True
        self.log.warning(
            "%s: partition %d: the committed offset %d is outside the topic's offsets %d to %d (exclusive), %s;"
            " reading from %d",
            tp.topic,
            tp.partition,
            offset,
            start,
            end or 0,
            f"{start - offset} records were deleted before they were read" if offset < start else "it was recreated",
            start,
        )
        return False

    async def seek(self, partition: TP, offset: int) -> None:
        self._next[partition] = offset
        await super().seek(partition, offset)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)
        self._forget(revoked)

    async def wait_empty(self) -> None:
        """Wait for batches in progress, with a timeout; unfinished batches are cancelled and read again."""
        try:
            async with asyncio.timeout(_STOP_WAIT_S if self.app.should_stop else _REBALANCE_WAIT_S):
                await super().wait_empty()
                if self._busy:
                    await asyncio.wait(self._busy)
                    await self.commit_and_end_transactions()
        except TimeoutError:
            self.log.warning("batches in progress did not finish in time; they will be read again")
            for task in self._busy:
                task.cancel()
            if self._busy:
                await asyncio.wait(self._busy)


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with batch consumer and producer.

    Args:
        *args: Faust's.
        batch_topics: topics that are consumed in batches.
        gather_ms: see `BatchConsumerThread`.
        **kwargs: Faust's.
    """

    Consumer = BatchConsumer
    Producer = BatchProducer

    def __init__(
        self, *args: Any, batch_topics: Collection[str] = (), gather_ms: int = GATHER_MS, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.batch_topics = frozenset(batch_topics)
        self.gather_ms = gather_ms


class RawBatchSchema(Schema):  # type: ignore[type-arg]
    """Decodes nothing: the event's value is the list of raw records."""

    def compile(self, app: Any, **_kwargs: Any) -> Any:
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG001  Faust's signature
            records = message.value
            message.value = None  # the consumer keeps the message until its offset is committed; free the records
            return create_event(None, records, message.headers, message)

        return decode
