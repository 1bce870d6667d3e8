"""Throughput of one, two and three workers on as many partitions, with all ticks published at once.

The workers have their partitions before the first tick, so rebalancing is not measured. Broker, feed and workers share
the machine's cores.
"""

import asyncio
import re
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.feed import Feeder, Payload, steady
from benchmarks.report import Bench, Row
from benchmarks.worker import Worker, working
from config import Settings
from marketdata.topics import TopicRole
from streams.kafka import topics
from tests.support.stack import alone, eventually
from tests.support.streams_worker import one_of_many, without_exchanges

WORKERS = (1, 2, 3)
TICKS = 600_000

_LAG = re.compile(r'^bitcoin_agent_lag\{agent="features",partition="(\d+)"', re.MULTILINE)


def rows(bench: Bench) -> list[Row]:
    """Measure each number of workers; `ratio` is relative to one worker."""
    payloads = list(steady(TICKS))
    found: list[Row] = []
    for count in WORKERS:
        per_second, cpu_us = _measure(bench, bench.folder / f"scaling{count}", count, payloads)
        name = f"{count} worker{'s' if count > 1 else ''}, {count} partition{'s' if count > 1 else ''}"
        alone_per_second = found[0].value if found else per_second
        for row in (
            Row(name, per_second, "ticks/s", peer="1 worker", ratio=per_second / alone_per_second),
            Row(f"{name}, CPU", cpu_us, "µs/tick"),
        ):
            bench.log_progress(f"{row.name}: {row.value:,.4g} {row.unit}")
            found.append(row)
    return found


def _measure(bench: Bench, folder: Path, count: int, payloads: list[Payload]) -> tuple[float, float]:
    folder.mkdir()
    settings = without_exchanges(alone(bench.stack.settings, folder / "data"))
    settings = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"partitions": count})})
    asyncio.run(topics.ensure(settings))
    with ExitStack() as stack:
        workers = [
            stack.enter_context(working(one_of_many(settings, number, folder), folder / f"{number}.log"))
            for number in range(count)
        ]
        expected = [[number] for number in range(count)]
        eventually(lambda: sorted(map(_partitions, workers)) == expected, 120, "one partition per worker")
        return asyncio.run(_drain(settings, workers, payloads))


def _partitions(worker: Worker) -> list[int]:
    return sorted(int(partition) for partition in _LAG.findall(worker.metrics()))


async def _drain(settings: Settings, workers: list[Worker], payloads: list[Payload]) -> tuple[float, float]:
    """Return ticks per second from the first send to the last processed tick, and the workers' CPU in µs per tick."""
    before = sum(worker.cpu_s() for worker in workers)
    began = time.perf_counter()
    async with Feeder(settings.kafka) as feeder:
        await feeder.send(settings.topic(TopicRole.TICKS_CLEAN).name, iter(payloads))

    def handled() -> bool:
        return sum(worker.events().get("features", 0.0) for worker in workers) >= len(payloads)

    await asyncio.to_thread(eventually, handled, 180, f"{len(payloads)} ticks processed")
    took = time.perf_counter() - began
    return len(payloads) / took, (sum(worker.cpu_s() for worker in workers) - before) / len(payloads) * 1e6
