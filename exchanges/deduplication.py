"""Pass each event of a stream on once while several connections deliver it. Pure."""

DeliveredRanges = dict[str, list[int]]
"""First and last event number that one connection has delivered, by stream."""


class Deduplicator:
    """Recognises events that any connection has delivered before.

    Each connection delivers a stream in order and without gaps. So a connection has delivered all numbers between its
    first and its last one.
    """

    def __init__(self) -> None:
        self._open: list[DeliveredRanges] = []
        self._closed_last: dict[str, int] = {}  # by stream, the last number of the closed connections

    def open(self) -> DeliveredRanges:
        """Register a connection; the result identifies it."""
        ranges: DeliveredRanges = {}
        self._open.append(ranges)
        return ranges

    def close(self, ranges: DeliveredRanges) -> None:
        """Unregister a connection; what it has delivered stays known."""
        self._open = [other for other in self._open if other is not ranges]
        for stream, (_first, last) in ranges.items():
            self._closed_last[stream] = max(last, self._closed_last.get(stream, last))

    def is_new(self, ranges: DeliveredRanges, stream: str, number: int) -> bool:
        """Whether no connection has delivered the event before; records it for the connection `ranges`."""
        if number <= self._closed_last.get(stream, number - 1):
            return False
        own = ranges.get(stream)
        if own is None:
            ranges[stream] = [number, number]
        elif number <= own[1]:
            return False
        else:
            own[1] = number
        if len(self._open) == 1:
            return True
        return not any(_contains(other.get(stream), number) for other in self._open if other is not ranges)


def _contains(delivered: list[int] | None, number: int) -> bool:
    return delivered is not None and delivered[0] <= number <= delivered[1]
