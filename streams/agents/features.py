"""The features agent: ticks-clean to features, with the rolling state of each market in a table.

The table holds what `MarketFeatures.flush` writes, under `SYMBOL/suffix`; the states themselves stay in memory while a
partition is assigned and are restored from the table after it moved. Order of a batch: rows are delivered, then the
state is stored and its changelog sent, then the offset is committed (see `streams.agents.clean`).
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
from streams.faust_batch.delivered_offsets import DeliveredOffsets
from streams.metrics import Metrics

log = logging.getLogger(__name__)

NAME = "features"
_OFFSET = attrgetter("offset")


class FeaturesAgent:
    """Handles the batches of ticks-clean."""

    def __init__(self, settings: Settings, clock: Clock, metrics: Metrics, table: Any, producer: Any) -> None:
        self._clock = clock
        self._metrics = metrics
        self._table = table
        self._producer = producer
        self._output = settings.topic(TopicRole.FEATURES).name
        self._letters = settings.topic(TopicRole.DEAD_LETTERS).name
        self._refusals = RefusalLog(NAME)
        self._lateness_ms = int(settings.streams.lateness_s * 1000)
        self._max_future_ms = int(settings.streams.max_future_s * 1000)
        self._states: dict[int, dict[bytes, MarketFeatures]] = {}
        self.delivered = DeliveredOffsets(settings.kafka, settings.topic(TopicRole.TICKS_CLEAN).name, self._output)

    def forget(self) -> None:
        """Partitions moved: states are restored from the table when they are next needed."""
        self._states.clear()
        self.delivered.forget()

    async def handle(self, partition: int, records: Sequence[ConsumerRecord]) -> None:
        """One batch of one partition.

        Raises:
            KafkaError: outputs cannot be delivered; nothing of this batch may be committed then.
        """
        delivered = self.delivered.delivered(partition)
        states = self._states.setdefault(partition, {})
        now_ms = self._clock.now_ms()
        # What was answered before a crash is computed as its own batch, so that revisions go on from there.
        answered = bisect_right(records, delivered, key=_OFFSET)
        old, new = records[:answered], records[answered:]
        parts = [
            roll(partition, part, lambda key: self._state(partition, states, key), now_ms, self._max_future_ms)
            for part in (old, new)
            if part
        ]
        producer = self._producer()
        futures = []
        if letters := [letter for part in parts for letter in part.letters]:
            futures += await producer.send_many(self._letters, partition, letters)
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
            log.exception("features of %s cannot be restored; they start anew", symbol)
        suffixes = [HEAD, *(f"j{n}" for n in range(JOURNAL_SIZE)), *(f"p{n}" for n in range(len(WINDOWS)))]
        for suffix in suffixes:
            self._table.pop(_table_key(key, suffix), None)
        return MarketFeatures(symbol, self._lateness_ms)


def _table_key(key: bytes, suffix: str) -> bytes:
    return key + b"/" + suffix.encode()
