"""Child programs of the stack: each ends with its parent and writes a log whose size is bounded."""

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from clients.process import bound
from config.paths import PRIVATE_UMASK, private_dir

_log = logging.getLogger(__name__)
_TAIL_BYTES = 16_384
_LINE_BYTES = 512  # enough for most lines
LOG_BYTES = 10 << 20
"""Size at which a log is rotated to `.1`: one program's logs hold about twice this, plus what `LOG_CHECK_S` adds."""
LOG_CHECK_S = 5.0


def tail(log: Path, lines: int = 15) -> list[str]:
    """The last lines of a log; empty if the log does not exist."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - max(_TAIL_BYTES, lines * _LINE_BYTES)))
        return file.read().decode(errors="replace").splitlines()[-lines:]


def fresh(log: Path) -> BinaryIO:
    """An empty log, open for writing; the log of the previous run is kept as `.1`."""
    private_dir(log.parent)
    if log.exists():
        log.replace(_rotated(log))
    log.touch(mode=0o600)
    return log.open("ab")  # append mode: writes after a rotation go to the new end of the file


def _rotated(log: Path) -> Path:
    return log.with_name(log.name + ".1")


async def rotate_when_large(log: Path) -> None:
    """Rotate a log that exceeds `LOG_BYTES` by copying and truncating it (logrotate's copytruncate), until cancelled.

    The writing program keeps the file open and cannot be made to reopen it. Lines written during the last milliseconds
    of the copy can be missing from both files.
    """
    while True:
        await asyncio.sleep(LOG_CHECK_S)
        try:
            _rotate_if_large(log)  # takes milliseconds; a thread would outlive a cancellation
        except FileNotFoundError:
            continue  # the log was removed
        except OSError as error:
            _log.warning("%s: cannot be rotated: %s", log, error)


def _rotate_if_large(log: Path) -> None:
    if log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, _rotated(log))
        shutil.copymode(log, _rotated(log))
        os.truncate(log, 0)


class Child:
    """A running program. Start it from the main thread (see `clients.process.bound`)."""

    def __init__(self, name: str, log: Path, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(cls, name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> "Child":
        """Run `command` in a new process group; the log of the previous run is kept as `.1`."""
        with fresh(log) as output:
            process = await asyncio.create_subprocess_exec(
                *bound(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                umask=PRIVATE_UMASK,
                start_new_session=True,
            )
        return cls(name, log, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while the program runs; the negative signal number if a signal ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end and return the exit code; the log is rotated meanwhile."""
        kept = asyncio.create_task(rotate_when_large(self.log))
        try:
            return await self._process.wait()
        finally:
            kept.cancel()

    async def stop(self, grace_s: float) -> None:
        """Send SIGTERM, wait up to `grace_s` seconds, then kill whatever is left of its process group."""
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_s)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()
