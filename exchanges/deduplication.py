"""Pass each event of a stream on once while several connections deliver it; follow numberings that restart. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

_CONFIRMED = 3
"""Consecutive rising numbers below the last one that show a new numbering; fewer are a repetition."""


@dataclass(slots=True, eq=False)
class Delivered:
    """What one connection has delivered, by stream.

    ranges: first and last event number. before: range of numbers that a closed connection has delivered. suspects: of
    events with lower numbers than the last one, how many arrived in a row, and the newest number.
    """

    ranges: dict[str, list[int]] = field(default_factory=dict)
    before: dict[str, tuple[int, int]] = field(default_factory=dict)
    suspects: dict[str, tuple[int, int]] = field(default_factory=dict)


class Deduplicator:
    """Recognises events that any connection has delivered before. `restarts` counts numberings that started again.

    Each connection delivers a stream in order and without gaps. So a connection has delivered all numbers between its
    first and its last one. A new numbering is followed: at once if it begins below all numbers of the connection
    before; else when three rising numbers below the last one arrive on an open connection, or after `forget_closed`.
    """

    def __init__(self) -> None:
        self._open: list[Delivered] = []
        self._closed: dict[str, tuple[int, int]] = {}
        self._last: dict[str, int] = {}  # by stream, the last number of a closed connection
        self.restarts = 0

    def open(self) -> Delivered:
        """Register a connection; the result identifies it."""
        delivered = Delivered()
        if not self._open:
            delivered.before.update(self._closed)
        self._open.append(delivered)
        return delivered

    def close(self, delivered: Delivered) -> None:
        """Unregister a connection; what it has delivered stays known until `forget_closed`."""
        self._open = [other for other in self._open if other is not delivered]
        for stream, (first, last) in delivered.ranges.items():
            self._last[stream] = last
            known = self._closed.get(stream)
            self._closed[stream] = (known[0], max(last, known[1])) if known and first >= known[0] else (first, last)
            for other in self._open:  # a connection that was subscribed later repeats no number below the first one
                other.before[stream] = (0, max(last, other.before.get(stream, (0, last))[1]))

    def forget_closed(self) -> None:
        """Discard what closed connections have delivered, once the events that others repeat have arrived."""
        self._closed.clear()
        for delivered in self._open:
            delivered.before.clear()

    def is_new(self, delivered: Delivered, stream: str, number: int) -> bool:
        """Whether no connection has delivered the event before; records it for the connection `delivered`."""
        if delivered.before and _contains(delivered.before.get(stream), number):
            return False
        own = delivered.ranges.get(stream)
        if own is None:
            if number <= self._last.get(stream, number - 1):
                self.restarts += 1
            delivered.ranges[stream] = [number, number]
        elif number <= own[1]:
            return number < own[1] and self._is_restarted(delivered, stream, number)
        else:
            own[1] = number
            if delivered.suspects:
                delivered.suspects.pop(stream, None)
        if len(self._open) == 1:
            return True
        return not any(_contains(other.ranges.get(stream), number) for other in self._open if other is not delivered)

    def _is_restarted(self, delivered: Delivered, stream: str, number: int) -> bool:
        count, newest = delivered.suspects.get(stream, (0, number - 1))
        count = count + 1 if number > newest else 1
        delivered.suspects[stream] = (count, number)
        if count < _CONFIRMED:
            return False
        del delivered.suspects[stream]
        delivered.ranges[stream] = [number, number]
        self.restarts += 1
        return True


def _contains(delivered: Sequence[int] | None, number: int) -> bool:
    return delivered is not None and delivered[0] <= number <= delivered[1]
