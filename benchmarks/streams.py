"""One worker on a real broker, compared with peers on the same ticks: throughput, latency, state and recovery.

The worker is the product (`python -m faust -A streams worker`) with RocksDB, changelog and all five windows. Measured
values and goals are in docs/performance.md.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from benchmarks.feed import MARKETS, Feeder, Payload, a_day, preload, steady
from benchmarks.latency import Latency, paced
from benchmarks.peers.environment import peer_python
from benchmarks.report import Bench, Row, write
from benchmarks.worker import Drained, fresh, topic_bytes, working
from clients.kafka.connection import client_options, close_client
from clients.kafka.reader import TopicReader
from clients.process import bound
from config import Settings
from devstack.process import tail
from devstack.stack import ROOT
from marketdata.topics import TopicRole
from streams.kafka import topics
from tests.support.stack import alone, environment_of, free_ports

REPEATS = 3
TICKS = 1_000_000  # several polls per partition: records prefetched before the timer starts are not timed
TICKS_EMPTY, TICKS_HOPPING, TICKS_QUIX = 100_000, 10_000, 100_000  # about 7 s each
MARKET_COUNTS = (10, 1_000, 5_000)
MANY = 1_000
RATES = (1_000, 10_000)
PACED_S = 10.0
FEED_AFTER_KILL = 1_000  # ticks a second

GOAL_TICKS = 60_000
GOAL_QUIX, GOAL_HOPPING = 10, 100
GOAL_BYTEWAX_CPU = 2  # its CPU time per tick, relative to the features agent
GOAL_P99_MS, GOAL_CPU = 150.0, 0.5
GOAL_FLAT = 1.25
GOAL_STATE_MB = 500
GOAL_BACK_S, GOAL_BACK_BARE_S = 10.0, 30.0

_MB = 1e6
_SOURCE = {True: TopicRole.TICKS, False: TopicRole.TICKS_CLEAN}


class Speed(NamedTuple):
    """Ticks per second, and CPU time per tick in µs; the latter hardly depends on the load of the machine."""

    per_second: float
    cpu_us: float


def _medians(runs: Sequence[Speed | Drained]) -> Speed:
    return Speed(statistics.median(run.per_second for run in runs), statistics.median(run.cpu_us for run in runs))


class Suite:
    """The runs of this suite; each is a separate Faust application on its own topics."""

    def __init__(self, bench: Bench) -> None:
        self._folder = bench.folder / "streams"
        self._folder.mkdir()
        self._bench = bench
        self._runs = 0

    def _name(self) -> str:
        self._runs += 1
        return f"run{self._runs}"

    def loaded(self, payloads: Iterator[Payload], *, whole_way: bool = False) -> tuple[Settings, int]:
        """Publish ticks to the source topic of new settings; return the settings and the number of ticks."""
        settings = alone(self._bench.stack.settings, self._folder / self._name())
        asyncio.run(topics.ensure(settings))
        return settings, preload(settings, settings.topic(_SOURCE[whole_way]).name, payloads)

    def drain(self, settings: Settings, count: int, *, whole_way: bool = False) -> tuple[Settings, Drained]:
        """Run a new worker to the end of the loaded topic."""
        name = self._name()
        own = fresh(settings, self._folder, name, keep=(_SOURCE[whole_way],))
        with working(own, self._folder / f"{name}.log") as worker:
            return own, worker.drain(count, first="clean" if whole_way else "features")

    def rates(self, payloads: Iterator[Payload], repeats: int, *, whole_way: bool = False) -> Speed:
        """Return the medians of several runs over the same topic."""
        settings, count = self.loaded(payloads, whole_way=whole_way)
        runs = [self.drain(settings, count, whole_way=whole_way) for _ in range(repeats)]
        return _medians([run for _, run in runs])

    def paced(self, rate: int, *, whole_way: bool) -> Latency:
        """Measure the latency of a live feed with a new worker."""
        name = self._name()
        settings = fresh(alone(self._bench.stack.settings, self._folder / name), self._folder, name, keep=())
        with working(settings, self._folder / f"{name}.log") as worker:
            worker.wait_ready()
            return asyncio.run(paced(worker, rate, PACED_S, whole_way=whole_way))

    def peer(self, command: Sequence[object], settings: Settings, count: int) -> Speed:
        """Run a peer program over the loaded topic; return the medians of several runs."""
        found = []
        for _ in range(REPEATS):
            name = self._name()
            words = [
                *command,
                *("--brokers", settings.kafka.brokers, "--topic", settings.topic(TopicRole.TICKS_CLEAN).name),
                *("--id", f"{settings.streams.app_id}-{name}", "--folder", self._folder / name, "--count", count),
            ]
            with (self._folder / f"{name}.log").open("wb") as log:
                done = subprocess.run(
                    bound([str(word) for word in words]),
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=ROOT,
                    env=environment_of(settings),
                    timeout=180,
                    check=False,
                )
            lines = [line for line in done.stdout.decode().splitlines() if line.startswith('{"records"')]
            if not lines:
                end = "\n".join(tail(self._folder / f"{name}.log"))
                raise RuntimeError(f"{words[:4]}: no result, exit code {done.returncode}:\n{end}")
            result = json.loads(lines[-1])
            found.append(Speed(result["records"] / result["seconds"], result["cpu_s"] / result["records"] * 1e6))
        return _medians(found)

    def recover_after_kill(self) -> tuple[float, float, float]:
        """Return RSS in bytes of a worker with a full day of many markets, and the recovery time in seconds after
        kill -9, with and without its data folder.
        """
        settings, count = self.loaded(a_day(MANY))
        name = self._name()
        own = fresh(settings, self._folder, name, keep=(TopicRole.TICKS_CLEAN,))
        with working(own, self._folder / f"{name}.log") as worker:
            rss = worker.drain(count, deadline_s=600).rss_bytes
            with_folder = asyncio.run(self._recover(own, worker.program.process))
        bare = own.model_copy(
            update={"streams": own.streams.model_copy(update={"data_dir": self._folder / f"{name}-bare"})}
        )
        with working(own, self._folder / f"{name}-again.log") as worker:
            worker.wait_ready()
            without = asyncio.run(self._recover(bare, worker.program.process))
        return float(rss), with_folder, without

    async def _recover(self, settings: Settings, process: "subprocess.Popen[bytes]") -> float:
        """Kill the worker during a feed, restart it at once, and wait for rows from every partition."""
        feeding = asyncio.Event()
        async with (
            Feeder(settings.kafka) as feeder,
            TopicReader(settings.kafka, settings.topic(TopicRole.FEATURES).name) as reader,
        ):
            topic = settings.topic(TopicRole.TICKS_CLEAN).name
            task = asyncio.create_task(feeder.pace(topic, FEED_AFTER_KILL, feeding.is_set, markets=MANY))
            await asyncio.sleep(2.0)  # kill under load
            process.kill()
            killed_ms = int(time.time() * 1000)
            await asyncio.to_thread(process.wait)
            log = self._folder / f"{self._name()}-recovery.log"
            with working(settings, log) as worker:
                first: dict[int, int] = {}
                rows = reader.follow(await reader.ends())
                async with asyncio.timeout(120):
                    async for row in rows:
                        worker.program.check_running()
                        # Rows that the killed worker sent can still be appended shortly after the kill.
                        if row.timestamp > killed_ms + 500:
                            first.setdefault(row.partition, row.timestamp)
                        if len(first) == settings.kafka.partitions:
                            break
                await rows.aclose()  # type: ignore[attr-defined]
                feeding.set()
                await task
        return (max(first.values()) - killed_ms) / 1000

    def raw(self, settings: Settings, count: int) -> Speed:
        """A bare aiokafka consumer that only counts records."""
        return _medians([asyncio.run(_consume(settings, count)) for _ in range(REPEATS)])


async def _consume(settings: Settings, count: int) -> Speed:
    consumer = AIOKafkaConsumer(**client_options(settings.kafka), auto_offset_reset="earliest")
    await consumer.start()
    try:
        topic = settings.topic(TopicRole.TICKS_CLEAN).name
        consumer.assign([TopicPartition(topic, partition) for partition in range(settings.kafka.partitions)])
        seen = first = 0
        began = cpu = 0.0
        while seen < count:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                seen += len(records)
            if not began:
                began, cpu, first = time.perf_counter(), time.process_time(), seen
        took, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        return Speed((seen - first) / took, cpu_s / (seen - first) * 1e6)
    finally:
        await close_client(consumer)


def _at_least(goal: float, value: float, text: str) -> dict[str, object]:
    return {"goal": f"at least {goal:,.0f} {text}", "met": value >= goal}


def rows(bench: Bench) -> list[Row]:
    """Run the suite, throughput first."""
    suite = Suite(bench)
    found: list[Row] = []

    def add(name: str, value: float, unit: str, **more: object) -> None:
        row = Row(name, value, unit, **more)  # type: ignore[arg-type]
        bench.log_progress(f"{row.name}: {row.value:,.4g} {row.unit}")
        found.append(row)
        write("streams", found)  # keeps the results if a later step fails

    settings, count = suite.loaded(steady(TICKS))
    runs = [suite.drain(settings, count) for _ in range(REPEATS)]
    features = _medians([run for _, run in runs])
    add("features agent", features.per_second, "ticks/s", **_at_least(GOAL_TICKS, features.per_second, "ticks/s"))
    add("features agent, CPU", features.cpu_us, "µs/tick")
    _peers(suite, settings, count, features, add)
    _changelog(runs[-1][0], count, add)
    _ways(suite, features, add)
    _markets(suite, features, add)
    _latencies(suite, add)
    _state(suite, runs[-1][1], add)
    return found


Add = Callable[..., None]


def _peers(suite: Suite, settings: Settings, count: int, features: Speed, add: Add) -> None:
    stock = [sys.executable, "-m", "benchmarks.peers.faust_stock"]

    def faust(kind: str, some: int) -> Speed:
        words = [*stock, kind, "--partitions", settings.kafka.partitions, "--port", free_ports(1)[0]]
        return suite.peer(words, settings, some)

    def compare(peer: str, speed: Speed, goal: float | None = None, cpu_goal: float | None = None) -> None:
        ratio, cpu_ratio = features.per_second / speed.per_second, speed.cpu_us / features.cpu_us
        checked = {} if goal is None else _at_least(goal, ratio, "times")
        add(f"features agent to {peer}", features.per_second, "ticks/s", peer=peer, ratio=ratio, **checked)
        add(f"peer: {peer}", speed.per_second, "ticks/s")
        checked = {} if cpu_goal is None else _at_least(cpu_goal, cpu_ratio, "times")
        add(f"peer: {peer}, CPU", speed.cpu_us, "µs/tick", peer="features agent", ratio=cpu_ratio, **checked)

    compare("raw aiokafka consumer", suite.raw(settings, count))
    compare("empty Faust agent", faust("empty", TICKS_EMPTY))
    compare("Faust hopping 300/60 s", faust("hopping", TICKS_HOPPING), GOAL_HOPPING)
    python = peer_python()
    if python is not None:
        program = ROOT / "benchmarks" / "peers" / "quix_hopping.py"
        compare("Quix hopping 300/60 s", suite.peer([python, program], settings, TICKS_QUIX), GOAL_QUIX)
        program = ROOT / "benchmarks" / "peers" / "bytewax_sliding.py"
        for name, words in (("", []), (", recovery store", ["--recovery"])):
            speed = suite.peer([python, program, *words], settings, count)
            compare(f"Bytewax sliding 300/60 s{name}", speed, cpu_goal=GOAL_BYTEWAX_CPU)


def _changelog(settings: Settings, count: int, add: Add) -> None:
    written = asyncio.run(topic_bytes(settings, f"{settings.streams.app_id}-features-changelog"))
    sent = asyncio.run(topic_bytes(settings, settings.topic(TopicRole.FEATURES).name))
    add("changelog", written / count, "B/tick")
    add("feature rows", sent / count, "B/tick")


def _ways(suite: Suite, features: Speed, add: Add) -> None:
    whole = suite.rates(steady(TICKS), REPEATS, whole_way=True)
    add(
        "cryptoTopic → clean → features",
        whole.per_second,
        "ticks/s",
        peer="features agent",
        ratio=whole.per_second / features.per_second,
        **_at_least(GOAL_TICKS / 2, whole.per_second, "ticks/s"),
    )
    add("cryptoTopic → clean → features, CPU", whole.cpu_us, "µs/tick")
    for name, whole_way, peer in (
        ("features agent", False, features),
        ("cryptoTopic → clean → features", True, whole),
    ):
        full = suite.rates(steady(TICKS // 2, whole=True), 1, whole_way=whole_way)
        ratio = full.per_second / peer.per_second
        add(f"{name}, full ticks", full.per_second, "ticks/s", peer="the same, small ticks", ratio=ratio)
        add(f"{name}, full ticks, CPU", full.cpu_us, "µs/tick")
    for name, whole_ticks in (("tick", False), ("full tick", True)):
        ((_, _, value),) = steady(1, whole=whole_ticks)
        add(f"bytes a {name}", float(len(value)), "B")


def _markets(suite: Suite, features: Speed, add: Add) -> None:
    for markets in MARKET_COUNTS:
        cost = suite.rates(steady(TICKS, markets=markets), REPEATS).cpu_us
        ratio = cost / features.cpu_us
        add(
            f"CPU a tick, {markets:,} markets",
            cost,
            "µs",
            peer=f"{MARKETS} markets",
            ratio=ratio,
            goal=f"flat: at most {GOAL_FLAT} times",
            met=ratio <= GOAL_FLAT,
        )


def _latencies(suite: Suite, add: Add) -> None:
    for whole_way in (False, True):
        way = "cryptoTopic" if whole_way else "ticks-clean"
        for rate in RATES:
            seen = suite.paced(rate, whole_way=whole_way)
            name = f"{rate:,} ticks/s, {way} → row"
            checked = rate == max(RATES)
            goal = {"goal": f"at most {GOAL_P99_MS:g} ms", "met": seen.p99_ms <= GOAL_P99_MS} if checked else {}
            add(f"{name}, p50", seen.p50_ms, "ms")
            add(f"{name}, p99", seen.p99_ms, "ms", **goal)
            # A worker that does not keep up uses little CPU, so the goal requires the latency too.
            held = seen.cpu <= GOAL_CPU and seen.p99_ms <= GOAL_P99_MS
            goal = {"goal": f"at most {GOAL_CPU:g}, with that p99", "met": held} if checked else {}
            add(f"{name}, CPU", seen.cpu, "cores", **goal)
            add(f"{name}, rows", seen.rows_per_tick, "rows/tick")
            add(f"{name}, changelogs", seen.changelog_bytes, "B/tick")


def _state(suite: Suite, small: Drained, add: Add) -> None:
    rss, with_folder, without = suite.recover_after_kill()
    held = (rss - small.rss_bytes) / _MB
    add(
        f"memory of {MANY:,} markets, over that of {MARKETS}",
        held,
        "MB",
        goal=f"at most {GOAL_STATE_MB} MB",
        met=held <= GOAL_STATE_MB,
    )
    for name, seconds, goal in (
        ("with its data folder", with_folder, GOAL_BACK_S),
        ("without", without, GOAL_BACK_BARE_S),
    ):
        add(f"kill -9 to features, {name}", seconds, "s", goal=f"at most {goal:g} s", met=seconds <= goal)
