"""Result rows of a suite and their files: build/bench/SUITE.json and SUITE.md."""

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

    `ratio` is value / value of the peer; `goal` describes the condition of `met`, both None without a goal.
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
    """Input of a suite: a running stack, the seconds of its start, and a folder for temporary files."""

    stack: StackUnderTest
    stack_up_s: float
    folder: Path

    @staticmethod
    def log_progress(line: str) -> None:
        """Print a line of progress to standard error."""
        sys.stderr.write(f"bench: {line}\n")
        sys.stderr.flush()


def median_seconds(work: Callable[[], object], repeats: int = 5, *, warm_up: bool = True) -> float:
    """Return the median wall time of `repeats` runs, after one warm-up run."""
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
    """Describe the machine: cores, Python version, and load average of the last minute."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}"


def write(suite: str, rows: list[Row]) -> str:
    """Write both files of a suite and return the Markdown table."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{suite}.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    names = list(asdict(rows[0]))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(value) for value in asdict(row).values()) + " |" for row in rows]
    table = f"# {suite}\n\n{machine()}\n\n" + "\n".join(lines) + "\n"
    (OUT / f"{suite}.md").write_text(table, encoding="utf-8")
    return table
