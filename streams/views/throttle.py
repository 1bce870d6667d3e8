"""At most one record a market and so much time of arrival, always ending with the newest.

What comes too soon after the one that was shown is held back, and replaced by what comes after it, until its time has
come. Pure: it must never read a topic.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from aiokafka.structs import ConsumerRecord

from marketdata.topics import TopicRole


@dataclass(frozen=True, slots=True)
class _Shown:
    """`arrived_ms` is the broker's clock, `at_s` this machine's monotonic one."""

    arrived_ms: int
    at_s: float


class Pace:
    """Of each role and key the last record that was shown, and the one that is held back."""

    def __init__(self, every_ms: int, monotonic: Callable[[], float]) -> None:
        self._every_ms = every_ms
        self._monotonic = monotonic
        self._shown: dict[tuple[TopicRole, Hashable], _Shown] = {}
        self._held: dict[tuple[TopicRole, Hashable], ConsumerRecord] = {}

    @property
    def holds(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def chosen(self, role: TopicRole, records: Iterable[ConsumerRecord]) -> list[ConsumerRecord]:
        """Those to show now, by when they arrived: of what is read at once, as if it were read as it came."""
        now_s = self._monotonic()
        kept = []
        for record in records:
            at = (role, record.key)
            shown = self._shown.get(at)
            if shown is None or record.timestamp - shown.arrived_ms >= self._every_ms:
                self._shown[at] = _Shown(record.timestamp, now_s)
                self._held.pop(at, None)
                kept.append(record)
            else:
                self._held[at] = record
        return kept

    def due(self) -> list[tuple[TopicRole, ConsumerRecord]]:
        """Those held back whose time has come; they are held no longer.

        Their successors are paced from now on: by the broker's clock, so much later as has passed here. Not more than
        twice the time, for after a standstill there is much to read that came meanwhile.
        """
        now_s = self._monotonic()
        found = []
        for at, record in [*self._held.items()]:
            shown = self._shown[at]
            passed_ms = (now_s - shown.at_s) * 1000
            if passed_ms >= self._every_ms:
                del self._held[at]
                as_of_ms = shown.arrived_ms + round(min(passed_ms, 2 * self._every_ms))
                self._shown[at] = _Shown(max(record.timestamp, as_of_ms), now_s)
                found.append((at[0], record))
        return found
