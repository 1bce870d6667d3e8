"""What every command has: one event loop, one line for an error of ours, an exit code, output for people or as JSON.

Faust runs a command inside a whole worker, which takes seconds to stop; these end as soon as their work is done.
"""

import asyncio
import logging.config
import os
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, NoReturn, cast

import click
import msgspec
from faust.cli import AppCommand, option
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from clients.logging_setup import logging_config
from config import Settings
from marketdata.errors import BitcoinDataError
from streams.worker.clock import WorkerClock
from streams.worker.state import WorkerState

COUNT = click.IntRange(min=1)
"""Of options that say how many."""

JSON_OPTION = option("--json", "as_json", is_flag=True, help="One JSON object a line.")

_WIDTH = 220  # where there is no terminal to ask
_MANY = 1_000  # numbers from here on are shown to hundredths, others to six digits
_LEAST = 20  # characters that a column is wrapped to
_FAILED = 1
_INTERRUPTED = 130
_EVERY_S = 1.0  # between two lines of progress


class StreamsCommand(AppCommand):
    """A command of this project; `run` returns its exit code, None for 0."""

    abstract: ClassVar[bool] = True
    app: Any  # a StreamsApp

    @property
    def settings(self) -> Settings:
        return cast("Settings", self.app.settings)

    @property
    def clock(self) -> WorkerClock:
        return cast("WorkerClock", self.app.clock)

    @property
    def worker_state(self) -> WorkerState:
        return cast("WorkerState", self.app.worker_state)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run to the end and leave.

        Raises:
            SystemExit: always.
        """
        logging.config.dictConfig(logging_config("WARNING"))
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it cannot do is told as the command's own error
        try:
            code = asyncio.run(self.run(*self.args, *args, **{**self.kwargs, **kwargs}))
        except BitcoinDataError as error:
            sys.stderr.write(f"{self.ctx.info_name}: {error}\n")
            code = _FAILED
        except KeyboardInterrupt:
            code = _INTERRUPTED
        except BrokenPipeError:  # who read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the last flush must not fail again
            code = _FAILED
        raise SystemExit(code or 0)

    @property
    def console(self) -> Console:
        """Coloured where there is a terminal, plain text elsewhere."""
        width = None if self.stdout.isatty() else _WIDTH
        return Console(file=self.stdout, width=width, highlight=False)

    def lines(self, records: Sequence[Any]) -> None:
        """Records as JSON, one a line."""
        for record in records:
            self.stdout.write(msgspec.json.encode(record).decode() + "\n")
        self.stdout.flush()

    def table(  # type: ignore[override]
        self, headers: Sequence[str], rows: Sequence[Sequence[object]], *, wraps: Collection[str] = ()
    ) -> None:
        """Rows for people, or `none`; None is shown as a dash.

        Nothing is cut: where the terminal is too narrow, the columns of `wraps` are, then lines are longer than it.
        """
        if not rows:
            self.stdout.write("none\n")
            return
        texts = [[shown(value) for value in row] for row in rows]
        table = Table(box=None, pad_edge=False)
        for header, *cells in zip(headers, *texts, strict=True):
            if header in wraps:
                table.add_column(header, overflow="fold", min_width=min(_LEAST, *map(cell_len, [header, *cells])))
            else:
                table.add_column(header, no_wrap=True, min_width=max(map(cell_len, [header, *cells])))
        for row in texts:
            table.add_row(*map(escape, row))
        console = self.console
        console.width = max(console.width, Measurement.get(console, console.options, table).minimum)
        console.print(table)


class Progress:
    """Lines of `progress: WHAT DONE/TOTAL` on stderr: at most one a real second, and one at the end."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._told_at = time.monotonic()

    def step(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        now = time.monotonic()
        if now - self._told_at >= _EVERY_S:
            self._told_at = now
            self._tell()

    def end(self) -> None:
        """No more will be done."""
        self._tell()

    def _tell(self) -> None:
        sys.stderr.write(f"progress: {self._what} {self._done}/{self._total}\n")


def shown(value: object) -> str:
    """A value for people."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < _MANY else f"{value:,.2f}"
    return str(value)
