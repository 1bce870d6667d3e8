"""The supervisor daemon, parent of the stack's processes, and the commands `up`, `down` and `logs`."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from clients.logging_setup import set_up_logging
from clients.stop_signals import stop_event
from config import Settings
from config.paths import PRIVATE_UMASK, child_environment, jars_dir, private_dir, work_dir
from devstack.checks import check_disk, check_memory, check_ports
from devstack.jars import fetch_jars
from devstack.java import Java, find_java, missing_java
from devstack.process import fresh, rotate_when_large, tail
from devstack.stack import Stack, build_parts, exchange_address
from devstack.state import StackState, load_state, supervisor_lock
from devstack.terminal import print_line
from marketdata.errors import StackError

_POLL_S = 0.05
DOWN_S = 15.0
_log = logging.getLogger(__name__)


def require_java() -> Java:
    """Return the Java for Kafka, HDFS and Spark.

    Raises:
        StackError: there is none; the message names the package to install.
    """
    java, rejected = find_java(child_environment())
    if java is None:
        raise StackError(missing_java(rejected))
    return java


def check_all(settings: Settings, without: frozenset[str], *more_ports: tuple[str, str, str]) -> Java:
    """Run all checks before a start, and download missing jars.

    Args:
        settings: the settings of the stack.
        without: parts that are not started.
        more_ports: additional entries for `check_ports`.

    Raises:
        StackError: a check failed; the message is one line with a remedy.
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
    fetch_jars(jars_dir(settings), java, print_line, settings.devstack.ivy_settings)
    return java


def running_state(settings: Settings) -> StackState | None:
    """Return the state of the running supervisor, or None if none is running."""
    state = load_state(settings.devstack.state_dir)
    return state if state is not None and state.supervisor.alive() is not None else None


