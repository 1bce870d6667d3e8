"""A measured streams worker: `python -m faust -A streams worker` on its own topics, and its metrics."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from clients.kafka.reader import TopicReader
from config import Settings
from marketdata.topics import TopicRole
from tests.support.stack import Program, eventually, free_ports
from tests.support.streams_worker import without_exchanges
from tests.support.streams_worker import worker as streams_worker

_POLL_S = 0.05
_EVENTS = re.compile(r'^bitcoin_agent_events_total\{agent="(\w+)"\} (\S+)', re.MULTILINE)


@dataclass(frozen=True)
class Drained:
    """Result of draining a topic: ticks per second, CPU time per tick in µs, resident memory in bytes."""

    per_second: float
    cpu_us: float
    rss_bytes: int


def fresh(settings: Settings, folder: Path, name: str, *, keep: tuple[TopicRole, ...]) -> Settings:
    """Return the settings of a new Faust application; all topics except `keep` are new."""
    own = without_exchanges(settings)
    names = dict(own.topics.names)
    for role in TopicRole:
        if role not in keep:
            names[role] = f"{role}-{name}"
    streams = own.streams.model_copy(
        update={
            "app_id": f"{own.streams.app_id}-{name}",
            "data_dir": folder / name,
            "web_port": free_ports(1)[0],
        }
    )
    return own.model_copy(update={"topics": own.topics.model_copy(update={"names": names}), "streams": streams})


class Worker:
    """A running worker."""

    def __init__(self, settings: Settings, program: Program) -> None:
        self.settings = settings
        self.program = program
        self.process = psutil.Process(program.process.pid)
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{settings.streams.web_port}", trust_env=False)

    def metrics(self) -> str:
        """Return the text of `/metrics`; empty until the worker answers."""
        self.program.check_running()
        try:
            return self._http.get("/metrics", timeout=30).text
        except httpx.TransportError:
            return ""

    def events(self) -> dict[str, float]:
        """Return the number of processed records by agent; empty until the worker answers."""
        return {agent: float(count) for agent, count in _EVENTS.findall(self.metrics())}

    def wait_ready(self, deadline_s: float = 60) -> None:
        """Wait until partitions are assigned and tables recovered."""

        def ready() -> bool:
            self.program.check_running()
            try:
                return self._http.get("/health/ready").status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        eventually(ready, deadline_s, "the worker is ready", every_s=_POLL_S)

    def wait_handled(self, count: int, deadline_s: float = 180) -> None:
        """Wait until the features agent processed `count` records."""

        def done() -> bool:
            return self.events().get("features", 0.0) >= count

        eventually(done, deadline_s, f"{count} records processed", every_s=_POLL_S)

    def drain(self, count: int, *, first: str = "features", deadline_s: float = 180) -> Drained:
        """Wait until the features agent processed `count` records.

        The timer starts when agent `first` has processed any, so the worker's start is not included.
        """
        began, at_begin, cpu = 0.0, 0.0, 0.0

        def done() -> float | None:
            nonlocal began, at_begin, cpu
            events, now = self.events(), time.perf_counter()
            handled = events.get("features", 0.0)
            if not began and events.get(first, 0.0) > 0:
                began, at_begin, cpu = now, handled, self.cpu_s()
            return now if handled >= count else None

        ended = eventually(done, deadline_s, f"{count} records processed", every_s=_POLL_S)
        done_now = count - at_begin
        return Drained(
            done_now / ((ended or 0.0) - began),
            (self.cpu_s() - cpu) / done_now * 1e6,
            self.process.memory_info().rss,
        )

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def working(settings: Settings, log: Path) -> Iterator[Worker]:
    """Run a worker during the context."""
    with streams_worker(settings, log, stop_s=30) as program:
        yield Worker(settings, program)


async def topic_bytes(settings: Settings, topic: str) -> int:
    """Return the bytes of all keys and values of a topic."""
    async with TopicReader(settings.kafka, topic, wait_s=30.0) as reader:
        froms, ends = await reader.tails(None)
        return sum([len(record.key or b"") + len(record.value or b"") async for record in reader.between(froms, ends)])
