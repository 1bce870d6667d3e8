"""Dead letters of an agent: make them, and log refusals."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

from aiokafka.structs import ConsumerRecord

from marketdata.codec import encode
from marketdata.dead_letters import dead_letter_key, to_dead_letter
from streams.kafka.records import OutgoingRecord, source_offset_headers

log = logging.getLogger(__name__)

_LOG_EVERY_S = 60.0


class RefusalLog:
    """Logs refused records by reason: the first at once, then at most one line every `_LOG_EVERY_S`.

    Args:
        agent: its name.
        monotonic: real time, in seconds.
    """

    def __init__(self, agent: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._agent = agent
        self._monotonic = monotonic
        self._counts: Counter[str] = Counter()
        self._logged_at = -_LOG_EVERY_S

    def add(self, reasons: Iterable[str]) -> None:
        """Count refusals, and log them when a line is due."""
        self._counts.update(reasons)
        now = self._monotonic()
        if not self._counts or now - self._logged_at < _LOG_EVERY_S:
            return
        self._logged_at = now
        counts = ", ".join(f"{count} {reason}" for reason, count in self._counts.most_common())
        log.warning("%s refused records, see `dead-letters`: %s", self._agent, counts)
        self._counts.clear()


def refused(record: ConsumerRecord, error: Exception, reason: str, now_ms: int) -> OutgoingRecord:
    """Return the dead letter of a refused record, as it is sent; `now_ms` is event time."""
    letter = to_dead_letter(
        error,
        reason,
        now_ms,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
    )
    return dead_letter_key(record.key), encode(letter), source_offset_headers(record.offset)


def log_unexpected(log: logging.Logger, record: ConsumerRecord, error: Exception) -> None:
    """Log an error that no rule explains, with its traceback."""
    log.error("%s-%d@%d: unexpected error", record.topic, record.partition, record.offset, exc_info=error)
