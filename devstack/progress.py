"""Progress output: live bars on a terminal, plain lines elsewhere.

Progress is read from a job's log: the last `N/M` sets the bar, and the text before it is the name of the step
(`progress: train epoch 3/6`). A job that tries again later writes `waiting: JOB: REASON`.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from devstack.process import tail
from marketdata.printable import printable, printable_lines

_COUNT = re.compile(r"(?:^|[^\d/.-])(\d+)/(\d+)(?![\d/])")
_PLAIN_EVERY_S = 5.0
_WAITING = "waiting: "


@dataclass(frozen=True, slots=True)
class Count:
    """Progress of a job's current step."""

    step: str
    done: int
    total: int


def count_in(lines: list[str]) -> Count | None:
    """Return the last `N/M` with N ≤ M, or None."""
    for line in reversed(lines):
        for found in reversed(list(_COUNT.finditer(line))):
            done, total = int(found[1]), int(found[2])
            if total > 0 and done <= total:
                step = line[: found.start(1)].removeprefix("progress:").strip(" :")
                return Count(step, done, total)
    return None


def waiting_in(lines: list[str]) -> str | None:
    """Return the last line that begins with `waiting: `, without it, or None."""
    return next((line.removeprefix(_WAITING) for line in reversed(lines) if line.startswith(_WAITING)), None)


class _TimeLeft:
    """Estimates the remaining time of a step from its rate so far."""

    def __init__(self) -> None:
        self._first: tuple[Count, float] | None = None

    def describe(self, count: Count, now_s: float) -> str:
        if self._first is None or (self._first[0].step, self._first[0].total) != (count.step, count.total):
            self._first = (count, now_s)
        first, since_s = self._first
        text = f"{count.step} {count.done}/{count.total}".strip()
        if not first.done < count.done < count.total:
            return text
        left_s = (now_s - since_s) / (count.done - first.done) * (count.total - count.done)
        return f"{text}, about {left_s:.0f} s left"


class ProgressReporter(Protocol):
    """Output of the demo's progress."""

    def line(self, text: str) -> None:
        """Print a line."""

    def begin(self, job: str) -> None:
        """Start the display of a job."""

    def follow(self, job: str, log: Path) -> None:
        """Update the display from the log of a running job."""

    def end(self, job: str) -> None:
        """End the display of a completed job."""

    def drop(self, job: str) -> None:
        """End the display of a failed job."""

    def close(self) -> None:
        """Restore the terminal."""


class PlainReporter:
    """Plain lines; a running job's progress is printed at most every 5 s, if it changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: dict[str, float] = {}
        self._time_left: dict[str, _TimeLeft] = {}
        self._printed: dict[str, tuple[float, Count | None]] = {}

    def line(self, text: str) -> None:
        self._console.print(Text(printable_lines(text)), highlight=False, soft_wrap=True)

    def begin(self, job: str) -> None:
        self._start(job)
        self.line(f"{job} …")

    def _start(self, job: str) -> None:
        self._began[job] = time.monotonic()
        self._time_left[job] = _TimeLeft()
        self._printed[job] = (time.monotonic(), None)

    def follow(self, job: str, log: Path) -> None:
        now = time.monotonic()
        count = count_in(tail(log))
        if count is None:
            return
        text = self._time_left[job].describe(count, now)
        when, last = self._printed[job]
        if count != last and now - when >= _PLAIN_EVERY_S:
            self._printed[job] = (now, count)
            self.line(f"{job}: {text} ({now - self._began[job]:.0f} s elapsed)")

    def end(self, job: str) -> None:
        self.line(f"{job} done after {time.monotonic() - self._began[job]:.1f} s")

    def drop(self, job: str) -> None:
        pass

    def close(self) -> None:
        pass


class LiveReporter(PlainReporter):
    """Lines with progress bars below them, for a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            console=console,
            refresh_per_second=4,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def begin(self, job: str) -> None:
        self._start(job)
        self._tasks[job] = self._progress.add_task(job, total=None, count="")

    def follow(self, job: str, log: Path) -> None:
        count = count_in(tail(log))
        if count is not None:
            text = self._time_left[job].describe(count, time.monotonic())
            self._progress.update(self._tasks[job], completed=count.done, total=count.total, count=printable(text))

    def end(self, job: str) -> None:
        self.drop(job)
        super().end(job)

    def drop(self, job: str) -> None:
        self._progress.remove_task(self._tasks.pop(job))

    def close(self) -> None:
        self._progress.stop()


def open_reporter(console: Console) -> ProgressReporter:
    """Return bars for a terminal, plain lines otherwise."""
    return LiveReporter(console) if console.is_terminal else PlainReporter(console)
