"""Reads all partitions of the views' topics into the read model, with a consumer outside any group.

The consumer commits no offsets. It starts a bounded number of records before the end, so that a restarted worker shows
the same data as before, and skips forward when it falls behind by more than that. A broker answers each fetch within
200 ms, also without records: fetches without an answer are reported as an outage after a second. Every few seconds a
second task queries the end offsets. If the brokers do not respond to it, or have records that do not arrive, the
consumer is replaced.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from clients.kafka.connection import client_options, close_client
from clients.kafka.topics import partitions_of
from config.settings import Settings
from marketdata.codec import decode
from marketdata.errors import DecodeError
from marketdata.records import RECORDS, PartStatus, Record
from marketdata.topics import TOPICS, TopicRole
from streams.views.read_model import KafkaView, ReadModel, latest_time_ms
from streams.views.throttle import Throttle

log = logging.getLogger(__name__)

_POLL_MS = 200
_POLL_RECORDS = 2_000
_RETRY_S = 1.0
_CHECK_INTERVAL_S = 3.0
_BROKER_TIMEOUT_S = 5.0
_SILENT_S = 1.2  # report an outage if no fetch is answered for this long
_STALL_S = 5.0  # reconnect if a partition with unread records makes no progress for this long
_HELD_POLL_MS = 50  # shorter poll while a record is held back, so that it is shown in time
_THROTTLE_MS = 200  # show at most one tick and one feature row per market and this much arrival time
_THROTTLED = (TopicRole.TICKS_CLEAN, TopicRole.FEATURES)
_MAX_RECORDS_BACK = 20_000

OnRecord = Callable[[TopicRole, Record], None]


class Follower:
    """Reads into a read model until cancelled.

    Args:
        settings: the worker's settings.
        read_model: receives the records.
        on_record: called for each record that changed the read model.
        now_ms: event time; None while unknown.
        on_reset: called when the read model may have changed in other ways, such as after an outage.
        on_outage: called when `kafka` reports an outage that it did not report before.
        monotonic: seconds of this machine's monotonic clock.
    """

    def __init__(
        self,
        settings: Settings,
        read_model: ReadModel,
        on_record: OnRecord,
        now_ms: Callable[[], int | None],
        on_reset: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        on_outage: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._read_model = read_model
        self._on_record = on_record
        self._now_ms = now_ms
        self._on_reset = on_reset
        self._on_outage = on_outage
        self._answered: tuple[int | None, ...] = ()  # per partition, time of the last answer to a fetch
        self._silent_s = 0.0
        self._monotonic = monotonic
        self.kafka = KafkaView()
        self._roles = {settings.topic(role).name: role for role in read_model.topics}
        self._positions: dict[TopicPartition, int] = {}
        self._first: dict[TopicPartition, int] = {}
        self._end: dict[TopicPartition, int] = {}
        self._keys = {symbol.encode() for symbol in read_model.symbols}
        self._throttle = Throttle(_THROTTLE_MS, monotonic)
        self._unchecked_ms: int | None = None  # newest event time applied before the clock started

    async def run(self) -> None:
        """Read until cancelled. Any error is reported in `kafka`, and reading restarts after a pause.

        After an unexpected error, the remaining records of its batch are skipped.
        """
        while True:
            async with AsyncExitStack() as clients:  # closed after the problem is reported: closing can be slow
                try:
                    await self._follow(clients)
                except TimeoutError:
                    self._set_problem("the brokers do not respond in time")
                except (KafkaError, OSError, _CannotFollowError) as error:
                    self._set_problem(f"{type(error).__name__}: {error}")
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    self._set_problem("the consumer was cancelled")  # by the client, not by the caller
                except Exception as error:
                    self.kafka.failures += 1
                    log.exception("the views' follower failed; restarting in %.3g s", _RETRY_S)
                    self._set_problem(f"{type(error).__name__}: {error}")
            await asyncio.sleep(_RETRY_S)

    def _set_problem(self, problem: str | None) -> None:
        kafka = self.kafka
        before, kafka.problem, kafka.connected = kafka.problem, problem, problem is None
        if problem is not None and before is None:
            kafka.problem_since_ms = self._now_ms()
            log.warning("views cannot read Kafka: %s", problem)
            self._on_outage()
        elif problem is None and before is not None:
            kafka.problem_since_ms = None
            log.info("views can read Kafka again")
            self._on_reset()

    async def _follow(self, clients: AsyncExitStack) -> None:
        options = client_options(self._settings.kafka)
        admin = AIOKafkaAdminClient(**options, client_id="views-admin")
        consumer = AIOKafkaConsumer(
            **options,
            client_id="views",
            group_id=None,
            enable_auto_commit=False,
            fetch_max_wait_ms=_POLL_MS,
        )
        clients.push_async_callback(close_client, admin)
        clients.push_async_callback(close_client, consumer)
        async with asyncio.timeout(_BROKER_TIMEOUT_S * 2):
            await admin.start()
            await consumer.start()
            tps = await self._partitions(admin)
            consumer.assign(tps)  # subscribing by topic lost the positions when the brokers returned
            await self._seek_back(consumer, tps)
        self._set_problem(None)
        self._silent_s = 0.0
        tasks = {
            asyncio.create_task(self._read(consumer, tps)),
            asyncio.create_task(self._check_brokers(consumer, admin, tps)),
        }
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> None:
        while True:
            wait_ms = _HELD_POLL_MS if self._throttle.is_holding else _POLL_MS
            began_s = self._monotonic()
            found = await consumer.getmany(timeout_ms=wait_ms, max_records=_POLL_RECORDS)
            # A longer wait is a busy event loop, not a silent broker.
            self._note_answers(consumer, tps, min(self._monotonic() - began_s, wait_ms / 1000))
            self._count_records(consumer)
            self._process(found)
            async with asyncio.timeout(_BROKER_TIMEOUT_S):
                await self._skip_backlog(consumer)
                await self._drop_future_records(consumer, tps)

    def _note_answers(self, consumer: AIOKafkaConsumer, tps: list[TopicPartition], waited_s: float) -> None:
        """Report an outage while no broker answers a fetch, and its end."""
        answered = tuple(consumer.last_poll_timestamp(tp) for tp in tps)
        is_silent = answered == self._answered and any(answered)  # a new consumer has not fetched yet
        self._answered = answered
        self._silent_s = self._silent_s + waited_s if is_silent else 0.0
        if not is_silent:
            self._set_problem(None)
        elif self._silent_s >= _SILENT_S and self.kafka.problem is None:
            self._set_problem(f"no broker answered for {self._silent_s:.1f} s")

    async def _drop_future_records(self, consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> None:
        """When the clock starts, read everything again if records ahead of it were applied before."""
        if self._unchecked_ms is None or self._now_ms() is None:
            return
        if self._is_ahead(self._unchecked_ms):
            self._read_model.clear()
            self._positions.clear()
            self._throttle = Throttle(_THROTTLE_MS, self._monotonic)
            await self._seek_back(consumer, tps)
            self._on_reset()
        self._unchecked_ms = None

    async def _partitions(self, admin: AIOKafkaAdminClient) -> list[TopicPartition]:
        """Return all partitions of all topics, as reported by the brokers now."""
        found = await partitions_of(admin, self._roles)
        if missing := [topic for topic in self._roles if topic not in found]:
            raise _CannotFollowError(f"topic {missing[0]} does not exist yet")
        return sorted(TopicPartition(topic, number) for topic, numbers in found.items() for number in numbers)

    def _records_back(self, role: TopicRole) -> int:
        """Return 1.5 times the records per partition that the read model stores, assuming equally busy markets."""
        read_model = self._read_model
        each = {
            TopicRole.TICKS: read_model.points,
            TopicRole.TICKS_CLEAN: read_model.points,
            TopicRole.CANDLES: read_model.points,
            TopicRole.FEATURES: 8,
            TopicRole.DEAD_LETTERS: 1_000,
            TopicRole.PART_STATUS: _MAX_RECORDS_BACK,  # compacted: the whole topic
        }.get(role, read_model.forecasts)
        per_partition = each * len(read_model.symbols) // self._settings.kafka.partitions
        return min(_MAX_RECORDS_BACK, max(each, per_partition) * 3 // 2)

    async def _seek_back(self, consumer: AIOKafkaConsumer, tps: Iterable[TopicPartition]) -> None:
        tps = list(tps)
        first, end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        self._first, self._end = first, end
        for tp in tps:
            known = self._positions.get(tp)
            start = end[tp] - self._records_back(self._roles[tp.topic]) if known is None or known > end[tp] else known
            consumer.seek(tp, max(first[tp], start))

    async def _skip_backlog(self, consumer: AIOKafkaConsumer) -> None:
        """Skip forward in partitions that are too far behind, and update each topic's lag."""
        behind: defaultdict[TopicRole, int] = defaultdict(int)
        for tp in consumer.assignment():
            role = self._roles[tp.topic]
            end = consumer.highwater(tp)
            if end is None:
                continue
            position = await consumer.position(tp)
            lag = max(end - position, 0)
            back = self._records_back(role)
            if lag > 2 * back:
                consumer.seek(tp, end - back)
                self._read_model.topics[role].skipped += lag - back
                lag = back
            behind[role] += lag
        for role, lag in behind.items():
            self._read_model.topics[role].lag = lag

    def _process(self, found: dict[TopicPartition, list[ConsumerRecord]]) -> None:
        for tp, records in found.items():
            role = self._roles[tp.topic]
            self._positions[tp] = records[-1].offset + 1
            for record in self._select(role, records):
                self._apply(role, record)
        for role, record in self._throttle.release():
            self._apply(role, record)

    def _apply(self, role: TopicRole, record: ConsumerRecord) -> None:
        """Apply one record to the read model; skip it if it is invalid, so that it never blocks later records."""
        topic = self._read_model.topics[role]
        where = (record.topic, record.partition, record.offset)
        try:
            decoded = decode(RECORDS[TOPICS[role].record], record.value)
            if isinstance(decoded, PartStatus):  # its times are not event time
                self._read_model.apply_status(decoded, record.timestamp)
                return
            at_ms = latest_time_ms(decoded)
            if self._is_ahead(at_ms):
                topic.skipped += 1
                if role is not TopicRole.TICKS:  # the clean agent reports these
                    log.warning("views skip %s-%d@%d: its time is ahead of the clock", *where)
                return
            if self._read_model.apply(role, decoded, record.timestamp):
                self._on_record(role, decoded)
        except DecodeError as error:
            topic.undecodable += 1
            if role is not TopicRole.TICKS:
                log.warning("views skip %s-%d@%d: %s", *where, error)
            return
        except Exception:
            topic.undecodable += 1
            topic.unexpected += 1
            log.exception("views skip %s-%d@%d", *where)
            return
        if self._now_ms() is None:
            self._unchecked_ms = max(at_ms, self._unchecked_ms or at_ms)

    def _select(self, role: TopicRole, records: list[ConsumerRecord]) -> list[ConsumerRecord]:
        if role in _THROTTLED:
            return self._throttle.admit(role, records)
        if role is TopicRole.TICKS:  # not cleaned: keys can be anything. Not throttled: each poll has source states
            return [record for record in records if record.key in self._keys]
        return records

    def _is_ahead(self, at_ms: int) -> bool:
        """Whether a time is too far ahead of the clock; such a record would hide all later ones."""
        now_ms = self._now_ms()
        return now_ms is not None and at_ms > now_ms + self._settings.event_time.max_future_s * 1000

    def _count_records(self, consumer: AIOKafkaConsumer) -> None:
        """Count the records on each topic, including those just read: never fewer than were read."""
        counts: defaultdict[TopicRole, int] = defaultdict(int)
        for tp, first in self._first.items():
            counts[self._roles[tp.topic]] += max(self._end[tp], consumer.highwater(tp) or 0) - first
        self.kafka.on_topic = dict(counts)

    async def _check_brokers(
        self, consumer: AIOKafkaConsumer, admin: AIOKafkaAdminClient, tps: list[TopicPartition]
    ) -> None:
        """Periodically query the topics' offsets and the offsets committed by the worker's group.

        Raises:
            TimeoutError, KafkaError: the brokers do not respond.
            _CannotFollowError: records on the brokers do not reach the consumer, or the partitions changed.
        """
        waits: dict[TopicPartition, _Pending] = {}
        while True:
            async with asyncio.timeout(_BROKER_TIMEOUT_S):
                self._first, self._end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
                self._count_records(consumer)
                waits = await self._pending_partitions(consumer, waits)
                if await self._partitions(admin) != tps:
                    raise _CannotFollowError("the partitions of the topics changed")
                self.kafka.lags = await self._lags(consumer, admin)
            await asyncio.sleep(_CHECK_INTERVAL_S)

    async def _pending_partitions(
        self, consumer: AIOKafkaConsumer, before: dict[TopicPartition, "_Pending"]
    ) -> dict[TopicPartition, "_Pending"]:
        """Return the partitions with unread records, each with its position and the time since when it is unchanged."""
        now_s, found = self._monotonic(), {}
        for tp, end in self._end.items():
            position = await consumer.position(tp)
            if position >= end:
                continue
            known = before.get(tp)
            since_s = known.since_s if known is not None and known.position == position else now_s
            if now_s - since_s >= _STALL_S:
                at = f"{tp.topic}-{tp.partition}@{position}"
                raise _CannotFollowError(f"no record received from {at} for {now_s - since_s:.3g} s; its end is {end}")
            found[tp] = _Pending(position, since_s)
        return found

    async def _lags(self, consumer: AIOKafkaConsumer, admin: AIOKafkaAdminClient) -> dict[str, int | None]:
        lags: dict[str, int | None] = {
            self._settings.topic(role).name: None for role in (TopicRole.TICKS, TopicRole.TICKS_CLEAN)
        }
        try:
            offsets = await admin.list_consumer_group_offsets(self._settings.streams.app_id)
        except KafkaError as error:  # a starting broker serves groups later than topics
            log.debug("consumer lags are not available: %s", error)
            return lags
        committed = {tp: known.offset for tp, known in offsets.items() if tp.topic in lags and known.offset >= 0}
        ends = await consumer.end_offsets([*committed]) if committed else {}
        for tp, offset in committed.items():
            lags[tp.topic] = (lags[tp.topic] or 0) + max(ends[tp] - offset, 0)
        return lags


@dataclass(frozen=True, slots=True)
class _Pending:
    """`since_s`: monotonic clock."""

    position: int
    since_s: float


class _CannotFollowError(Exception):
    """The topics cannot be read; handled like an outage."""
