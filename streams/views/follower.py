"""Follows all partitions of the topics that views show, with a consumer outside of any group.

It starts a bounded number of records back, so a restarted worker shows what it showed before, and jumps forward when it
falls behind by more than that. It must never commit an offset or write to a topic.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from config.settings import Settings
from marketdata.codec import decode
from marketdata.errors import DecodeError
from marketdata.records import RECORDS, Record
from marketdata.topics import TOPICS, TopicRole
from streams.kafka import client_options
from streams.views.board import Board, event_time
from streams.views.pace import Pace

log = logging.getLogger(__name__)

_POLL_MS = 200
_POLL_RECORDS = 2_000
_RETRY_S = 1.0
_WATCH_S = 3.0
_ANSWER_S = 5.0
_HELD_POLL_MS = 50  # while a record is held back, which would else wait for the next to come
_PACE_MS = 200  # of ticks and features, at most one a market and this much time of arrival is shown
_PACED = (TopicRole.TICKS_CLEAN, TopicRole.FEATURES)
_MOST_BACK = 20_000

OnRecord = Callable[[TopicRole, Record], None]


@dataclass(slots=True)
class KafkaBoard:
    """What is known of the brokers.

    lags: topic to records that the worker's group has not committed yet, of all partitions; None where nothing was
    committed. on_topic: records that each topic holds. failures: how often the follower itself failed and began anew.
    """

    connected: bool = False
    problem: str | None = None
    problem_since_ms: int | None = None
    lags: dict[str, int | None] = field(default_factory=dict)
    on_topic: dict[TopicRole, int] = field(default_factory=dict)
    failures: int = 0


class Follower:
    """Reads for ever into a board; `on_record` is called for each record that changed it."""

    def __init__(
        self,
        settings: Settings,
        board: Board,
        on_record: OnRecord,
        now_ms: Callable[[], int | None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._board = board
        self._on_record = on_record
        self._now_ms = now_ms
        self.kafka = KafkaBoard()
        self._roles = {settings.topic(role).name: role for role in board.topics}
        self._positions: dict[TopicPartition, int] = {}
        self._first: dict[TopicPartition, int] = {}
        self._end: dict[TopicPartition, int] = {}
        self._keys = {symbol.encode() for symbol in board.symbols}
        self._pace = Pace(_PACE_MS, monotonic)

    async def run(self) -> None:
        """Follow until cancelled; what goes wrong is told in `kafka` and tried again, with Kafka or without reason.

        Of the batch in which something unforeseen was found, what had not been shown is passed over.
        """
        while True:
            try:
                await self._follow()
            except (KafkaError, OSError, TimeoutError, _NoSuchTopicError) as error:
                self._note(f"{type(error).__name__}: {error}")
            except Exception as error:
                self.kafka.failures += 1
                log.exception("the views' follower failed; it starts again in %.3g s", _RETRY_S)
                self._note(f"{type(error).__name__}: {error}")
            await asyncio.sleep(_RETRY_S)

    def _note(self, problem: str | None) -> None:
        kafka = self.kafka
        if problem is not None and kafka.problem is None:
            kafka.problem_since_ms = self._now_ms()
            log.warning("views cannot read Kafka: %s", problem)
        elif problem is None and kafka.problem is not None:
            kafka.problem_since_ms = None
            log.info("views read Kafka again")
        kafka.problem = problem
        kafka.connected = problem is None

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            *self._roles,
            **client_options(self._settings.kafka),
            client_id="views",
            group_id=None,
            enable_auto_commit=False,
            fetch_max_wait_ms=_POLL_MS,
        )
        try:
            async with asyncio.timeout(_ANSWER_S * 2):
                await consumer.start()
            await self._seek_back(consumer, self._assigned(consumer))
            self._note(None)
            watch = asyncio.create_task(self._watch(consumer))
            try:
                while not watch.done():
                    wait_ms = _HELD_POLL_MS if self._pace.holds else _POLL_MS
                    found = await consumer.getmany(timeout_ms=wait_ms, max_records=_POLL_RECORDS)
                    self._count(consumer)
                    self._take(found)
                    await self._jump(consumer)
                watch.result()
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
        finally:
            await consumer.stop()

    def _assigned(self, consumer: AIOKafkaConsumer) -> list[TopicPartition]:
        """All partitions of all topics: without a group, that is what subscribing gives."""
        tps = sorted(consumer.assignment())
        for name in self._roles:
            if not any(tp.topic == name for tp in tps):
                raise _NoSuchTopicError(name)
        return tps

    def _back(self, role: TopicRole) -> int:
        """Records of one partition that hold what the board keeps of it, were all markets alike, and half as much."""
        board = self._board
        each = {
            TopicRole.TICKS: board.points,
            TopicRole.TICKS_CLEAN: board.points,
            TopicRole.CANDLES: board.points,
            TopicRole.FEATURES: 8,
            TopicRole.DEAD_LETTERS: 1_000,
        }.get(role, board.forecasts)
        per_partition = each * len(board.symbols) // self._settings.kafka.partitions
        return min(_MOST_BACK, max(each, per_partition) * 3 // 2)

    async def _seek_back(self, consumer: AIOKafkaConsumer, tps: Iterable[TopicPartition]) -> None:
        tps = list(tps)
        first, end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        self._first, self._end = first, end
        for tp in tps:
            known = self._positions.get(tp)
            start = end[tp] - self._back(self._roles[tp.topic]) if known is None or known > end[tp] else known
            consumer.seek(tp, max(first[tp], start))

    async def _jump(self, consumer: AIOKafkaConsumer) -> None:
        """Skip what is too far behind to matter, and note how far behind each topic is."""
        behind: defaultdict[TopicRole, int] = defaultdict(int)
        for tp in consumer.assignment():
            role = self._roles[tp.topic]
            end = consumer.highwater(tp)
            if end is None:
                continue
            position = await consumer.position(tp)
            lag = max(end - position, 0)
            back = self._back(role)
            if lag > 2 * back:
                consumer.seek(tp, end - back)
                self._board.topics[role].skipped += lag - back
                lag = back
            behind[role] += lag
        for role, lag in behind.items():
            self._board.topics[role].lag = lag

    def _take(self, found: dict[TopicPartition, list[ConsumerRecord]]) -> None:
        for tp, records in found.items():
            role = self._roles[tp.topic]
            self._positions[tp] = records[-1].offset + 1
            for record in self._chosen(role, records):
                self._show(role, record)
        for role, record in self._pace.due():
            self._show(role, record)

    def _show(self, role: TopicRole, record: ConsumerRecord) -> None:
        try:
            decoded = decode(RECORDS[TOPICS[role].record], record.value)
        except DecodeError as error:
            self._board.topics[role].undecodable += 1
            if role is not TopicRole.TICKS:  # there the clean agent tells of them
                log.warning("views pass over %s-%d@%d: %s", record.topic, record.partition, record.offset, error)
            return
        if role is TopicRole.TICKS and self._is_ahead(decoded):
            return
        if self._board.take(role, decoded, record.timestamp):
            self._on_record(role, decoded)

    def _chosen(self, role: TopicRole, records: list[ConsumerRecord]) -> list[ConsumerRecord]:
        if role in _PACED:
            return self._pace.chosen(role, records)
        if role is TopicRole.TICKS:  # not cleaned yet: keys may be anything; each poll counts, for it tells of sources
            return [record for record in records if record.key in self._keys]
        return records

    def _is_ahead(self, record: Record) -> bool:
        """Out of the future, which the clean agent refuses: it would hide what comes after it."""
        now_ms = self._now_ms()
        return now_ms is not None and event_time(record) > now_ms + self._settings.streams.max_future_s * 1000

    def _count(self, consumer: AIOKafkaConsumer) -> None:
        """How many records the topics hold, with those that have just come: never fewer than were read of them."""
        held: defaultdict[TopicRole, int] = defaultdict(int)
        for tp, first in self._first.items():
            held[self._roles[tp.topic]] += max(self._end[tp], consumer.highwater(tp) or 0) - first
        self.kafka.on_topic = dict(held)

    async def _watch(self, consumer: AIOKafkaConsumer) -> None:
        """Ask the brokers now and then how long the topics are and what the worker's group has committed."""
        tps = list(consumer.assignment())
        group = self._settings.streams.app_id
        read = [self._settings.topic(role).name for role in (TopicRole.TICKS, TopicRole.TICKS_CLEAN)]
        admin = AIOKafkaAdminClient(**client_options(self._settings.kafka), client_id="views-admin")
        async with asyncio.timeout(_ANSWER_S):
            await admin.start()
        try:
            while True:
                async with asyncio.timeout(_ANSWER_S):
                    await self._look(consumer, admin, tps, group, read)
                self._note(None)
                await asyncio.sleep(_WATCH_S)
        finally:
            await admin.close()

    async def _look(
        self,
        consumer: AIOKafkaConsumer,
        admin: AIOKafkaAdminClient,
        tps: list[TopicPartition],
        group: str,
        read: list[str],
    ) -> None:
        self._first, self._end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        self._count(consumer)
        committed = {
            tp: known.offset
            for tp, known in (await admin.list_consumer_group_offsets(group)).items()
            if tp.topic in read and known.offset >= 0
        }
        ends = await consumer.end_offsets(list(committed)) if committed else {}
        lags: dict[str, int | None] = dict.fromkeys(read)
        for tp, offset in committed.items():
            lags[tp.topic] = (lags[tp.topic] or 0) + max(ends[tp] - offset, 0)
        self.kafka.lags = lags


class _NoSuchTopicError(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"topic {name} is not there yet")
