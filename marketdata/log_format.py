"""The format of log lines, for every program: one line per event, without characters that a terminal acts on."""

import logging

from marketdata.printable import printable

LINE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LineFormatter(logging.Formatter):
    """Formats a record as one printable line; the lines of a traceback follow, indented and printable."""

    def __init__(self) -> None:
        super().__init__(LINE_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802  logging's name
        # Indented, so that no line of an exception's message looks like an event of its own.
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  logging's name
        return "\n".join(f"  {printable(line)}" for line in stack_info.split("\n"))
