"""One event per partition and poll: Faust's conductor, streams and agents at the speed of aiokafka's batches.

Faust 0.15.3 spends 86-300 µs on every message. Here its aiokafka driver is subclassed so that a topic named in
`BatchConsumer.batch_topics` yields one event per (partition, poll), whose value is the list of raw records; a table's
changelog records are collected and sent as one record batch an event; the producer sends many records at once. The rest
(rebalancing, recovery, streams, commits) is Faust's own.

What an agent on it owes: catch what is bad per record; deliver the outputs before the state that suppresses their
replay is stored; skip what is not newer than the offset in the state; declare a batch `handled` when its outputs and
states are sent, for nothing else is committed; handle nothing more after a batch that failed.

Names with an underscore belong to Faust: `PINNED` lists them, and a test holds them against the installed version. This
module must never import a record, an agent or a source.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from typing import Any, Protocol

from aiokafka.structs import ConsumerRecord, RecordMetadata
from faust.serializers.schemas import Schema
from faust.tables import Table
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from streams.faust_batch.consumer_thread import BatchConsumerThread

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
    "faust.tables.recovery.Recovery": ("_generation_id",),
    "faust.tables.Table": ("on_key_set", "on_key_del", "partition_for_key", "changelog_topic_name"),
    "faust.serializers.schemas.Schema": ("compile",),
}
"""Class to the names of Faust's that are overridden or called here."""

Item = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]
"""Key, value and headers of one record to send."""

_faust_log = logging.getLogger("faust.batching")  # what Faust says of its services goes under Faust's name

# How long events under way are waited for; what they leave is done again by whoever comes next.
_STOP_WAIT_S = 2.0
_REBALANCE_WAIT_S = 30.0


class _Sent(Protocol):
    def __call__(self, metadata: RecordMetadata, count: int) -> None: ...


