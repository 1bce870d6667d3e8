"""How the worker logs: one line an event to stderr. Libraries speak from warnings on."""

import logging
from typing import Any

_LIBRARIES = ("faust", "mode", "aiokafka", "aiohttp", "httpx", "httpcore", "stamina", "asyncio")


def logging_config(level: str) -> dict[str, Any]:
    """For `logging.config.dictConfig`; `level` is that of our own loggers."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
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
        # stamina's line of each retry says neither of what nor why; metrics count them, and failures are told once.
        "loggers": {name: {"level": "ERROR" if name == "stamina" else "WARNING"} for name in _LIBRARIES},
    }


_STARTING_MS = 30_000


class KnownAndHarmless(logging.Filter):
    """Keeps out lines that ask nothing of anybody."""

    ALWAYS = (
        # Broker and worker agree on the next generation right after this; Faust itself handles it.
        "Heartbeat failed for group",
        "group is rebalancing",
    )
    WHILE_STARTING = (
        # A broker that has just been set up makes its offsets topic at the first group's request; aiokafka asks again.
        "GroupCoordinatorNotAvailableError",
        # A topic that was just created has a leader a moment before that leader knows; aiokafka asks again.
        "NotLeaderForPartitionError",
    )

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        message = record.getMessage()
        known = self.ALWAYS if record.relativeCreated > _STARTING_MS else self.ALWAYS + self.WHILE_STARTING
        return not any(phrase in message for phrase in known)


_REPEATED_MS = 10_000


class Repeated(logging.Filter):
    """Lets a library's message through once in ten seconds, with how many times it was said in between.

    A broker that is away makes aiokafka say the same of every partition ten times a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_LIBRARIES):
            return True
        key = (record.name, str(record.msg))
        said_at, held_back = self._said.get(key, (-_REPEATED_MS, 0))
        if record.relativeCreated - said_at < _REPEATED_MS:
            self._said[key] = (said_at, held_back + 1)
            return False
        self._said[key] = (record.relativeCreated, 0)
        if held_back:
            record.msg = f"{record.msg} (and {held_back} times more in the last seconds)"
        return True
