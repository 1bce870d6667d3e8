"""Child processes that cannot outlive their parent, each with a log of its own that is kept small."""

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_log = logging.getLogger(__name__)
_LAUNCHER = Path(__file__).with_name("child.py")
_TAIL_BYTES = 16_384
LOG_BYTES = 10 << 20
"""A log longer than this is moved to its `.1` and begun anew: a program has twice this, and what one look missed."""
LOG_LOOK_S = 5.0


def tail(log: Path, lines: int = 15) -> list[str]:
    """The last lines of a log, as text; nothing where there is no log."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-lines:]


def fresh(log: Path) -> BinaryIO:
    """A new log to write to; that of the run before is kept beside as `.1`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(_before(log))
    return log.open("ab")  # so that what is written after `keep_small` lands at the new end


def _before(log: Path) -> Path:
    return log.with_name(log.name + ".1")


async def keep_small(log: Path) -> None:
    """Copy a log that has grown too long to its `.1` and empty it (logrotate's copytruncate), until cancelled.

    The program that writes it keeps the file open, and any program may: nothing but its end could be made to reopen it.
    What is written within the copy's last milliseconds can be missing from both files.
    """
    while True:
        await asyncio.sleep(LOG_LOOK_S)
        try:
            _move_when_long(log)  # within milliseconds; a thread would go on when this is cancelled
        except FileNotFoundError:
            continue  # it was removed: nothing to move, and nothing to tell again and again
        except OSError as error:
            _log.warning("%s cannot be kept small: %s", log, error)


def _move_when_long(log: Path) -> None:
    if log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, _before(log))
        os.truncate(log, 0)


def bound(command: Sequence[str]) -> list[str]:
    """The command that becomes `command`, and dies with the process that starts it."""
    return [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command]


class Child:
    """A running program. Start it from the main thread: the death signal is tied to the thread that starts it."""

    def __init__(self, name: str, log: Path, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(cls, name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> "Child":
        """Run `command` in a process group of its own; the log of the run before is kept beside as `.1`."""
        with fresh(log) as output:
            process = await asyncio.create_subprocess_exec(
                *bound(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        return cls(name, log, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number where a signal ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        """Its exit code, when it has ended; its log is kept small meanwhile."""
        kept = asyncio.create_task(keep_small(self.log))
        try:
            return await self._process.wait()
        finally:
            kept.cancel()

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, and kill its whole group when it has not within `grace_s`, or left others behind."""
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_s)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()