class BatchConsumer(driver.Consumer):
    """Yields one message per (partition, poll) for `batch_topics`; everything else takes Faust's own path.

    The message's offset is that of the batch's last record, its value the list of raw records.

    Faust acknowledges events that a stream skipped while partitions moved and events whose agent raised, drops what was
    fetched while its flow stood still, and does not seek back where nothing was committed yet. So for batch topics it
    is not asked: committed is what agents declared `handled`, and the next offset to yield is known here, so that a
    fetch that begins after it is read again from there. And when partitions moved, Faust seeks, reads, and only then
    empties the agents' queues: nothing is yielded before that, and what was fetched meanwhile is read again.

    `settled` is the generation of the group whose recovery has ended; the app tells it. Faust's own `rebalancing` falls
    when the recovery before ends, though partitions are moving again.
    """

    logger = _faust_log
    batch_topics: frozenset[str] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._handled: dict[TP, int] = {}
        self._next: dict[TP, int] = {}
        self._begun: dict[TP, int] = {}
        self.sought_at = 0.0
        self._looked_again: dict[TP, int] = {}
        self.settled = -1
        self._passed_over: set[TP] = set()  # fetched before the settlement
        self._busy: set[asyncio.Task[None]] = set()
        super().__init__(*args, **kwargs)

    def began(self, task: "asyncio.Task[None]") -> None:
        """A batch is worked on beside the stream that it came from: wait for it before its partition moves."""
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    def handled(self, tp: TP, offset: int) -> None:
        """All records up to this one are done with, outputs and states: it may be committed."""
        self._handled[tp] = offset

    def unhandled(self, tp: TP) -> int:
        """Records of a batch topic that lie there and are not done with; 0 where that is not known yet."""
        done = self._handled.get(tp)
        first = self._begun.get(tp) if done is None else done + 1
        return 0 if first is None else max((self.highwater(tp) or 0) - first, 0)

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(  # noqa: C901  one pass over what a poll gave
        self,
        timeout: float,  # noqa: ASYNC109  Faust's signature
    ) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Batches as single messages, other topics message by message."""
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
        """The records that follow what was yielded last; none while the partition is read again from there."""
        if not self._is_settled():
            self._passed_over.add(tp)
            return []
        expected = self._next.get(tp)
        if expected is None or records[0].offset == expected:
            return records
        if records[0].offset < expected:
            return [record for record in records if record.offset >= expected]
        if self._looked_again.get(tp) == expected:
            return records  # nothing is there: retention or a transaction's marker took it
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
            records,  # type: ignore[arg-type]  # a batch: RawBatchSchema takes it from here
            None,
            0,
            0,
            tp,
            generation_id=generation,
        )

    async def _seek_back(self) -> None:
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001  as in Faust's own getmany: the next poll seeks again
            self.log.warning("seek to committed offsets while the flow is stopped: %r", error)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """A batch has no gaps: its offset is that of its last record."""
        if tp.topic not in self.batch_topics:
            await super()._add_gap(tp, offset_from, offset_to)

    def _new_offset(self, tp: TP) -> int | None:
        """The offset after what was handled; None when there is none."""
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
        """Seek to the committed offsets, and to the start where there is none."""
        tps = {tp for tp in self.assignment() if tp.topic in self.batch_topics}
        self._forget(tps)
        for tp in tps:
            self._committed_offset.pop(tp, None)  # Faust notes a commit that failed as done: ask the broker
        await super().perform_seek()
        committed = {tp: offset for tp in tps if (offset := self._committed_offset[tp])}
        anew = await self.earliest_offsets(*(tps - committed.keys())) if tps - committed.keys() else {}
        if anew:
            await self.seek_wait(anew)
        begun = {ensure_TP(tp): offset for tp, offset in {**committed, **anew}.items()}
        self._next.update(begun)
        self._begun.update(begun)
        self.sought_at = self.app.loop.time()

    async def seek(self, partition: TP, offset: int) -> None:
        self._next[partition] = offset
        await super().seek(partition, offset)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)
        self._forget(revoked)

    async def wait_empty(self) -> None:
        """Wait for batches under way, but not for ever: what is not done by then is left, and read again."""
        try:
            async with asyncio.timeout(_STOP_WAIT_S if self.app.should_stop else _REBALANCE_WAIT_S):
                await super().wait_empty()
                if self._busy:
                    await asyncio.wait(self._busy)
                    await self.commit_and_end_transactions()
        except TimeoutError:
            self.log.warning("went on with batches under way; they will be read again")
            for task in self._busy:
                task.cancel()
            if self._busy:
                await asyncio.wait(self._busy)


class BatchProducer(driver.Producer):
    """Faust's producer with `send_many`. Idempotent: the broker drops what a retry sends twice."""

    logger = _faust_log
    send_error: BaseException | None = None
    buffer_messages = 5_000  # Faust warns at 100 messages waiting

    async def on_start(self) -> None:
        await super().on_start()
        self.buffer.max_messages = self.buffer_messages

    def _settings_extra(self) -> Mapping[str, Any]:
        return {**super()._settings_extra(), "acks": "all", "enable_idempotence": True}

    async def send_many(
        self, topic: str, partition: int, items: Iterable[Item], on_sent: _Sent | None = None
    ) -> list["asyncio.Future[RecordMetadata]"]:
        """Hand records to the broker in as few record batches as they fit into, in order.

        Args:
            topic: its name.
            partition: one of its partitions.
            items: key, value and headers of each record.
            on_sent: called with the metadata of each delivered record batch and the number of its records.

        Returns:
            One future a record batch. `flush` covers them, and so does a commit of offsets; when one fails, nothing is
            committed any more and the application stops.

        Raises:
            ValueError: a record is larger than a batch may be.
        """
        app: Any = self.app
        app.standstill.look()
        producer = self._ensure_producer()
        futures: list[asyncio.Future[RecordMetadata]] = []
        batch, count = producer.create_batch(), 0
        for key, value, headers in items:
            while batch.append(key=key, value=value, timestamp=None, headers=list(headers)) is None:
                if not count:
                    raise ValueError(f"{topic}: a record of {len(value or b'')} bytes is larger than a record batch")
                futures.append(await self._send_batch(producer, batch, topic, partition, count, on_sent))
                batch, count = producer.create_batch(), 0
            count += 1
        if count:
            futures.append(await self._send_batch(producer, batch, topic, partition, count, on_sent))
        return futures

    async def _send_batch(
        self, producer: Any, batch: Any, topic: str, partition: int, count: int, on_sent: _Sent | None
    ) -> "asyncio.Future[RecordMetadata]":
        future: asyncio.Future[RecordMetadata] = await producer.send_batch(batch, topic, partition=partition)

        def done(sent: "asyncio.Future[RecordMetadata]") -> None:
            error = None if sent.cancelled() else sent.exception()
            if error is not None:
                self.send_error = error
                self.add_future(self.app.crash(error))
            elif on_sent is not None and not sent.cancelled():
                on_sent(sent.result(), count)

        future.add_done_callback(done)
        return future

    async def publish(self, topic: str, items: Iterable[Item]) -> None:
        """Send records to the partitions of their keys, and wait until all are delivered."""
        by_partition: defaultdict[int, list[Item]] = defaultdict(list)
        for item in items:
            by_partition[self.key_partition(topic, item[0] or b"").partition].append(item)
        futures: list[Awaitable[RecordMetadata]] = []
        for partition, group in by_partition.items():
            futures += await self.send_many(topic, partition, group)
        await asyncio.gather(*futures)


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with the two classes above."""

    Consumer = BatchConsumer
    Producer = BatchProducer


class RawBatchSchema(Schema):  # type: ignore[type-arg]
    """Nothing is decoded: the event's value is the list of raw records."""

    def compile(self, app: Any, **_kwargs: Any) -> Any:
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:  # noqa: ARG001  Faust's signature
            records = message.value
            message.value = None  # the consumer keeps the message until its offset is committed: not its records
            return create_event(None, records, message.headers, message)

        return decode


class BatchTable(Table):  # type: ignore[type-arg]
    """A plain table of bytes whose changelog records are collected until `flush_changelog`."""

    logger = _faust_log

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pending: dict[int, dict[bytes, bytes | None]] = {}

    def on_key_set(self, key: bytes, value: bytes) -> None:
        self._pending.setdefault(self._partition(key), {})[key] = value

    def on_key_del(self, key: bytes) -> None:
        self._pending.setdefault(self._partition(key), {})[key] = None

    def _partition(self, key: bytes) -> int:
        partition = self.partition_for_key(key)
        if partition is None:
            raise TypeError(f"table {self.name}: use_partitioner is not supported")
        return partition

    async def flush_changelog(self) -> None:
        """Send what was assigned since the last call; agents call it once an event, before it is acknowledged."""
        pending, self._pending = self._pending, {}
        for partition, values in pending.items():
            items = ((key, value, ()) for key, value in values.items())
            producer: Any = self.app.producer
            await producer.send_many(self.changelog_topic_name, partition, items, self._sent)

    def _sent(self, metadata: RecordMetadata, count: int) -> None:
        # metadata.offset is that of the record batch's first record.
        self.data.set_persisted_offset(metadata.topic_partition, metadata.offset + count - 1)
