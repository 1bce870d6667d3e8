"""The whole product with one command: the stack, then the other rooms as programs of their own, until Ctrl-C.

Nothing of what it starts outlives it. A second start goes on from what is stored: Kafka and HDFS keep their data, the
exchange its clock, and each job decides itself what is still to do. Once all runs, a part that ends by itself is
started again the same way, unless it ends too often.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import httpx
from rich.console import Console

from clients.stop_signals import stop_event
from config import Settings
from devstack.events import EventTeller, follow_health, follow_replay
from devstack.health import http_problem
from devstack.progress import Show, open_show
from devstack.stack import Death, Part, Stack, build_parts, exchange_address
from devstack.state import StackState, only_supervisor
from devstack.supervisor import check_all, running_state
from marketdata.errors import StackError

_PYTHON = sys.executable
TOPICS = (_PYTHON, "-m", "faust", "-A", "streams", "topics", "create")
WORKER = (_PYTHON, "-m", "faust", "-A", "streams", "worker", "-l", "info")
BACKFILL = (_PYTHON, "-m", "batch", "backfill")
RAW = (_PYTHON, "-m", "batch", "raw")
TRAIN = (_PYTHON, "-m", "forecasting", "train")
SERVE = (_PYTHON, "-m", "forecasting", "serve")

# Ctrl-C must be over within 15 s: stages stop one after another, the rooms' programs (all in one stage) first. What
# does not end in time is killed, which costs nothing but time at the next start: every step may be repeated.
_ROOMS_STAGE = 5
_ROOMS_GRACE_S = 5.0
_STACK_GRACE_S = 3.0

RESTARTS = 5
"""A part that ends more often than this within `RESTARTS_WITHIN_S` ends the demo."""
RESTARTS_WITHIN_S = 600.0


def run_demo(settings: Settings) -> int:
    """Run until Ctrl-C, SIGTERM or a part that cannot be kept running. Returns the exit code.

    Raises:
        StackError: something hinders the start.
    """
    began = time.monotonic()
    without = frozenset[str]() if settings.profile == "demo" else frozenset({"exchange"})
    running = running_state(settings)
    if running is not None:
        raise StackError(_already_runs(settings.devstack.state_dir, running))
    own_web = ("the dashboard", f"{settings.streams.web_host}:{settings.streams.web_port}", "streams.web_port")
    java = check_all(settings, without, own_web)
    show = open_show(Console(soft_wrap=True))
    try:
        with only_supervisor(settings.devstack.state_dir) as state:
            stack = Stack(
                state,
                settings.devstack.state_dir.resolve(),
                show.line,
                {"JAVA_HOME": str(java.home), "BDI_PROFILE": settings.profile},
            )
            parts = build_parts(settings, java, without)
            return asyncio.run(Demo(settings, stack, show, began).run(parts))
    finally:
        show.close()


def _already_runs(folder: Path, running: StackState) -> str:
    worker = running.parts.get("streams")
    where = f"its dashboard: {worker.address}/" if worker is not None else "it has no dashboard (yet)"
    return f"one already runs in {folder}, {where}; `make down` stops that running one"


class Restarts:
    """Starts parts that ended by themselves again, each after a pause that doubles with every end of late.

    Args:
        tell: called with a line for each end.
        deadline_s: within which a part must be healthy again, else that is an end too.
        first_pause_s: the pause after a part's first end.
    """

    def __init__(
        self, stack: Stack, tell: Callable[[str], None], deadline_s: float, first_pause_s: float = 1.0
    ) -> None:
        self._stack = stack
        self._tell = tell
        self._deadline_s = deadline_s
        self._first_pause_s = first_pause_s
        self._ends_s: dict[str, deque[float]] = {}

    async def run(self, all_started: asyncio.Event) -> None:
        """Until cancelled.

        Raises:
            StackError: a part ended before `all_started`, or too often since (several such may come as a group).
        """
        async with asyncio.TaskGroup() as group:
            while True:
                death = await self._stack.next_death()
                if not all_started.is_set():
                    raise StackError(death.story)
                group.create_task(self._restart(death, self._count(death)))

    def _count(self, death: Death) -> int:
        """How often the part has ended of late, this time included."""
        now_s = time.monotonic()
        ends_s = self._ends_s.setdefault(death.part.name, deque())
        while ends_s and ends_s[0] <= now_s - RESTARTS_WITHIN_S:
            ends_s.popleft()
        ends_s.append(now_s)
        if len(ends_s) > RESTARTS:
            minutes = RESTARTS_WITHIN_S / 60
            raise StackError(f"{death.story}\n{death.part.name} ended {len(ends_s)} times within {minutes:g} minutes")
        return len(ends_s)

    async def _restart(self, death: Death, count: int) -> None:
        pause_s = self._first_pause_s * 2 ** (count - 1)
        last = f"its log's last line: {death.last_line}" if death.last_line else "its log is empty"
        self._tell(
            f"{death.part.name} ended with exit code {death.exit_code}; {last}; "
            f"started again in {pause_s:g} s ({count} of {RESTARTS})"
        )
        await asyncio.sleep(pause_s)
        await self._stack.restart(death.part, self._deadline_s)


class Demo:
    """The order of things. `began` is the monotonic time from which «first prediction after N s» is counted."""

    def __init__(self, settings: Settings, stack: Stack, show: Show, began: float) -> None:
        self._settings = settings
        self._stack = stack
        self._show = show
        self._began = began
        self._background: set[asyncio.Task[None]] = set()
        self._all_started = asyncio.Event()

    async def run(self, parts: list[Part]) -> int:
        """Start everything, stay until a signal or a part that cannot be kept running, stop everything."""
        stop = stop_event(on_hangup=True)
        work = asyncio.create_task(self._work(parts))
        asked = asyncio.create_task(stop.wait())
        restarts = Restarts(self._stack, self._show.line, self._settings.devstack.startup_s)
        death = asyncio.create_task(restarts.run(self._all_started))
        code = 1
        try:
            await asyncio.wait({work, asked, death}, return_when=asyncio.FIRST_COMPLETED)
            for ended in (work, death):
                if ended.done():
                    ended.result()
            code = 0
        except* StackError as group:
            for error in group.exceptions:
                self._show.line(f"demo: {error}")
        finally:
            self._show.line("stopping …")
            stopping = time.monotonic()
            for task in (work, asked, death, *self._background):
                task.cancel()
            await asyncio.gather(work, asked, death, *self._background, return_exceptions=True)
            await self._stack.stop()
            self._show.line(f"all stopped after {time.monotonic() - stopping:.1f} s")
        return code

    async def _work(self, parts: list[Part]) -> None:
        """Each program starts as soon as what it needs is there; two cores are busy all the way."""
        settings = self._settings
        web = f"http://{settings.streams.web_host}:{settings.streams.web_port}"
        teller = EventTeller(settings, self._show.line, self._first_prediction)
        topics_made = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                ready = {
                    name: group.create_task(self._stack.start(chosen, settings.devstack.startup_s))
                    for name, chosen in _by_need(parts).items()
                }

                async def streams() -> None:
                    await asyncio.gather(ready["kafka"], ready["exchange"])
                    await self._job("topics", TOPICS)
                    await teller.open()
                    topics_made.set()
                    await self._worker(web)

                async def storage() -> None:
                    await asyncio.gather(ready["hdfs"], ready["exchange"])
                    await self._job("backfill", BACKFILL)
                    await topics_made.wait()
                    await self._stack.run(self._room("raw", RAW))
                    if not await has_models(settings):
                        await self._job("train", TRAIN)

                group.create_task(streams())
                group.create_task(storage())
            await self._stack.run(self._room("forecasting", SERVE))
            self._all_started.set()
            self._show.line(f"running; dashboard: {web}/  (Ctrl-C stops everything)")
            watched = frozenset(
                {"kafka", "hdfs", "webhdfs", "web", *(["exchange"] if _by_need(parts)["exchange"] else [])}
            )
            self._keep(follow_health(settings, watched, self._show.line))
            if "exchange" in watched:
                self._keep(follow_replay(exchange_address(settings), self._show.line))
            await teller.follow()
        finally:
            await teller.close()

    def _keep(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _room(self, name: str, command: tuple[str, ...]) -> Part:
        return Part(name, "", command, _unasked, stage=_ROOMS_STAGE, grace_s=_ROOMS_GRACE_S)

    async def _stage(self, name: str, work: Coroutine[None, None, None]) -> None:
        self._show.begin(name)
        await work
        self._show.end(name)

    async def _job(self, name: str, command: tuple[str, ...]) -> None:
        def follow(log: Path) -> None:
            self._show.follow(name, log)

        work = self._stack.job(name, command, stage=_ROOMS_STAGE, grace_s=_ROOMS_GRACE_S, follow=follow)
        await self._stage(name, work)

    async def _worker(self, web: str) -> None:
        worker = Part("streams", web, WORKER, lambda: http_problem(web), stage=_ROOMS_STAGE, grace_s=_ROOMS_GRACE_S)
        await self._stage("streams worker", self._stack.start([worker], self._settings.devstack.startup_s))
        self._show.line(f"dashboard: {web}/")

    def _first_prediction(self) -> None:
        self._show.line(f"first prediction after {time.monotonic() - self._began:.0f} s")


async def has_models(settings: Settings) -> bool:
    """Whether each symbol of the settings has a champion, which forecasting names in files of that folder.

    Raises:
        StackError: WebHDFS does not tell.
    """
    hdfs = settings.hdfs
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
        for symbol in settings.forecasting.symbols:
            url = f"{hdfs.webhdfs}/webhdfs/v1{hdfs.models}/{symbol}/champion"
            try:
                answer = await client.get(url, params={"op": "LISTSTATUS", "user.name": hdfs.user})
                if answer.status_code == httpx.codes.NOT_FOUND:
                    return False
                champions = answer.raise_for_status().json()["FileStatuses"]["FileStatus"]
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                raise StackError(
                    f"hdfs.webhdfs: {hdfs.webhdfs}: which models are there is not told: {error!r}"
                ) from error
            if not champions:
                return False
    return True


async def _unasked() -> str | None:
    return None


def _by_need(parts: list[Part]) -> dict[str, list[Part]]:
    """The stack's parts by what waits for them; one that is left out keeps nobody waiting."""
    needs: dict[str, list[Part]] = {"kafka": [], "hdfs": [], "exchange": []}
    for part in parts:
        quick = replace(part, grace_s=min(part.grace_s, _STACK_GRACE_S))
        needs["hdfs" if part.name in {"namenode", "datanode"} else part.name].append(quick)
    return needs
