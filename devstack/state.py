"""The state file of a running stack, for `status` and `down`: its supervisor, its child processes, their state."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from config.paths import private_dir
from marketdata.errors import StackError

SCRATCH = "tmp"
"""Subfolder of the state folder for temporary files of the programs; it exists only while the stack runs."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process id with the start time (seconds since the epoch), which distinguishes it from a reused process id."""

    pid: int
    created_s: float

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """Return None if the process does not exist."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def alive(self) -> psutil.Process | None:
        """Return the process if it is running; None for a zombie."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created_s) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None


@dataclass(slots=True)
class PartState:
    """One part: `state` is starting, healthy, failed or stopped; `detail` is the reason of a failure."""

    address: str
    state: str = "starting"
    detail: str = ""
    ready_s: float | None = None
    process: ProcessId | None = None


@dataclass(slots=True)
class StackState:
    """The state of the whole stack."""

    supervisor: ProcessId
    parts: dict[str, PartState] = field(default_factory=dict)
    error: str = ""

    def save(self, folder: Path) -> None:
        """Replace the file atomically, so that a reader never sees a partial file."""
        path = folder / "stack.json"
        draft = path.with_suffix(".tmp")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        draft.replace(path)


def _process(raw: dict[str, Any] | None) -> ProcessId | None:
    return None if raw is None else ProcessId(raw["pid"], raw["created_s"])


def load_state(folder: Path) -> StackState | None:
    """Return the state that the last supervisor saved, or None if there is none.

    Raises:
        StackError: the file is malformed.
    """
    path = folder / "stack.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        parts = {
            name: PartState(**{**part, "process": _process(part["process"])}) for name, part in raw["parts"].items()
        }
        return StackState(ProcessId(**raw["supervisor"]), parts, raw["error"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path}: not a state file of the stack ({error!r}); stop what it ran, then remove it"
        raise StackError(msg) from error


@contextmanager
def supervisor_lock(folder: Path) -> Iterator[StackState]:
    """Lock the state folder for the context; its scratch folder is created empty and removed at the end.

    Raises:
        StackError: another supervisor holds the lock.
    """
    private_dir(folder)
    (folder / "lock").touch(mode=0o600)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"a stack already runs in {folder}; show it with: python -m devstack status; stop it with: make down"
            raise StackError(msg) from error
        me = ProcessId.of(os.getpid())
        if me is None:
            msg = "this process is not in the process table"
            raise StackError(msg)
        scratch = folder / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # leftovers of a killed run
        private_dir(scratch)
        try:
            yield StackState(me)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
