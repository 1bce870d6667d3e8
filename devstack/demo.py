"""The whole product with one command: the stack, then streams, batch and forecasting as programs, until Ctrl-C.

All started processes end with the demo. A second start continues from the stored data: Kafka and HDFS keep their data,
the exchange keeps its clock, and each job finds out what is left to do. After the start, a part that exits is restarted
in the same way, unless it exits too often.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import httpx
from rich.console import Console

from clients.http_health import http_problem
from clients.stop_signals import stop_event
from config import Settings
from devstack.events import EventReporter, follow_health, follow_replay
from devstack.process import tail
from devstack.progress import ProgressReporter, open_reporter, waiting_in
from devstack.stack import Part, PartExit, Stack, build_parts, exchange_address
from devstack.state import StackState, supervisor_lock
from devstack.supervisor import check_all, running_state
from marketdata.errors import StackError

_PYTHON = sys.executable
TOPICS = (_PYTHON, "-m", "faust", "-A", "streams", "topics", "create")
WORKER = (_PYTHON, "-m", "faust", "-A", "streams", "worker", "-l", "info")
BACKFILL = (_PYTHON, "-m", "batch", "backfill", "--retry")
RAW = (_PYTHON, "-m", "batch", "raw")
TRAIN = (_PYTHON, "-m", "forecasting", "train")
SERVE = (_PYTHON, "-m", "forecasting", "serve")

# Ctrl-C must complete within 15 s. Stages stop one after another, first the product's programs (all in one stage).
# A program that exceeds its grace period is killed. That loses no data: every step can be repeated at the next start.
_PROGRAMS_STAGE = 5
_PROGRAMS_GRACE_S = 5.0
_STACK_GRACE_S = 3.0

RESTARTS = 5
"""The demo ends if a part exits more often than this within `RESTARTS_WITHIN_S`."""
RESTARTS_WITHIN_S = 600.0


def run_demo(settings: Settings) -> int:
    """Run until Ctrl-C, SIGTERM or a part that exits too often. Return the exit code.

    Raises:
        StackError: a check before the start failed.
    """
    began = time.monotonic()
    without = frozenset[str]() if settings.profile == "demo" else frozenset({"exchange"})
    running = running_state(settings)
    if running is not None:
        raise StackError(_already_running(settings.devstack.state_dir, running))
    web_port = ("the dashboard", f"{settings.streams.web_host}:{settings.streams.web_port}", "streams.web_port")
    java = check_all(settings, without, web_port)
    progress = open_reporter(Console(soft_wrap=True))
    try:
        with supervisor_lock(settings.devstack.state_dir) as state:
            stack = Stack(
                state,
                settings.devstack.state_dir.resolve(),
                progress.line,
                {"JAVA_HOME": str(java.home), "BDI_PROFILE": settings.profile},
            )
            parts = build_parts(settings, java, without)
            return asyncio.run(Demo(settings, stack, progress, began).run(parts))
    finally:
        progress.close()


def _already_running(folder: Path, running: StackState) -> str:
    worker = running.parts.get("streams")
    where = f"dashboard: {worker.address}/" if worker is not None else "no dashboard yet"
    return f"a stack already runs in {folder} ({where}); stop it with: make down"


class Restarts:
    """Restarts parts that exit, each after a pause that doubles with every recent exit of the part.

    Args:
        report: called with a line for each exit.
        deadline_s: time within which a part must be healthy again; otherwise it is stopped, which counts as an exit.
        first_pause_s: pause after a part's first exit.
    """

    def __init__(
        self, stack: Stack, report: Callable[[str], None], deadline_s: float, first_pause_s: float = 1.0
    ) -> None:
        self._stack = stack
        self._report = report
        self._deadline_s = deadline_s
        self._first_pause_s = first_pause_s
        self._ends_s: dict[str, deque[float]] = {}

    async def run(self, all_started: asyncio.Event) -> None:
        """Restart parts until cancelled.

        Raises:
            ExceptionGroup: of StackError: a part exited before `all_started`, or too often after it.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                part_exit = await self._stack.next_exit()
                if not all_started.is_set():
                    raise StackError(part_exit.summary)
                group.create_task(self._restart(part_exit, self._count(part_exit)))

    def _count(self, part_exit: PartExit) -> int:
        """Number of the part's exits within `RESTARTS_WITHIN_S`, including this one."""
        now_s = time.monotonic()
        ends_s = self._ends_s.setdefault(part_exit.part.name, deque())
        while ends_s and ends_s[0] <= now_s - RESTARTS_WITHIN_S:
            ends_s.popleft()
        ends_s.append(now_s)
        if len(ends_s) > RESTARTS:
            minutes = RESTARTS_WITHIN_S / 60
            name = part_exit.part.name
            raise StackError(f"{part_exit.summary}\n{name} ended {len(ends_s)} times within {minutes:g} minutes")
        return len(ends_s)

    async def _restart(self, part_exit: PartExit, count: int) -> None:
        pause_s = self._first_pause_s * 2 ** (count - 1)
        last = f"last log line: {part_exit.last_line!r}" if part_exit.last_line else "the log is empty"
        self._report(
            f"{part_exit.part.name} ended with exit code {part_exit.exit_code}; {last}; "
            f"restart in {pause_s:g} s ({count} of {RESTARTS})"
        )
        await asyncio.sleep(pause_s)
        await self._stack.restart(part_exit.part, self._deadline_s)


