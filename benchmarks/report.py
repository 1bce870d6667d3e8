"""Rows of a bench and the files they go to: build/bench/ROOM.json and ROOM.md."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.stack import StackUnderTest

OUT = Path("build/bench")


@dataclass(frozen=True)
class Row:
    """One measured value.

    `ratio` is value / peer's value; `goal` says in words what `met` judges, None where there is none yet.
    """

    name: str
    value: float
    unit: str
    peer: str | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None


@dataclass(frozen=True)
class Bench:
    """What a room gets: a running stack, the seconds it took to come up, and a folder for what it makes."""

    stack: StackUnderTest
    stack_up_s: float
    folder: Path

    @staticmethod
    def tell(line: str) -> None:
        """A line of progress."""
        sys.stderr.write(f"bench: {line}\n")
        sys.stderr.flush()


def median_seconds(work: Callable[[], object], repeats: int = 5, *, warm_up: bool = True) -> float:
    """The median wall time of `repeats` runs, after one that warms up."""
    if warm_up:
        work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _cell(value: object) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        case _:
            return str(value)


def machine() -> str:
    """Where and beside what it was measured: cores, Python, and how many programs wanted to run in the last minute."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}"


def write(room: str, rows: list[Row]) -> str:
    """Write both files of a room and give back the Markdown table."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{room}.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    names = list(asdict(rows[0]))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(value) for value in asdict(row).values()) + " |" for row in rows]
    table = f"# {room}\n\n{machine()}\n\n" + "\n".join(lines) + "\n"
    (OUT / f"{room}.md").write_text(table, encoding="utf-8")
    return table
