"""Progress for a person: live bars on a terminal, plain lines elsewhere.

A job's log tells how far it is: the last `N/M` in it (as in `epoch 3/6` or `backfill: 4/12 files`) moves the bar.
"""

import re
import time
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from devstack.process import tail

_COUNT = re.compile(r"(?<![\d/.-])(\d+)/(\d+)(?![\d/])")
_PLAIN_EVERY_S = 5.0


def count_in(lines: list[str]) -> tuple[int, int] | None:
    """The last `N/M` with N not above M."""
    for line in reversed(lines):
        for done, total in reversed(_COUNT.findall(line)):
            if int(total) > 0 and int(done) <= int(total):
                return int(done), int(total)
    return None


class Show(Protocol):
    """Where the demo's progress goes."""

    def line(self, text: str) -> None:
        """A line that stays."""

    def begin(self, job: str) -> None:
        """A job begins."""

    def follow(self, job: str, log: Path) -> None:
        """A look at a running job's log."""

    def end(self, job: str) -> None:
        """A job has ended."""

    def close(self) -> None:
        """Give the terminal back."""


class PlainShow:
    """Lines alone; a running job tells how far it is every few seconds, when that has changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: dict[str, float] = {}
        self._told: dict[str, tuple[float, tuple[int, int] | None]] = {}

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, job: str) -> None:
        self._began[job] = time.monotonic()
        self._told[job] = (time.monotonic(), None)
        self.line(f"{job} …")

    def follow(self, job: str, log: Path) -> None:
        when, last = self._told[job]
        now = time.monotonic()
        count = count_in(tail(log)) if now - when >= _PLAIN_EVERY_S else None
        if count is None or count == last:
            return
        self._told[job] = (now, count)
        done, total = count
        self.line(f"{job}: {self._count(job, done, total)} after {now - self._began[job]:.0f} s")

    def _count(self, job: str, done: int, total: int) -> str:
        if not 0 < done < total:
            return f"{done}/{total}"
        elapsed = time.monotonic() - self._began[job]
        return f"{done}/{total}, about {elapsed / done * (total - done):.0f} s left"

    def end(self, job: str) -> None:
        self.line(f"{job} done after {time.monotonic() - self._began[job]:.1f} s")

    def close(self) -> None:
        pass


class LiveShow(PlainShow):
    """Bars under the lines, for a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn("{task.fields[count]}"),
            console=console,
            refresh_per_second=4,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def begin(self, job: str) -> None:
        self._began[job] = time.monotonic()
        self._tasks[job] = self._progress.add_task(job, total=None, count="")

    def follow(self, job: str, log: Path) -> None:
        count = count_in(tail(log))
        if count is not None:
            done, total = count
            self._progress.update(self._tasks[job], completed=done, total=total, count=self._count(job, done, total))

    def end(self, job: str) -> None:
        self._progress.remove_task(self._tasks.pop(job))
        super().end(job)

    def close(self) -> None:
        self._progress.stop()


def open_show(console: Console) -> Show:
    """Bars where there is a terminal, lines elsewhere."""
    return LiveShow(console) if console.is_terminal else PlainShow(console)
