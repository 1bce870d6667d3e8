"""Logging of every program: one line per event, third-party libraries from WARNING up, repeated lines suppressed."""

import logging
from typing import Any, TextIO

from marketdata.log_format import LineFormatter

_LIBRARIES = (
    *("faust", "mode", "aiokafka", "aiohttp", "httpx", "httpcore", "stamina", "asyncio"),
    *("hdfs", "py4j", "pyspark", "matplotlib", "absl", "jax"),
)
LIBRARY_LEVELS = dict.fromkeys(_LIBRARIES, "WARNING") | {
    "stamina": "ERROR",  # its line per retry names neither call nor cause; metrics count retries, callers log failures
}


def set_up_logging(level: str, stream: TextIO | None = None) -> None:
    """Log from `level` up to a stream (default: stderr). Does nothing to handlers if the root logger has one."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    handler.addFilter(KnownAndHarmless())
    handler.addFilter(Repeated())
    logging.basicConfig(level=level, handlers=[handler])
    for name, library_level in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(library_level)


def logging_config(level: str) -> dict[str, Any]:
    """The same set-up as a dictionary for `logging.config.dictConfig`, which Faust takes."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": LineFormatter}},
        "filters": {"known": {"()": KnownAndHarmless}, "repeated": {"()": Repeated}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "stream": "ext://sys.stderr",
                "filters": ["known", "repeated"],
            }
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {name: {"level": library_level} for name, library_level in LIBRARY_LEVELS.items()},
    }


_STARTING_MS = 30_000


class KnownAndHarmless(logging.Filter):
    """Drops lines of aiokafka that need no action, and Faust's tables of offsets, which fill many lines."""

    ALWAYS = (
        # Broker and worker agree on the next generation right after this; Faust itself handles it.
        "Heartbeat failed for group",
        "group is rebalancing",
    )
    WHILE_STARTING = (
        # A new broker creates its offsets topic at the first group's request; aiokafka retries.
        "GroupCoordinatorNotAvailableError",
        # The leader of a new topic learns of its role a moment after the metadata names it; aiokafka retries.
        "NotLeaderForPartitionError",
    )

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.name.startswith("streams.faust_batch") and "\n" in message:
            return False
        if not record.name.startswith("aiokafka"):
            return True
        known = self.ALWAYS if record.relativeCreated > _STARTING_MS else self.ALWAYS + self.WHILE_STARTING
        return not any(phrase in message for phrase in known)


_REPEATED_MS = 10_000


class Repeated(logging.Filter):
    """Passes a library's message once in ten seconds, with the number of repetitions since then.

    While a broker is away, aiokafka logs the same message for every partition ten times a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_LIBRARIES):
            return True
        key = (record.name, str(record.msg))
        passed_at, repetitions = self._passed.get(key, (-_REPEATED_MS, 0))
        if record.relativeCreated - passed_at < _REPEATED_MS:
            self._passed[key] = (passed_at, repetitions + 1)
            return False
        self._passed[key] = (record.relativeCreated, 0)
        if repetitions:
            record.msg = f"{record.msg} (and {repetitions} times more in the last seconds)"
        return True
