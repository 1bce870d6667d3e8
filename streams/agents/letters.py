"""Dead letters: what was refused, with its original bytes, where it lay, and why."""

import base64
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

from aiokafka.structs import ConsumerRecord

from marketdata.errors import InvalidValueError
from marketdata.records import DeadLetter
from marketdata.times import to_rfc3339

log = logging.getLogger(__name__)

PAYLOAD_LIMIT = 350_000  # bytes; base64 of more would not fit into a record batch. The original stays where it lay.
UNEXPECTED_REASON = "unexpected"

_EVERY_S = 60.0


class RefusalLog:
    """Says what was refused, by reason: the first at once, then at most one line in `_EVERY_S` real seconds."""

    def __init__(self, agent: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._agent = agent
        self._monotonic = monotonic
        self._counts: Counter[str] = Counter()
        self._told_at = -_EVERY_S

    def add(self, reasons: Iterable[str]) -> None:
        """Count, and speak when it is time."""
        self._counts.update(reasons)
        now = self._monotonic()
        if not self._counts or now - self._told_at < _EVERY_S:
            return
        self._told_at = now
        told = ", ".join(f"{count} {reason}" for reason, count in self._counts.most_common())
        log.warning("%s refused records, see `dead-letters`: %s", self._agent, told)
        self._counts.clear()


def dead_letter(record: ConsumerRecord, error: Exception, reason: str, now_ms: int) -> DeadLetter:
    """The letter for one refused record; `now_ms` is event time."""
    named = isinstance(error, InvalidValueError)
    key = None if record.key is None else record.key.decode(errors="replace")
    return DeadLetter(
        symbol=key or "",
        refused_at=to_rfc3339(now_ms),
        reason=reason,
        field=error.field if named else "payload",  # type: ignore[attr-defined]  # `named` says so
        value=error.value if named else repr(error),  # type: ignore[attr-defined]
        expected=error.expected if named else "a record that can be processed",  # type: ignore[attr-defined]
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=key,
        payload=base64.b64encode((record.value or b"")[:PAYLOAD_LIMIT]).decode(),
    )
