"""The stack as a set of supervised parts: command, health check and stop order of each."""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clients.http_health import hdfs_problem, http_problem, webhdfs_problem
from config import Settings, paths
from config.paths import child_environment, existing, jars_dir, work_dir
from devstack.hdfs import Hdfs
from devstack.health import kafka_problem
from devstack.java import Java
from devstack.kafka import Kafka
from devstack.process import Child, tail
from devstack.state import SCRATCH, PartState, ProcessId, StackState
from marketdata.errors import StackError

ROOT = paths.ROOT
PARTS = ("kafka", "hdfs", "exchange")
_POLL_S = 0.1
_FOLLOW_S = 0.5
_LAST_LINE_CHARS = 200
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """One program of the stack.

    Attributes:
        stage: parts of a higher stage stop first.
        prepare: a command that must succeed before `command` starts, or None.
        problem: health check; returns None for a healthy part, otherwise the reason.
        grace_s: time between SIGTERM and SIGKILL, in seconds.
    """

    name: str
    address: str
    command: Sequence[str]
    problem: Callable[[], Awaitable[str | None]]
    stage: int = 0
    prepare: Sequence[str] | None = None
    grace_s: float = 8.0
    extra_env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartExit:
    """The unexpected exit of a part, with the last line of its log, and a summary that quotes the end of the log."""

    part: Part
    exit_code: int
    last_line: str
    summary: str


async def _no_check() -> str | None:
    return None


def exchange_address(settings: Settings) -> str:
    """URL of the simulated exchange."""
    return f"http://127.0.0.1:{settings.devstack.exchange_port}"


def exchange_command(settings: Settings) -> list[str]:
    """Return the command of the simulated exchange; its clock continues from its state file."""
    own = settings.devstack
    ids = [f"{base}={coin_id}" for base, coin_id in settings.coingecko.coin_ids.items()]
    return [
        sys.executable,
        "-m",
        "devstack",
        "exchange",
        "--data",
        str(existing(own.exchange_data)),
        "--start",
        own.exchange_start,
        "--speed",
        f"{own.exchange_speed:g}",
        "--port",
        str(own.exchange_port),
        "--state-file",
        str((own.state_dir / "exchange.json").resolve()),
        "--seed",
        str(own.exchange_seed),
        "--markets",
        *(f"{one.base}-{one.usd_asset}" if one.quote == "USD" else one.symbol for one in settings.parsed_markets),
        *(["--coin-ids", *ids] if ids else []),
    ]


def build_parts(settings: Settings, java: Java, without: frozenset[str] = frozenset()) -> list[Part]:
    """Write the configuration of the parts and return them, except those in `without`."""
    own = settings.devstack
    folder, jars = own.state_dir.resolve(), jars_dir(settings)
    scratch = folder / SCRATCH
    parts: list[Part] = []
    if "kafka" not in without:
        kafka = Kafka(
            folder / "kafka", settings.kafka.brokers, settings.kafka.partitions, own.kafka_heap, java, jars, scratch
        )
        kafka.configure()
        parts.append(
            Part(
                "kafka",
                settings.kafka.brokers,
                kafka.command,
                lambda: kafka_problem(settings.kafka),
                prepare=None if kafka.formatted else kafka.format_command,
            )
        )
    if "hdfs" not in without:
        hdfs = Hdfs(folder / "hdfs", settings.hdfs.url, settings.hdfs.webhdfs, own.hdfs_heap, java, jars, scratch)
        hdfs.configure()
        parts += [
            Part(
                "namenode",
                settings.hdfs.webhdfs,
                hdfs.namenode_command,
                lambda: webhdfs_problem(settings.hdfs.webhdfs),
                prepare=None if hdfs.formatted else hdfs.format_command,
            ),
            Part(
                "datanode",
                settings.hdfs.url,
                hdfs.datanode_command,
                lambda: hdfs_problem(settings.hdfs.webhdfs),
                stage=1,
            ),
        ]
    if "exchange" not in without:
        address = exchange_address(settings)
        parts.append(
            Part(
                "exchange",
                address,
                exchange_command(settings),
                lambda: http_problem(f"{address}/binance/api/v3/ping"),
                stage=2,
                grace_s=3.0,
            )
        )
    return parts


