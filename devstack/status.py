"""`status`: the address and the health of each part, asked of the part itself, whoever started it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypedDict

from config import Settings
from devstack.health import hdfs_problem, http_problem, kafka_problem, webhdfs_problem
from devstack.stack import exchange_address
from devstack.state import PartState, load_state

# Which supervised programs stand behind each part that is asked.
PARTS = {
    "kafka": ("kafka",),
    "hdfs": ("namenode", "datanode"),
    "webhdfs": ("namenode",),
    "exchange": ("exchange",),
    "web": ("streams",),
}


class PartHealth(TypedDict):
    """`pid` is null where the stack's supervisor did not start it; `detail` says what is wrong, else is empty."""

    address: str
    healthy: bool
    pid: int | None
    detail: str


async def collect_status(settings: Settings, *, part: str | None = None) -> dict[str, PartHealth]:
    """Ask all parts at once, or the one that is named."""
    web = f"http://{settings.streams.web_host}:{settings.streams.web_port}"
    exchange = exchange_address(settings)
    questions: dict[str, tuple[str, Callable[[], Awaitable[str | None]]]] = {
        "kafka": (settings.kafka.brokers, lambda: kafka_problem(settings.kafka)),
        "hdfs": (settings.hdfs.url, lambda: hdfs_problem(settings.hdfs.webhdfs)),
        "webhdfs": (settings.hdfs.webhdfs, lambda: webhdfs_problem(settings.hdfs.webhdfs)),
        "exchange": (exchange, lambda: http_problem(f"{exchange}/binance/api/v3/ping")),
        "web": (web, lambda: http_problem(web)),
    }
    if part is not None:
        questions = {part: questions[part]}
    problems = await asyncio.gather(*(ask() for _, ask in questions.values()))
    state = load_state(settings.devstack.state_dir)
    known = state.parts if state is not None else {}
    return {
        name: _health(address, problem, [known[p] for p in PARTS[name] if p in known])
        for (name, (address, _)), problem in zip(questions.items(), problems, strict=True)
    }


def _health(address: str, problem: str | None, programs: list[PartState]) -> PartHealth:
    pids = [part.process.pid for part in programs if part.process is not None and part.process.alive() is not None]
    if problem == "does not listen":
        died = [part.detail.splitlines()[0] for part in programs if part.state == "failed" and part.detail]
        problem = died[0] if died else "not running"
    return PartHealth(address=address, healthy=problem is None, pid=pids[0] if pids else None, detail=problem or "")