async def supervise(
    settings: Settings, without: frozenset[str], report: Callable[[str], None], *, fail_fast: bool = False
) -> int:
    """Run the stack in this process until SIGTERM or SIGINT. Return the exit code.

    A part that exits during the start stops the stack. A part that exits later stops it only with `fail_fast`;
    otherwise its state becomes `failed`, and the other parts remain usable.
    """
    folder = settings.devstack.state_dir.resolve()
    java = require_java()
    with supervisor_lock(folder) as state:
        stop = stop_event(on_hangup=True)
        environ = {"JAVA_HOME": str(java.home), "BDI_PROFILE": settings.profile}
        stack = Stack(state, folder, report, environ)
        starting = asyncio.create_task(stack.start(build_parts(settings, java, without), settings.devstack.startup_s))
        stopped, exited = asyncio.create_task(stop.wait()), asyncio.create_task(_raise_on_exit(stack))
        log_kept = asyncio.create_task(_rotate_own_log(own_log(folder)))
        try:
            await asyncio.wait({starting, stopped, exited}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            if exited.done():
                exited.result()
            await asyncio.wait({stopped, exited} if fail_fast else {stopped}, return_when=asyncio.FIRST_COMPLETED)
            if fail_fast and exited.done():
                exited.result()
        except StackError as error:
            state.error = str(error)
            _log.error("%s", error)
            return 1
        else:
            return 0
        finally:
            for task in (starting, stopped, exited, log_kept):
                task.cancel()
            await asyncio.gather(starting, stopped, exited, log_kept, return_exceptions=True)
            await stack.stop()


def own_log(folder: Path) -> Path:
    """Log file to which `up` redirects the supervisor's output."""
    return folder / "logs" / "supervisor.log"


def _writes_to(log: Path) -> bool:
    """Whether standard output is this file, as `up` redirects it; in the foreground the caller owns the output."""
    return log.is_file() and os.path.samestat(os.fstat(1), log.stat())


async def _rotate_own_log(log: Path) -> None:
    if _writes_to(log):
        await rotate_when_large(log)


async def _raise_on_exit(stack: Stack) -> None:
    part_exit = await stack.next_exit()
    raise StackError(part_exit.summary)


def up(settings: Settings, without: frozenset[str]) -> None:
    """Start the daemon, wait until all parts are healthy, and print a line for each.

    Raises:
        StackError: a check failed or a part did not become healthy; then no process is left running.
    """
    began = time.monotonic()
    folder = settings.devstack.state_dir
    if running_state(settings) is not None:
        raise StackError(
            f"a stack already runs in {folder}; show it with: python -m devstack status; stop it with: make down"
        )
    check_all(settings, without)
    log = own_log(folder)
    command = [sys.executable, "-m", "devstack", "up", "--foreground"]
    for part in sorted(without):
        command += ["--without", part]
    with fresh(log) as output:
        daemon = subprocess.Popen(  # keeps running after this command
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=work_dir(),
            umask=PRIVATE_UMASK,
            env=child_environment(BDI_PROFILE=settings.profile, BDI_DEVSTACK__STATE_DIR=str(folder.resolve())),
        )
    try:
        _wait_until_up(daemon, folder, log)
    except BaseException:  # also on Ctrl-C: otherwise the daemon would continue in the background
        daemon.terminate()
        daemon.wait()
        raise
    print_line(f"stack up after {time.monotonic() - began:.1f} s; logs in {folder / 'logs'}")


def _wait_until_up(daemon: "subprocess.Popen[bytes]", folder: Path, log: Path) -> None:
    reported: set[str] = set()
    while True:
        exit_code = daemon.poll()
        state = load_state(folder)
        own = state if state is not None and state.supervisor.pid == daemon.pid else None
        if exit_code is not None:
            last = "".join(f"\n  | {line}" for line in tail(log))
            raise StackError(own.error if own and own.error else f"the supervisor ended; last lines of {log}:{last}")
        failed = [
            f"{name}: {part.detail}"
            for name, part in (own.parts if own else {}).items()
            if name in reported and part.state == "failed"
        ]
        if failed:
            raise StackError("; ".join(failed))
        for name, part in (own.parts if own else {}).items():
            if part.state == "healthy" and name not in reported:
                reported.add(name)
                print_line(f"{name:9} ready at {part.address} after {part.ready_s:.1f} s")
        if own and own.parts and all(part.state == "healthy" for part in own.parts.values()):
            return
        time.sleep(_POLL_S)


def down(settings: Settings, deadline_s: float = DOWN_S) -> None:
    """Stop the daemon or the demo and its processes; kill the processes that remain after the deadline."""
    began = time.monotonic()
    state = load_state(settings.devstack.state_dir)
    if state is None:
        print_line("nothing is running")
        return
    owner = state.supervisor.alive()
    children = [part.process.alive() for part in state.parts.values() if part.process is not None]
    processes = [process for process in (owner, *children) if process is not None]
    if not processes:
        print_line("nothing is running")
        return
    if owner is not None:
        owner.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(processes, timeout=deadline_s if owner is not None else 0)
    for process in left:
        process.kill()
    _, left = psutil.wait_procs(left, timeout=5)
    if left:
        raise StackError(f"processes still running after SIGKILL: {', '.join(str(process.pid) for process in left)}")
    print_line(f"stack down after {time.monotonic() - began:.1f} s")


def logs(settings: Settings, programs: Sequence[str] | None, lines: int) -> None:
    """Print the last lines of the programs' logs; None: of all logs.

    Raises:
        StackError: there is no log.
    """
    folder = settings.devstack.state_dir / "logs"
    logs = sorted(folder.glob("*.log"))
    chosen = [log for log in logs if programs is None or log.stem.removesuffix("-format") in programs]
    if not chosen:
        known = ", ".join(log.stem for log in logs) or "none yet"
        raise StackError(f"no log of {', '.join(programs or ['any program'])} in {folder}; available logs: {known}")
    for path in chosen:
        print_line(f"== {path}")
        for line in tail(path, lines):
            print_line(line)


def log_to_stdout(folder: Path) -> None:
    """Log to standard output, which `up` redirects to the supervisor's log in `folder`."""
    private_dir(folder)
    set_up_logging("INFO", sys.stdout)
    _log.info("supervisor pid %s, state folder %s", os.getpid(), folder)
