"""`status`: address and health of each part, checked on the part itself, however it was started.

Programs without an address report their parts on the topic `part-status`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypedDict

from aiokafka.errors import KafkaError

from clients.http_health import hdfs_problem, http_problem, webhdfs_problem
from clients.kafka.reader import TopicReader
from clients.kafka.status import unix_ms
from config import Settings
from devstack.health import kafka_problem
from devstack.stack import exchange_address
from devstack.state import PartState, load_state
from marketdata.errors import BitcoinDataError
from marketdata.part_status import PartSummary, Report, summarise
from marketdata.printable import printable
from marketdata.records import PartStatus
from marketdata.times import to_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import ProductPart

# The supervised programs of each part.
PARTS = {
    "kafka": ("kafka",),
    "hdfs": ("namenode", "datanode"),
    "webhdfs": ("namenode",),
    "exchange": ("exchange",),
    "web": ("streams",),
}
_PROGRAMS: dict[str, tuple[str, ...]] = {
    ProductPart.RAW: ("raw",),
    ProductPart.HOURLY: ("raw",),
    ProductPart.BACKFILL: ("backfill",),
    ProductPart.FORECASTER: ("forecasting",),
    ProductPart.TRAINER: ("forecasting",),
}
LOGS: dict[str, tuple[str, ...]] = {
    **PARTS,
    **_PROGRAMS,
    ProductPart.TRAINER: ("train", *_PROGRAMS[ProductPart.TRAINER]),
}
"""The logs of each part that `status` shows."""
_READ_S = 5.0
_NEWEST_REPORTS = 5_000  # per partition; the topic is compacted


class PartHealth(TypedDict):
    """`pid` is null if the stack's supervisor did not start the part.

    detail: the problem, or empty; of a part that reports on `part-status`, its report.
    """

    address: str
    healthy: bool
    pid: int | None
    detail: str


async def collect_status(
    settings: Settings, *, part: str | None = None, with_reports: bool = True
) -> dict[str, PartHealth]:
    """Check all parts concurrently, or the named part; `with_reports`: also those that report on `part-status`."""
    web = f"http://{settings.streams.web_host}:{settings.streams.web_port}"
    exchange = exchange_address(settings)
    checks: dict[str, tuple[str, Callable[[], Awaitable[str | None]]]] = {
        "kafka": (settings.kafka.brokers, lambda: kafka_problem(settings.kafka)),
        "hdfs": (settings.hdfs.url, lambda: hdfs_problem(settings.hdfs.webhdfs)),
        "webhdfs": (settings.hdfs.webhdfs, lambda: webhdfs_problem(settings.hdfs.webhdfs)),
        "exchange": (exchange, lambda: http_problem(f"{exchange}/binance/api/v3/ping")),
        "web": (web, lambda: http_problem(web)),
    }
    if part is not None:
        checks = {part: checks[part]}
    problems = await asyncio.gather(*(check() for _, check in checks.values()))
    state = load_state(settings.devstack.state_dir)
    known = state.parts if state is not None else {}
    found = {
        name: _health(address, problem, [known[p] for p in PARTS[name] if p in known])
        for (name, (address, _)), problem in zip(checks.items(), problems, strict=True)
    }
    if part is None and with_reports:
        problem: str | None = None
        summaries: dict[str, PartSummary] = {}
        if found["kafka"]["healthy"]:
            summaries, problem = await _summaries(settings)
        else:
            problem = "Kafka is not healthy"
        for own, programs in _PROGRAMS.items():
            health = _health("", None, [known[p] for p in programs if p in known])
            health["healthy"] = problem is None and summaries[own].is_healthy
            health["detail"] = f"unknown: {problem}" if problem is not None else _describe(summaries[own])
            found[own] = health
    return found


async def _summaries(settings: Settings) -> tuple[dict[str, PartSummary], str | None]:
    """Return the state of each part from its reports, and why they cannot be read."""
    reports: dict[tuple[str, str], Report] = {}
    try:
        async with (
            asyncio.timeout(_READ_S),
            TopicReader(settings.kafka, settings.topic(TopicRole.PART_STATUS).name) as reader,
        ):
            async for raw, status in reader.decoded(PartStatus, *await reader.tails(_NEWEST_REPORTS)):
                report = Report(status, raw.timestamp)
                reports[report.key] = report
    except (BitcoinDataError, KafkaError, OSError, TimeoutError) as error:
        return {}, str(error) or f"no answer within {_READ_S:g} s"
    now_ms = unix_ms()
    return {
        part: summarise(part, [r for r in reports.values() if r.status.part == part], now_ms) for part in _PROGRAMS
    }, None


def _describe(summary: PartSummary) -> str:
    facts = [
        summary.state if summary.reason is None else f"{summary.state}: {summary.reason}",
        "" if summary.last_success_ms is None else f"last success {to_rfc3339(summary.last_success_ms)}",
        "" if summary.lag is None else f"lag {summary.lag}",
    ]
    return printable(", ".join(filter(None, facts)))  # any program can write reports


def _health(address: str, problem: str | None, programs: list[PartState]) -> PartHealth:
    pids = [part.process.pid for part in programs if part.process is not None and part.process.alive() is not None]
    if problem == "does not listen":
        exits = [part.detail.splitlines()[0] for part in programs if part.state == "failed" and part.detail]
        problem = exits[0] if exits else "not running"
    return PartHealth(address=address, healthy=problem is None, pid=pids[0] if pids else None, detail=problem or "")