class Demo:
    """Starts and stops everything in order.

    Args:
        began: monotonic time of the start, for the line "first prediction after N s".
    """

    def __init__(self, settings: Settings, stack: Stack, progress: ProgressReporter, began: float) -> None:
        self._settings = settings
        self._stack = stack
        self._progress = progress
        self._began = began
        self._background: set[asyncio.Task[None]] = set()
        self._all_started = asyncio.Event()

    async def run(self, parts: list[Part]) -> int:
        """Start everything, wait for a signal or a part that exits too often, and stop. Return the exit code."""
        stop = stop_event(on_hangup=True)
        work = asyncio.create_task(self._work(parts))
        stop_requested = asyncio.create_task(stop.wait())
        restarts = Restarts(self._stack, self._progress.line, self._settings.devstack.startup_s)
        restarting = asyncio.create_task(restarts.run(self._all_started))
        code = 1
        try:
            await asyncio.wait({work, stop_requested, restarting}, return_when=asyncio.FIRST_COMPLETED)
            for ended in (work, restarting):
                if ended.done():
                    ended.result()
            code = 0
        except* StackError as group:
            for error in group.exceptions:
                self._progress.line(f"demo: {error}")
        finally:
            self._progress.line("stopping …")
            stopping = time.monotonic()
            for task in (work, stop_requested, restarting, *self._background):
                task.cancel()
            await asyncio.gather(work, stop_requested, restarting, *self._background, return_exceptions=True)
            await self._stack.stop()
            self._progress.line(f"stopped after {time.monotonic() - stopping:.1f} s")
        return code

    async def _work(self, parts: list[Part]) -> None:
        """Start each program as soon as its dependencies are ready; this keeps two cores busy."""
        settings = self._settings
        web = f"http://{settings.streams.web_host}:{settings.streams.web_port}"
        events = EventReporter(settings, self._progress.line, self._first_prediction)
        topics_made = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                ready = {
                    name: group.create_task(self._stack.start(chosen, settings.devstack.startup_s))
                    for name, chosen in _by_dependency(parts).items()
                }

                async def streams() -> None:
                    await asyncio.gather(ready["kafka"], ready["exchange"])
                    await self._job("topics", "create topics", TOPICS)
                    await events.open()
                    topics_made.set()
                    await self._worker(web)

                async def storage() -> None:
                    await asyncio.gather(ready["hdfs"], ready["exchange"])
                    has_history = await self.load_history(BACKFILL)
                    await topics_made.wait()
                    await self._stack.run(self._program("raw", RAW))
                    if has_history and not await has_models(settings):
                        await self.train(TRAIN)

                group.create_task(streams())
                group.create_task(storage())
            await self._stack.run(self._program("forecasting", SERVE))
            self._all_started.set()
            self._progress.line(f"running; dashboard: {web}/ (press Ctrl-C to stop everything)")
            watched = frozenset(
                {"kafka", "hdfs", "webhdfs", "web", *(["exchange"] if _by_dependency(parts)["exchange"] else [])}
            )
            self._run_in_background(follow_health(settings, watched, self._progress.line))
            if "exchange" in watched:
                self._run_in_background(follow_replay(exchange_address(settings), self._progress.line))
            await events.follow()
        finally:
            await events.close()

    def _run_in_background(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _program(self, name: str, command: tuple[str, ...]) -> Part:
        return Part(name, "", command, _no_check, stage=_PROGRAMS_STAGE, grace_s=_PROGRAMS_GRACE_S)

    async def load_history(self, command: tuple[str, ...]) -> bool:
        """Run the backfill until it is complete or has to wait; then it continues in the background.

        Returns:
            Whether it is complete.

        Raises:
            StackError: it ended with another exit code than 0 before it had to wait.
        """
        waits = asyncio.Event()
        job = asyncio.create_task(self._job("backfill", "load history", command, waits))
        waiting = asyncio.create_task(waits.wait())
        try:
            await asyncio.wait({job, waiting}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            job.cancel()
            raise
        finally:
            waiting.cancel()
        if job.done():
            job.result()
            return True
        self._progress.line(
            "load history: continues in the background; what answers is collected meanwhile, and forecasts start "
            "when there is history"
        )
        self._run_in_background(self._without_failing("load history", job))
        return False

    async def train(self, command: tuple[str, ...]) -> None:
        """Train the first models; if that fails, the forecaster tries again while it serves."""
        work = self._job("train", "train models", command)
        await self._without_failing("train models", work, "; the forecaster trains again in the background")

    async def _without_failing(self, label: str, work: Awaitable[None], effect: str = "") -> None:
        try:
            await work
        except StackError as error:
            self._progress.line(f"{label} failed{effect}: {error}")

    async def _stage(self, label: str, work: Coroutine[None, None, None]) -> None:
        self._progress.begin(label)
        try:
            await work
        except StackError:
            self._progress.drop(label)
            raise
        self._progress.end(label)

    async def _job(self, name: str, label: str, command: tuple[str, ...], waits: asyncio.Event | None = None) -> None:
        """Run a program to its end. `waits` is set when it has to wait; each reason is reported once.

        Raises:
            StackError: the exit code is not 0.
        """
        reported: str | None = None

        def follow(log: Path) -> None:
            nonlocal reported
            self._progress.follow(label, log)
            reason = waiting_in(tail(log))
            if reason is not None and reason != reported:
                self._progress.line(f"waiting     {reason}")
                reported = reason
            if reason is not None and waits is not None:
                waits.set()

        work = self._stack.job(name, command, stage=_PROGRAMS_STAGE, grace_s=_PROGRAMS_GRACE_S, follow=follow)
        await self._stage(label, work)

    async def _worker(self, web: str) -> None:
        worker = replace(self._program("streams", WORKER), address=web, problem=lambda: http_problem(web))
        await self._stage("start streams worker", self._stack.start([worker], self._settings.devstack.startup_s))
        self._progress.line(f"dashboard: {web}/")

    def _first_prediction(self) -> None:
        self._progress.line(f"first prediction after {time.monotonic() - self._began:.0f} s")


async def has_models(settings: Settings) -> bool:
    """Whether each symbol of the settings has a champion: a file in `hdfs.models`/SYMBOL/champion.

    Raises:
        StackError: WebHDFS does not answer, or its answer is malformed.
    """
    hdfs = settings.hdfs
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
        for symbol in settings.forecasting.symbols:
            url = f"{hdfs.webhdfs}/webhdfs/v1{hdfs.models}/{symbol}/champion"
            try:
                response = await client.get(url, params={"op": "LISTSTATUS", "user.name": hdfs.user})
                if response.status_code == httpx.codes.NOT_FOUND:
                    return False
                champions = response.raise_for_status().json()["FileStatuses"]["FileStatus"]
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                raise StackError(f"hdfs.webhdfs: {hdfs.webhdfs}: cannot list the champions: {error!r}") from error
            if not champions:
                return False
    return True


async def _no_check() -> str | None:
    return None


def _by_dependency(parts: list[Part]) -> dict[str, list[Part]]:
    """Group the stack's parts by dependency of the other programs; the group of an omitted part is empty."""
    groups: dict[str, list[Part]] = {"kafka": [], "hdfs": [], "exchange": []}
    for part in parts:
        quick = replace(part, grace_s=min(part.grace_s, _STACK_GRACE_S))
        groups["hdfs" if part.name in {"namenode", "datanode"} else part.name].append(quick)
    return groups
