"""The clean agent: cryptoTopic to ticks-clean and dead-letters, each tick once.

For each batch, outputs are delivered first, then the state is stored and its changelog sent, then the offset is
committed. A crash at any point neither loses nor duplicates a record: after a crash between the first two steps,
`DeliveredOffsets` suppresses outputs that already exist.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka.structs import ConsumerRecord

from clients.clock import Clock
from config.settings import Settings
from marketdata.topics import TopicRole
from marketdata.vocabulary import FeedMode, TickFlag
from streams.agents.cleaning import clean
from streams.agents.dead_letters import RefusalLog
from streams.agents.seen import Seen, remembered
from streams.kafka.delivered_offsets import DeliveredOffsets
from streams.metrics import Metrics

NAME = "clean"


class CleanAgent:
    """Handles the batches of cryptoTopic.

    Args:
        settings: the worker's.
        clock: event time.
        metrics: the worker's.
        table: maps a key to the bytes of its `Seen`.
        producer: returns the `BatchProducer`.
    """

    def __init__(self, settings: Settings, clock: Clock, metrics: Metrics, table: Any, producer: Any) -> None:
        self._clock = clock
        self._metrics = metrics
        self._table = table
        self._producer = producer
        self._source = settings.topic(TopicRole.TICKS).name
        self._output = settings.topic(TopicRole.TICKS_CLEAN).name
        self._dead_letters = settings.topic(TopicRole.DEAD_LETTERS).name
        self._refusals = RefusalLog(NAME)
        self._lateness_ms = int(settings.streams.lateness_s * 1000)
        streams = settings.streams
        interval_s = streams.poll_interval_s if streams.feed == FeedMode.POLL else streams.stream_interval_s
        self._remembered = remembered(streams.lateness_s, interval_s)
        self._max_move = 1 + streams.jump_bps / 10_000
        self._max_future_ms = int(settings.event_time.max_future_s * 1000)
        self._states: dict[int, dict[bytes, Seen]] = {}
        self.delivered = DeliveredOffsets(settings.kafka, self._source, self._output)

    def forget(self) -> None:
        """Discard states after a rebalance; they are read from the table when next needed."""
        self._states.clear()
        self.delivered.forget()

    async def handle(self, partition: int, records: Sequence[ConsumerRecord]) -> None:
        """Process one batch of one partition.

        Raises:
            KafkaError: outputs were not delivered; the batch must not be committed.
        """
        done = clean(
            records,
            lambda key: self._load(partition, key),
            self._clock.now_ms(),
            lateness_ms=self._lateness_ms,
            max_future_ms=self._max_future_ms,
            remembered=self._remembered,
            max_move=self._max_move,
            delivered=self.delivered.delivered(partition),
        )
        producer = self._producer()
        futures = []
        if done.dead_letters:
            futures += await producer.send_many(self._dead_letters, partition, done.dead_letters)
        if done.ticks:
            futures += await producer.send_many(self._output, partition, done.ticks)
        await asyncio.gather(*futures)
        for key, state in done.states.items():
            self._table[key] = state.to_bytes()
        await self._table.flush_changelog()
        self._metrics.handled(NAME, len(records))
        self._metrics.duplicates.inc(done.duplicates)
        self._metrics.out_of_order.inc(done.late)
        self._metrics.replayed.inc(done.replayed)
        self._metrics.flagged.labels(TickFlag.JUMP).inc(done.jumps)
        for reason in done.reasons:
            self._metrics.dead_letters.labels(reason).inc()
        self._refusals.add(done.reasons)

    def _load(self, partition: int, key: bytes) -> Seen:
        states = self._states.setdefault(partition, {})
        state = states.get(key)
        if state is None:
            state = states[key] = Seen.from_bytes(self._table.get(key))
            state.offset = self.delivered.trusted(partition, state.offset)
        return state
