"""`status`: address and health of each part, checked on the part itself, however it was started."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypedDict

from config import Settings
from devstack.health import hdfs_problem, http_problem, kafka_problem, webhdfs_problem
from devstack.stack import exchange_address
from devstack.state import PartState, load_state

# The supervised programs of each part.
PARTS = {
    "kafka": ("kafka",),
    "hdfs": ("namenode", "datanode"),
    "webhdfs": ("namenode",),
    "exchange": ("exchange",),
    "web": ("streams",),
}


class PartHealth(TypedDict):
    """`pid` is null if the stack's supervisor did not start the part; `detail` is the problem, or empty."""

    address: str
    healthy: bool
    pid: int | None
    detail: str


async def collect_status(settings: Settings, *, part: str | None = None) -> dict[str, PartHealth]:
    """Check all parts concurrently, or the named part."""
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
    return {
        name: _health(address, problem, [known[p] for p in PARTS[name] if p in known])
        for (name, (address, _)), problem in zip(checks.items(), problems, strict=True)
    }


def _health(address: str, problem: str | None, programs: list[PartState]) -> PartHealth:
    pids = [part.process.pid for part in programs if part.process is not None and part.process.alive() is not None]
    if problem == "does not listen":
        exits = [part.detail.splitlines()[0] for part in programs if part.state == "failed" and part.detail]
        problem = exits[0] if exits else "not running"
    return PartHealth(address=address, healthy=problem is None, pid=pids[0] if pids else None, detail=problem or "")
