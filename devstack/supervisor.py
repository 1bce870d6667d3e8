"""`up` and `down`: the daemon that owns the stack's processes, and the two commands that start and end it."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from clients.logging_setup import set_up_logging
from clients.stop_signals import stop_event
from config import Settings
from config.paths import child_environment, jars_dir
from devstack.checks import check_disk, check_memory, check_ports
from devstack.jars import fetch_jars
from devstack.java import Java, find_java, missing_java
from devstack.process import fresh, keep_small, tail
from devstack.stack import ROOT, Stack, build_parts, exchange_address
from devstack.state import StackState, load_state, only_supervisor
from devstack.terminal import say
from marketdata.errors import StackError

_LOOK_S = 0.05
DOWN_S = 15.0
_log = logging.getLogger(__name__)


def require_java() -> Java:
    """The Java that everything here runs on.

    Raises:
        StackError: there is none; the message says what to install.
    """
    java, refused = find_java(child_environment())
    if java is None:
        raise StackError(missing_java(refused))
    return java


def check_all(settings: Settings, without: frozenset[str], *more_ports: tuple[str, str, str]) -> Java:
    """Everything that must be true before a start; fetches the jars where some are missing.

    `more_ports` are further ones that must be free, as `check_ports` takes them.

    Raises:
        StackError: something is not as it must be; one line that says what to do.
    """
    java = require_java()
    check_memory()
    check_disk(settings.devstack.state_dir)
    wanted = {
        "kafka": [("kafka", settings.kafka.brokers.split(",")[0], "kafka.brokers")],
        "hdfs": [
            ("the HDFS NameNode", settings.hdfs.url, "hdfs.url"),
            ("WebHDFS", settings.hdfs.webhdfs, "hdfs.webhdfs"),
        ],
        "exchange": [("the simulated exchange", exchange_address(settings), "devstack.exchange_port")],
    }
    own = [entry for part, entries in wanted.items() if part not in without for entry in entries]
    check_ports([*own, *more_ports])
    fetch_jars(jars_dir(settings), java, say, settings.devstack.ivy_settings)
    return java


def running_state(settings: Settings) -> StackState | None:
    """The state of the supervisor that runs now; None where none does."""
    state = load_state(settings.devstack.state_dir)
    return state if state is not None and state.supervisor.alive() is not None else None


async def supervise(
    settings: Settings, without: frozenset[str], tell: Callable[[str], None], *, fail_fast: bool = False
) -> int:
    """Run the stack in this process until SIGTERM or SIGINT. Returns the exit code.

    A part that dies while others still start ends it all; one that dies later does so with `fail_fast`, and else is
    told in the state, for the others can still be used.
    """
    folder = settings.devstack.state_dir.resolve()
    java = require_java()
    with only_supervisor(folder) as state:
        stop = stop_event(on_hangup=True)
        environ = {"JAVA_HOME": str(java.home), "BDI_PROFILE": settings.profile}
        stack = Stack(state, folder, tell, environ)
        starting = asyncio.create_task(stack.start(build_parts(settings, java, without), settings.devstack.startup_s))
        stopped, died = asyncio.create_task(stop.wait()), asyncio.create_task(_death(stack))
        log_kept = asyncio.create_task(_keep_own_log(own_log(folder)))
        try:
            await asyncio.wait({starting, stopped, died}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            if died.done():
                died.result()
            await asyncio.wait({stopped, died} if fail_fast else {stopped}, return_when=asyncio.FIRST_COMPLETED)
            if fail_fast and died.done():
                died.result()
        except StackError as error:
            state.error = str(error)
            _log.error("%s", error)
            return 1
        else:
            return 0
        finally:
            for task in (starting, stopped, died, log_kept):
                task.cancel()
            await asyncio.gather(starting, stopped, died, log_kept, return_exceptions=True)
            await stack.stop()


def own_log(folder: Path) -> Path:
    """Where `up` lets the supervisor of a state folder write."""
    return folder / "logs" / "supervisor.log"


def _writes_to(log: Path) -> bool:
    """Whether standard output goes there, as `up` has it: in the foreground that is another's affair."""
    return log.is_file() and os.path.samestat(os.fstat(1), log.stat())


