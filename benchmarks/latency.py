"""Latency from a tick of a live feed to the feature row that includes it, from the broker's append times.

Output records have the partition of their source record and its offset in a header: the first row of a market with a
source offset at or after that of the tick includes the tick.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from aiokafka.structs import ConsumerRecord

from benchmarks.feed import MARKETS, Feeder
from benchmarks.worker import Worker, topic_bytes
from clients.kafka.reader import TopicReader
from config import Settings
from marketdata.topics import TopicRole
from streams.kafka.records import SOURCE_OFFSET_HEADER

_WARM_UP = 0.2  # share of the ticks at the start that is excluded


@dataclass(frozen=True)
class Latency:
    """Latency of a tick in ms; CPU usage of the worker in cores; rows per tick; changelog bytes per tick, of the
    agents involved.
    """

    p50_ms: float
    p99_ms: float
    cpu: float
    rows_per_tick: float
    changelog_bytes: float


async def _read(settings: Settings, role: TopicRole) -> list[ConsumerRecord]:
    async with TopicReader(settings.kafka, settings.topic(role).name, wait_s=30.0) as reader:
        froms, ends = await reader.tails(None)
        return [record async for record in reader.between(froms, ends)]


def _source(record: ConsumerRecord) -> int:
    return int(dict(record.headers)[SOURCE_OFFSET_HEADER])


def _ages(
    ticks: Sequence[ConsumerRecord], rows: Sequence[ConsumerRecord], appended_ms: dict[tuple[int, int], int]
) -> list[int]:
    """Append time of the row minus that of the source tick, in ms, in the order of the ticks."""
    by_market: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        by_market[row.key].append((_source(row), row.timestamp))
    place: dict[bytes, int] = defaultdict(int)
    ages = []
    for tick in ticks:
        market = by_market[tick.key]
        while place[tick.key] < len(market) and market[place[tick.key]][0] < tick.offset:
            place[tick.key] += 1
        if place[tick.key] < len(market):
            ages.append(market[place[tick.key]][1] - appended_ms[tick.partition, tick.offset])
    return ages


async def paced(worker: Worker, rate: int, seconds: float, *, whole_way: bool) -> Latency:
    """Feed a worker at `rate` ticks per second, then read the output topics.

    Args:
        worker: a ready worker with empty topics.
        rate: ticks per second, over `MARKETS` markets.
        seconds: duration of the feed.
        whole_way: feed cryptoTopic, else ticks-clean.
    """
    settings = worker.settings
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    topic = settings.topic(TopicRole.TICKS if whole_way else TopicRole.TICKS_CLEAN).name
    before, began = worker.cpu_s(), loop.time()
    async with Feeder(settings.kafka) as feeder:
        sent = await feeder.pace(topic, rate, lambda: loop.time() >= end, markets=MARKETS)
    cpu = (worker.cpu_s() - before) / (loop.time() - began)
    await asyncio.to_thread(worker.wait_handled, sent)
    clean, rows = await _read(settings, TopicRole.TICKS_CLEAN), await _read(settings, TopicRole.FEATURES)
    if whole_way:
        raw = {(r.partition, r.offset): r.timestamp for r in await _read(settings, TopicRole.TICKS)}
        appended_ms = {(r.partition, r.offset): raw[r.partition, _source(r)] for r in clean}
    else:
        appended_ms = {(r.partition, r.offset): r.timestamp for r in clean}
    clean.sort(key=lambda record: record.timestamp)
    ages = np.asarray(_ages(clean, rows, appended_ms)[int(len(clean) * _WARM_UP) :])
    agents = ("clean", "features") if whole_way else ("features",)
    changelogs = [await topic_bytes(settings, f"{settings.streams.app_id}-{agent}-changelog") for agent in agents]
    p50_ms, p99_ms = np.percentile(ages, (50, 99)).tolist()
    return Latency(p50_ms, p99_ms, cpu, len(rows) / sent, sum(changelogs) / sent)
