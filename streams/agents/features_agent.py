"""The features agent: ticks-clean to features, with the rolling state of each market in a table.

The table holds what `MarketFeatures.flush` writes, under `SYMBOL/suffix`. States stay in memory while their partition
is assigned, and are restored from the table after a rebalance. For each batch, rows are delivered first, then the state
is stored and its changelog sent, then the offset is committed (see `streams.agents.clean_agent`).
"""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from aiokafka.structs import ConsumerRecord

from clients.clock import Clock
from config.settings import Settings
from marketdata.errors import InvalidValueError
from marketdata.features import HEAD, JOURNAL_SIZE, MarketFeatures
from marketdata.topics import TopicRole
from marketdata.windows import WINDOWS
from streams.agents.dead_letters import RefusalLog
from streams.agents.rolling import Rolled, roll
from streams.kafka.delivered_offsets import DeliveredOffsets
from streams.metrics import Metrics

log = logging.getLogger(__name__)

NAME = "features"
_OFFSET = attrgetter("offset")


class FeaturesAgent:
    """Handles the batches of ticks-clean.

    Args:
        settings: the worker's.
        clock: event time.
        metrics: the worker's.
        table: maps `SYMBOL/suffix` to a part of the market's state.
        producer: returns the `BatchProducer`.
    """

    def __init__(self, settings: Settings, clock: Clock, metrics: Metrics, table: Any, producer: Any) -> None:
        self._clock = clock
        self._metrics = metrics
        self._table = table
        self._producer = producer
        self._output = settings.topic(TopicRole.FEATURES).name
        self._dead_letters = settings.topic(TopicRole.DEAD_LETTERS).name
        self._refusals = RefusalLog(NAME)
        self._lateness_ms = int(settings.streams.lateness_s * 1000)
        self._max_future_ms = int(settings.event_time.max_future_s * 1000)
        self._states: dict[int, dict[bytes, MarketFeatures]] = {}
        self.delivered = DeliveredOffsets(settings.kafka, settings.topic(TopicRole.TICKS_CLEAN).name, self._output)

    def forget(self) -> None:
        """Discard states after a rebalance; they are restored from the table when next needed."""
        self._states.clear()
        self.delivered.forget()

    async def handle(self, partition: int, records: Sequence[ConsumerRecord]) -> None:
        """Process one batch of one partition.

        Raises:
            KafkaError: outputs were not delivered; the batch must not be committed.
        """
        delivered = self.delivered.delivered(partition)
        states = self._states.setdefault(partition, {})
        now_ms = self._clock.now_ms()
        # Records whose rows were delivered before a crash form a separate batch, so that revisions continue from it.
        split = bisect_right(records, delivered, key=_OFFSET)
        old, new = records[:split], records[split:]
        parts = [
            roll(partition, part, lambda key: self._state(partition, states, key), now_ms, self._max_future_ms)
            for part in (old, new)
            if part
        ]
        producer = self._producer()
        futures = []
        if dead_letters := [one for part in parts for one in part.dead_letters]:
            futures += await producer.send_many(self._dead_letters, partition, dead_letters)
        if new and (rows := parts[-1].rows):
            futures += await producer.send_many(self._output, partition, rows)
        await asyncio.gather(*futures)
        for key in set().union(*(part.touched for part in parts)):
            for suffix, value in states[key].flush().items():
                self._table[_table_key(key, suffix)] = value
        await self._table.flush_changelog()
        self._count(parts, len(records))

    def _count(self, parts: Sequence[Rolled], records: int) -> None:
        self._metrics.handled(NAME, records)
        for part in parts:
            self._metrics.late.inc(part.late)
            self._metrics.replayed.inc(part.replayed)
            for reason in part.reasons:
                self._metrics.dead_letters.labels(reason).inc()
            self._refusals.add(part.reasons)

    def _state(self, partition: int, states: dict[bytes, MarketFeatures], key: bytes) -> MarketFeatures:
        state = states.get(key)
        if state is None:
            state = states[key] = self._restore(key)
            trusted = self.delivered.trusted
            state.offsets = {p: trusted(p, offset) if p == partition else offset for p, offset in state.offsets.items()}
        return state

    def _restore(self, key: bytes) -> MarketFeatures:
        symbol = key.decode()
        try:
            return MarketFeatures.restore(
                symbol, lambda suffix: self._table.get(_table_key(key, suffix)), self._lateness_ms
            )
        except InvalidValueError:
            log.exception("features of %s cannot be restored; starting with an empty state", symbol)
        suffixes = [HEAD, *(f"j{n}" for n in range(JOURNAL_SIZE)), *(f"p{n}" for n in range(len(WINDOWS)))]
        for suffix in suffixes:
            self._table.pop(_table_key(key, suffix), None)
        return MarketFeatures(symbol, self._lateness_ms)


def _table_key(key: bytes, suffix: str) -> bytes:
    return key + b"/" + suffix.encode()