class Stack:
    """Starts parts, waits until they are healthy, detects exits, and stops parts. Not thread-safe.

    Args:
        state: saved to `folder` at each change.
        folder: the state folder; logs are in its subfolder `logs`.
        report: called with each line for the user.
        env: environment variables of the parts, in addition to this process's.
    """

    def __init__(self, state: StackState, folder: Path, report: Callable[[str], None], env: Mapping[str, str]) -> None:
        self._state = state
        self._folder = folder
        self._report = report
        # Temporary files go to the scratch folder; the second variable is for the JVM that launches Spark.
        scratch_env = {"TMPDIR": str(folder / SCRATCH), "SPARK_LAUNCHER_OPTS": "-XX:-UsePerfData"}
        self._env = child_environment(**{**scratch_env, **env})
        self._running: dict[str, tuple[Part, Child]] = {}
        self._exits: asyncio.Queue[PartExit] = asyncio.Queue()
        self._watchers: set[asyncio.Task[None]] = set()
        self._stopping: set[str] = set()

    def log_of(self, name: str) -> Path:
        return self._folder / "logs" / f"{name}.log"

    def _save(self) -> None:
        self._state.save(self._folder)

    async def start(self, parts: Sequence[Part], deadline_s: float) -> None:
        """Start all parts at once and wait until each is healthy.

        Raises:
            StackError: a part exited, or was not healthy within `deadline_s`; the message quotes the end of its log.
        """
        for part in parts:
            self._state.parts[part.name] = PartState(part.address)
        self._save()
        tasks = [asyncio.create_task(self._start_and_wait(part, deadline_s)) for part in parts]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _start_and_wait(self, part: Part, deadline_s: float) -> None:
        began = time.monotonic()
        status = self._state.parts[part.name]
        try:
            if part.prepare is not None:
                await self.job(f"{part.name}-format", part.prepare)
            child = await self.run(part)
            await self._wait_until_healthy(part, child, began + deadline_s)
        except StackError as error:
            status.state, status.detail = "failed", str(error)
            self._save()
            raise
        status.state, status.detail, status.ready_s = "healthy", "", round(time.monotonic() - began, 2)
        self._save()
        self._report(f"{part.name} ready at {part.address} after {status.ready_s:.1f} s")

    async def job(
        self,
        name: str,
        command: Sequence[str],
        *,
        stage: int = 0,
        grace_s: float = 5.0,
        follow: Callable[[Path], None] | None = None,
    ) -> None:
        """Run a program to its end; `stop` stops it like a part. `follow` is called with its log every 0.5 s.

        Raises:
            StackError: the exit code is not 0; the message quotes the end of its log.
        """
        child = await Child.start(name, command, env=self._env, cwd=work_dir(), log=self.log_of(name))
        self._running[name] = (Part(name, "", command, _no_check, stage=stage, grace_s=grace_s), child)
        ended = asyncio.create_task(child.wait())
        while not ended.done():
            await asyncio.wait({ended}, timeout=None if follow is None else _FOLLOW_S)
            if follow is not None:
                follow(child.log)
        self._running.pop(name, None)
        if ended.result() != 0 and name not in self._stopping:
            raise StackError(self._with_log_tail(name, f"ended with exit code {ended.result()}"))

    async def run(self, part: Part) -> Child:
        """Start a part without waiting for its health; `next_exit` reports its exit."""
        child = await Child.start(
            part.name, part.command, env={**self._env, **part.extra_env}, cwd=work_dir(), log=self.log_of(part.name)
        )
        self._running[part.name] = (part, child)
        status = self._state.parts.setdefault(part.name, PartState(part.address))
        status.process = ProcessId.of(child.pid)
        self._save()
        watcher = asyncio.create_task(self._watch(part, child))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return child

    async def _wait_until_healthy(self, part: Part, child: Child, deadline: float) -> None:
        problem: str | None = "not checked yet"
        while problem is not None:
            if child.exit_code is not None:
                raise StackError(
                    self._with_log_tail(part.name, f"ended with exit code {child.exit_code} while starting")
                )
            if time.monotonic() > deadline:
                raise StackError(
                    self._with_log_tail(part.name, f"not healthy within the time limit (devstack.startup_s): {problem}")
                )
            problem = await part.problem()
            if problem is not None:
                await asyncio.sleep(_POLL_S)

    def _with_log_tail(self, name: str, what: str) -> str:
        log = self.log_of(name)
        last = "".join(f"\n  | {line}" for line in tail(log))
        return f"{name}: {what}; last lines of {log}:{last}"

    async def _watch(self, part: Part, child: Child) -> None:
        code, name = await child.wait(), part.name
        if name in self._stopping:
            return
        await child.stop(0)  # kill its child processes before it is restarted
        self._running.pop(name, None)
        status = self._state.parts[name]
        if status.state != "failed":
            status.state, status.detail = "failed", f"ended with exit code {code}"
            self._save()
        _log.info("%s ended with exit code %s; log: %s", name, code, child.log)
        last = next((line.strip() for line in reversed(tail(child.log)) if line.strip()), "")
        last = last if len(last) <= _LAST_LINE_CHARS else f"{last[:_LAST_LINE_CHARS]}…"
        self._exits.put_nowait(PartExit(part, code, last, self._with_log_tail(name, f"ended with exit code {code}")))

    async def next_exit(self) -> PartExit:
        """Wait for the next unexpected exit of a part."""
        return await self._exits.get()

    async def restart(self, part: Part, deadline_s: float) -> None:
        """Restart a part that exited, on its stored data, and wait until it is healthy.

        A part that is not healthy within `deadline_s` is stopped. `next_exit` reports every new exit.
        """
        began = time.monotonic()
        status = self._state.parts[part.name]
        status.state, status.detail = "starting", ""
        child = await self.run(part)
        try:
            await self._wait_until_healthy(part, child, began + deadline_s)
        except StackError as error:
            if child.exit_code is None:
                self._report(str(error))
                await child.stop(part.grace_s)
            return
        if child.exit_code is not None:  # it exited during the health check
            return
        status.state, status.ready_s = "healthy", round(time.monotonic() - began, 2)
        self._save()
        if part.address:  # parts without an address have no health check
            self._report(f"{part.name} healthy again at {part.address} after {status.ready_s:.1f} s")

    async def stop(self, names: Sequence[str] | None = None) -> None:
        """Stop the named parts, or all: higher stages first, the parts of one stage together."""
        chosen = [both for name, both in self._running.items() if names is None or name in names]
        self._stopping.update(part.name for part, _ in chosen)
        for stage in sorted({part.stage for part, _ in chosen}, reverse=True):
            together = [(part, child) for part, child in chosen if part.stage == stage]
            await asyncio.gather(*(child.stop(part.grace_s) for part, child in together))
            for part, _ in together:
                status = self._state.parts.get(part.name)
                if status is not None and status.state != "failed":
                    status.state = "stopped"
                self._running.pop(part.name, None)
        self._save()
