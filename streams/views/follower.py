"""Follows all partitions of the topics that views show, with a consumer outside of any group.

It starts a bounded number of records back, so a restarted worker shows what it showed before, and jumps forward when it
falls behind by more than that. Beside the reading, the brokers are asked every few seconds how far the topics go: where
they do not answer, or have records that do not come, the consumer is made anew. It must never commit an offset or write
to a topic.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from clients.kafka.connection import client_options, close_client
from clients.kafka.topics import partitions_of
from config.settings import Settings
from marketdata.codec import decode
from marketdata.errors import DecodeError
from marketdata.records import RECORDS, Record
from marketdata.topics import TOPICS, TopicRole
from streams.views.read_model import Board, event_time
from streams.views.throttle import Pace

log = logging.getLogger(__name__)

_POLL_MS = 200
_POLL_RECORDS = 2_000
_RETRY_S = 1.0
_WATCH_S = 3.0
_ANSWER_S = 5.0
_STALL_S = 5.0  # for so long a record that a broker has may fail to come
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
    """Reads for ever into a board; `on_record` is called for each record that changed it.

    `on_again`: the board may have changed otherwise, as after an outage.
    """

    def __init__(
        self,
        settings: Settings,
        board: Board,
        on_record: OnRecord,
        now_ms: Callable[[], int | None],
        on_again: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._board = board
        self._on_record = on_record
        self._now_ms = now_ms
        self._on_again = on_again
        self._monotonic = monotonic
        self.kafka = KafkaBoard()
        self._roles = {settings.topic(role).name: role for role in board.topics}
        self._positions: dict[TopicPartition, int] = {}
        self._first: dict[TopicPartition, int] = {}
        self._end: dict[TopicPartition, int] = {}
        self._keys = {symbol.encode() for symbol in board.symbols}
        self._pace = Pace(_PACE_MS, monotonic)
        self._unjudged_ms: int | None = None  # the newest event time that was taken in before the clock ran

    async def run(self) -> None:
        """Follow until cancelled; what goes wrong is told in `kafka` and tried again, with Kafka or without reason.

        Of the batch in which something unforeseen was found, what had not been shown is passed over.
        """
        while True:
            async with AsyncExitStack() as clients:  # closed once the problem is told: closing may take its time
                try:
                    await self._follow(clients)
                except TimeoutError:
                    self._note("the brokers do not answer in time")
                except (KafkaError, OSError, _CannotFollowError) as error:
                    self._note(f"{type(error).__name__}: {error}")
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    self._note("the consumer was cancelled")  # from within, not by who runs this
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
            self._on_again()
        kafka.problem = problem
        kafka.connected = problem is None

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
        async with asyncio.timeout(_ANSWER_S * 2):
            await admin.start()
            await consumer.start()
            tps = await self._partitions(admin)
            consumer.assign(tps)  # not by topic: such a consumer lost its places when the brokers came back
            await self._seek_back(consumer, tps)
        self._note(None)
        both = {asyncio.create_task(self._read(consumer, tps)), asyncio.create_task(self._watch(consumer, admin, tps))}
        try:
            ended, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for one in ended:
                one.result()
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _read(self, consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> None:
        while True:
            wait_ms = _HELD_POLL_MS if self._pace.holds else _POLL_MS
            found = await consumer.getmany(timeout_ms=wait_ms, max_records=_POLL_RECORDS)
            self._count(consumer)
            self._take(found)
            async with asyncio.timeout(_ANSWER_S):
                await self._jump(consumer)
                await self._judge(consumer, tps)

    async def _judge(self, consumer: AIOKafkaConsumer, tps: list[TopicPartition]) -> None:
        """Once the clock runs: had something out of the future been taken in, all is read anew."""
        if self._unjudged_ms is None or self._now_ms() is None:
            return
        if self._is_ahead(self._unjudged_ms):
            self._board.clear()
            self._positions.clear()
            self._pace = Pace(_PACE_MS, self._monotonic)
            await self._seek_back(consumer, tps)
            self._on_again()
        self._unjudged_ms = None

    async def _partitions(self, admin: AIOKafkaAdminClient) -> list[TopicPartition]:
        """All partitions of all topics, as the brokers have them now."""
        found = await partitions_of(admin, self._roles)
        if missing := [topic for topic in self._roles if topic not in found]:
            raise _CannotFollowError(f"topic {missing[0]} does not exist yet")
        return sorted(TopicPartition(topic, number) for topic, numbers in found.items() for number in numbers)

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
        """Show one record, or pass over what cannot be: whatever is wrong with it, the others are shown."""
        topic = self._board.topics[role]
        where = (record.topic, record.partition, record.offset)
        try:
            decoded = decode(RECORDS[TOPICS[role].record], record.value)
            at_ms = event_time(decoded)
            if self._is_ahead(at_ms):
                topic.skipped += 1
                if role is not TopicRole.TICKS:  # there the clean agent tells of them
                    log.warning("views pass over %s-%d@%d: its time is ahead of the clock", *where)
                return
            changed = self._board.take(role, decoded, record.timestamp)
        except DecodeError as error:
            topic.undecodable += 1
            if role is not TopicRole.TICKS:
                log.warning("views pass over %s-%d@%d: %s", *where, error)
            return
        except Exception:
            topic.undecodable += 1
            log.exception("views pass over %s-%d@%d", *where)
            return
        if self._now_ms() is None:
            self._unjudged_ms = max(at_ms, self._unjudged_ms or at_ms)
        if changed:
            self._on_record(role, decoded)

    def _chosen(self, role: TopicRole, records: list[ConsumerRecord]) -> list[ConsumerRecord]:
        if role in _PACED:
            return self._pace.chosen(role, records)
        if role is TopicRole.TICKS:  # not cleaned yet: keys may be anything; each poll counts, for it tells of sources
            return [record for record in records if record.key in self._keys]
        return records

    def _is_ahead(self, at_ms: int) -> bool:
        """Out of the future: it would hide what comes after it, and that nothing does."""
        now_ms = self._now_ms()
        return now_ms is not None and at_ms > now_ms + self._settings.event_time.max_future_s * 1000

    def _count(self, consumer: AIOKafkaConsumer) -> None:
        """How many records the topics hold, with those that have just come: never fewer than were read of them."""
        held: defaultdict[TopicRole, int] = defaultdict(int)
        for tp, first in self._first.items():
            held[self._roles[tp.topic]] += max(self._end[tp], consumer.highwater(tp) or 0) - first
        self.kafka.on_topic = dict(held)

    async def _watch(self, consumer: AIOKafkaConsumer, admin: AIOKafkaAdminClient, tps: list[TopicPartition]) -> None:
        """Ask the brokers now and then how long the topics are and what the worker's group has committed.

        Raises:
            TimeoutError, KafkaError: they do not answer.
            _CannotFollowError: they have records that the consumer does not get, or other partitions than it reads.
        """
        waits: dict[TopicPartition, _Wait] = {}
        while True:
            async with asyncio.timeout(_ANSWER_S):
                self._first, self._end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
                self._count(consumer)
                waits = await self._waits(consumer, waits)
                if await self._partitions(admin) != tps:
                    raise _CannotFollowError("the topics have other partitions now")
                self.kafka.lags = await self._lags(consumer, admin)
            await asyncio.sleep(_WATCH_S)

    async def _waits(
        self, consumer: AIOKafkaConsumer, before: dict[TopicPartition, "_Wait"]
    ) -> dict[TopicPartition, "_Wait"]:
        """The partitions that hold more than was read of them, each with its place and since when it stays there."""
        now_s, found = self._monotonic(), {}
        for tp, end in self._end.items():
            position = await consumer.position(tp)
            if position >= end:
                continue
            known = before.get(tp)
            since_s = known.since_s if known is not None and known.position == position else now_s
            if now_s - since_s >= _STALL_S:
                at = f"{tp.topic}-{tp.partition}@{position}"
                raise _CannotFollowError(f"nothing came of {at} in {now_s - since_s:.3g} s, though it goes up to {end}")
            found[tp] = _Wait(position, since_s)
        return found

    async def _lags(self, consumer: AIOKafkaConsumer, admin: AIOKafkaAdminClient) -> dict[str, int | None]:
        lags: dict[str, int | None] = {
            self._settings.topic(role).name: None for role in (TopicRole.TICKS, TopicRole.TICKS_CLEAN)
        }
        try:
            offsets = await admin.list_consumer_group_offsets(self._settings.streams.app_id)
        except KafkaError as error:  # the groups come later than the topics when a broker starts
            log.debug("no lags: %s", error)
            return lags
        committed = {tp: known.offset for tp, known in offsets.items() if tp.topic in lags and known.offset >= 0}
        ends = await consumer.end_offsets([*committed]) if committed else {}
        for tp, offset in committed.items():
            lags[tp.topic] = (lags[tp.topic] or 0) + max(ends[tp] - offset, 0)
        return lags


@dataclass(frozen=True, slots=True)
class _Wait:
    """`since_s` is of the monotonic clock."""

    position: int
    since_s: float


class _CannotFollowError(Exception):
    """The topics cannot be read as they are; tried again as any outage."""
