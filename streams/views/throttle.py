"""Rate limit of one record per key and interval of arrival time; the newest record is always shown in the end.

A record that arrives too soon after the last shown one of its key is held back. A later record replaces it until the
interval is over.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from aiokafka.structs import ConsumerRecord

from marketdata.topics import TopicRole


@dataclass(frozen=True, slots=True)
class _Shown:
    """`arrived_ms`: the broker's clock. `at_s`: this machine's monotonic clock."""

    arrived_ms: int
    at_s: float


class Throttle:
    """Stores, for each role and key, when a record was last shown and the record that is held back."""

    def __init__(self, interval_ms: int, monotonic: Callable[[], float]) -> None:
        self._interval_ms = interval_ms
        self._monotonic = monotonic
        self._shown: dict[tuple[TopicRole, Hashable], _Shown] = {}
        self._held: dict[tuple[TopicRole, Hashable], ConsumerRecord] = {}

    @property
    def is_holding(self) -> bool:
        """Whether any record is held back."""
        return bool(self._held)

    def admit(self, role: TopicRole, records: Iterable[ConsumerRecord]) -> list[ConsumerRecord]:
        """Return the records to show now. The interval is measured between arrivals, not between reads."""
        now_s = self._monotonic()
        admitted = []
        for record in records:
            at = (role, record.key)
            shown = self._shown.get(at)
            if shown is None or record.timestamp - shown.arrived_ms >= self._interval_ms:
                self._shown[at] = _Shown(record.timestamp, now_s)
                self._held.pop(at, None)
                admitted.append(record)
            else:
                self._held[at] = record
        return admitted

    def release(self) -> list[tuple[TopicRole, ConsumerRecord]]:
        """Remove and return the held records whose interval is over.

        The next interval starts at the previous arrival plus the time that passed on this machine, by the broker's
        clock. The added time is at most two intervals: after this process was suspended, many records that arrived
        meanwhile are read.
        """
        now_s = self._monotonic()
        released = []
        for at, record in [*self._held.items()]:
            shown = self._shown[at]
            passed_ms = (now_s - shown.at_s) * 1000
            if passed_ms >= self._interval_ms:
                del self._held[at]
                as_of_ms = shown.arrived_ms + round(min(passed_ms, 2 * self._interval_ms))
                self._shown[at] = _Shown(max(record.timestamp, as_of_ms), now_s)
                released.append((at[0], record))
        return released
