"""Base of all commands: event loop, one-line errors, exit codes, and output as text or JSON.

Faust runs a command inside a complete worker, which takes seconds to stop; these commands exit when their work is done.
"""

import asyncio
import logging.config
import os
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, NoReturn, cast

import msgspec
from faust.cli import AppCommand, option
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from clients.logging_setup import logging_config
from config import Settings
from marketdata.errors import ArgumentError, BitcoinDataError
from marketdata.numbers import format_number
from marketdata.printable import printable, write_error, write_line
from streams.worker.clock import WorkerClock
from streams.worker.state import WorkerState

JSON_OPTION = option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")

_WIDTH = 220  # characters, if the output is no terminal
_MIN_WRAPPED = 20  # characters of a wrapped column
_FAILED = 1
_INTERRUPTED = 130
_PROGRESS_S = 1.0  # real seconds between two progress lines


class StreamsCommand(AppCommand):
    """A command of this project; `run` returns the exit code, None for 0."""

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
        """Run the command and exit the process.

        Raises:
            SystemExit: always.
        """
        logging.config.dictConfig(logging_config("WARNING"))
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its failures appear as the command's error
        try:
            code = asyncio.run(self.run(*self.args, *args, **{**self.kwargs, **kwargs}))
        except BitcoinDataError as error:
            write_error(sys.stderr, f"{self.ctx.info_name}: {error}")
            code = error.exit_code if isinstance(error, ArgumentError) else _FAILED
        except KeyboardInterrupt:
            code = _INTERRUPTED
        except BrokenPipeError:  # the reader of the output has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the final flush must not fail again
            code = _FAILED
        raise SystemExit(code or 0)

    @property
    def console(self) -> Console:
        """Coloured on a terminal, otherwise plain text."""
        width = None if self.stdout.isatty() else _WIDTH
        return Console(file=self.stdout, width=width, highlight=False)

    def lines(self, records: Sequence[Any]) -> None:
        """Print records as JSON, one per line."""
        for record in records:
            self.line(msgspec.json.encode(record).decode())

    def line(self, text: str) -> None:
        """Print one line."""
        write_line(self.stdout, text)

    def styled(self, *parts: str | tuple[str, str]) -> None:
        """Print one line of texts, each alone or with a style of Rich."""
        texts = [(part, "") if isinstance(part, str) else part for part in parts]
        self.console.print(Text.assemble(*((printable(text), style) for text, style in texts)), soft_wrap=True)
        self.stdout.flush()

    def table(  # type: ignore[override]
        self, headers: Sequence[str], rows: Sequence[Sequence[object]], *, wraps: Collection[str] = ()
    ) -> None:
        """Print rows as a table, or `none` if there are no rows; None is shown as a dash.

        No value is truncated: on a narrow terminal the columns of `wraps` are wrapped, and further width overflows.
        """
        if not rows:
            self.line("none")
            return
        texts = [[printable(shown(value)) for value in row] for row in rows]
        table = Table(box=None, pad_edge=False)
        for header, *cells in zip(headers, *texts, strict=True):
            if header in wraps:
                table.add_column(header, overflow="fold", min_width=min(_MIN_WRAPPED, *map(cell_len, [header, *cells])))
            else:
                table.add_column(header, no_wrap=True, min_width=max(map(cell_len, [header, *cells])))
        for row in texts:
            table.add_row(*map(Text, row))
        console = self.console
        console.width = max(console.width, Measurement.get(console, console.options, table).minimum)
        console.print(table)


class Progress:
    """Prints `progress: WHAT DONE/TOTAL` on stderr, at most once per real second and once at the end."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._printed_at = time.monotonic()

    def step(self, count: int = 1) -> None:
        """Add completed work, and print when a line is due."""
        self._done += count
        now = time.monotonic()
        if now - self._printed_at >= _PROGRESS_S:
            self._printed_at = now
            self._print()

    def end(self) -> None:
        """Print the final line."""
        self._print()

    def _print(self) -> None:
        write_line(sys.stderr, f"progress: {self._what} {self._done}/{self._total}")


def shown(value: object) -> str:
    """Format a value for a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return format_number(value)
    return str(value)