async def _keep_own_log(log: Path) -> None:
    if _writes_to(log):
        await keep_small(log)


async def _death(stack: Stack) -> None:
    death = await stack.next_death()
    raise StackError(death.story)


def up(settings: Settings, without: frozenset[str]) -> None:
    """Start the daemon and wait until all parts are healthy, with a line for each.

    Raises:
        StackError: something hinders the start, or a part did not become healthy; then nothing is left running.
    """
    began = time.monotonic()
    folder = settings.devstack.state_dir
    if running_state(settings) is not None:
        raise StackError(f"the stack already runs in {folder}; look: python -m devstack status; stop it: make down")
    check_all(settings, without)
    log = own_log(folder)
    command = [sys.executable, "-m", "devstack", "up", "--foreground"]
    for left_out in sorted(without):
        command += ["--without", left_out]
    with fresh(log) as output:
        daemon = subprocess.Popen(  # outlives this command on purpose
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=ROOT,
            env=child_environment(BDI_PROFILE=settings.profile, BDI_DEVSTACK__STATE_DIR=str(folder.resolve())),
        )
    try:
        _until_up(daemon, folder, log)
    except BaseException:  # Ctrl-C too: what is not up yet would come up behind the back of who stopped it
        daemon.terminate()
        daemon.wait()
        raise
    say(f"stack up after {time.monotonic() - began:.1f} s; logs in {folder / 'logs'}")


def _until_up(daemon: "subprocess.Popen[bytes]", folder: Path, log: Path) -> None:
    told: set[str] = set()
    while True:
        exit_code = daemon.poll()
        state = load_state(folder)
        mine = state if state is not None and state.supervisor.pid == daemon.pid else None
        if exit_code is not None:
            last = "".join(f"\n  | {line}" for line in tail(log))
            raise StackError(mine.error if mine and mine.error else f"the supervisor ended; the end of {log}:{last}")
        failed = [
            f"{name}: {part.detail}"
            for name, part in (mine.parts if mine else {}).items()
            if name in told and part.state == "failed"
        ]
        if failed:
            raise StackError("; ".join(failed))
        for name, part in (mine.parts if mine else {}).items():
            if part.state == "healthy" and name not in told:
                told.add(name)
                say(f"{name:9} ready at {part.address} after {part.ready_s:.1f} s")
        if mine and mine.parts and all(part.state == "healthy" for part in mine.parts.values()):
            return
        time.sleep(_LOOK_S)


def down(settings: Settings, deadline_s: float = DOWN_S) -> None:
    """Stop the daemon (or the demo) and all it runs; what is left after the deadline is killed."""
    began = time.monotonic()
    state = load_state(settings.devstack.state_dir)
    if state is None:
        say("nothing runs")
        return
    owner = state.supervisor.alive()
    children = [part.process.alive() for part in state.parts.values() if part.process is not None]
    processes = [process for process in (owner, *children) if process is not None]
    if not processes:
        say("nothing runs")
        return
    if owner is not None:
        owner.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(processes, timeout=deadline_s if owner is not None else 0)
    for process in left:
        process.kill()
    _, left = psutil.wait_procs(left, timeout=5)
    if left:
        raise StackError(f"still running after SIGKILL: {', '.join(str(process.pid) for process in left)}")
    say(f"stack down after {time.monotonic() - began:.1f} s")


def logs(settings: Settings, part: str | None, lines: int) -> None:
    """The end of each log, or of one part's."""
    folder = settings.devstack.state_dir / "logs"
    chosen = [folder / f"{part}.log"] if part else sorted(folder.glob("*.log"))
    if not any(path.is_file() for path in chosen):
        known = ", ".join(sorted(path.stem for path in folder.glob("*.log"))) or "none yet"
        raise StackError(f"no log {part or ''} in {folder}; logs there: {known}")
    for path in chosen:
        say(f"== {path}")
        for line in tail(path, lines):
            say(line)


def save_own_log(folder: Path) -> None:
    """Log to standard output, which `up` sends to the supervisor's file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    set_up_logging("INFO", sys.stdout)
    _log.info("supervisor %s for %s", os.getpid(), folder)
