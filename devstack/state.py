"""What the running stack writes down for `status` and `down`: who supervises, which children, how far each is."""

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

from marketdata.errors import StackError

SCRATCH = "tmp"
"""Below the state folder: what the programs put into a temporary folder. Empty when nothing runs."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told from a later one with the same number by its time of start (s since the epoch)."""

    pid: int
    created_s: float

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """None where there is no such process any more."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def alive(self) -> psutil.Process | None:
        """The process while it runs; a zombie does not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created_s) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None


@dataclass(slots=True)
class PartState:
    """One part: `state` is starting, healthy, failed or stopped; `detail` says why where that helps."""

    address: str
    state: str = "starting"
    detail: str = ""
    ready_s: float | None = None
    process: ProcessId | None = None


@dataclass(slots=True)
class StackState:
    """The whole stack as its supervisor sees it."""

    supervisor: ProcessId
    parts: dict[str, PartState] = field(default_factory=dict)
    error: str = ""

    def save(self, folder: Path) -> None:
        """Replace the file at once, so that no reader sees half of it."""
        path = folder / "stack.json"
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        draft.replace(path)


def _process(raw: dict[str, Any] | None) -> ProcessId | None:
    return None if raw is None else ProcessId(raw["pid"], raw["created_s"])


def load_state(folder: Path) -> StackState | None:
    """What the last supervisor wrote; None where there was none.

    Raises:
        StackError: the file is there, and is not what a supervisor writes.
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
def only_supervisor(folder: Path) -> Iterator[StackState]:
    """Own the folder for as long as the context lasts; its scratch folder is empty before and gone after.

    Raises:
        StackError: another supervisor owns it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = (
                f"a stack already runs in {folder}; look at it with: python -m devstack status, stop it with: make down"
            )
            raise StackError(msg) from error
        me = ProcessId.of(os.getpid())
        if me is None:
            msg = "this process is not in the process table"
            raise StackError(msg)
        scratch = folder / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # what a run that was killed left behind
        scratch.mkdir(exist_ok=True)
        try:
            yield StackState(me)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
