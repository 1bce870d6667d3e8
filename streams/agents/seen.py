"""State of the clean agent per market: the newest offset handled, and recent timestamps. Pure.

A tick_id is symbol and timestamp, so a known timestamp is a duplicate. The number kept is at least `REMEMBERED` (hours
of a feed that polls once a minute), as many as the allowed lateness holds at the feed's interval, and at most
`MAX_REMEMBERED`, because they are written again with every batch. That suffices, because duplicates come from a poll
that was published twice within moments. Older duplicates pass: most are too late for features, and the batch jobs drop
them by tick_id.
"""

import math
from bisect import bisect_left
from typing import Any

import msgspec

from streams.kafka.records import NO_OFFSET

REMEMBERED, MAX_REMEMBERED = 128, 1_024


def remembered(lateness_s: float, interval_s: float) -> int:
    """Return how many timestamps to keep per market if a feed sends one every `interval_s`."""
    return min(max(REMEMBERED, math.ceil(lateness_s / interval_s) + 1), MAX_REMEMBERED)


class Seen:
    """Offset of the newest record handled, newest timestamps (ms) in ascending order, and the newest tick's price."""

    __slots__ = ("offset", "price", "timestamps")

    def __init__(
        self, offset: int = NO_OFFSET, timestamps: list[int] | None = None, price: float | None = None
    ) -> None:
        self.offset = offset
        self.timestamps = [] if timestamps is None else timestamps
        self.price = price

    @property
    def newest_ms(self) -> int | None:
        return self.timestamps[-1] if self.timestamps else None

    def add(self, timestamp_ms: int, limit: int = REMEMBERED) -> bool:
        """Add a timestamp and keep the newest `limit`; return False if it is already known."""
        known = self.timestamps
        if not known or timestamp_ms > known[-1]:
            known.append(timestamp_ms)
        else:
            at = bisect_left(known, timestamp_ms)
            if known[at] == timestamp_ms:
                return False
            known.insert(at, timestamp_ms)
        if len(known) > limit:
            del known[0]
        return True

    def follow(self, price: float, max_move: float) -> bool:
        """Set the newest tick's price; return False if it moved by a factor above `max_move` or below 1 / max_move."""
        before, self.price = self.price, price
        return before is None or (before <= price * max_move and price <= before * max_move)

    def to_bytes(self) -> bytes:
        """Encode as MessagePack [offset, price, newest timestamp, differences backwards]: 2 to 5 bytes a timestamp."""
        newest = self.newest_ms
        if newest is None:
            return msgspec.msgpack.encode([self.offset])
        gaps = [later - earlier for earlier, later in zip(self.timestamps, self.timestamps[1:], strict=False)]
        return msgspec.msgpack.encode([self.offset, self.price, newest, *reversed(gaps)])

    @classmethod
    def from_bytes(cls, stored: bytes | None) -> "Seen":
        """Decode what `to_bytes` wrote; return an empty state for None."""
        if stored is None:
            return cls()
        offset, *rest = _decoder.decode(stored)
        price = None
        if rest and not isinstance(rest[0], int):  # the oldest states hold no price
            price, *rest = rest
        timestamps = rest[:1]
        for gap in rest[1:]:
            timestamps.append(timestamps[-1] - gap)
        return cls(offset, timestamps[::-1], price)


_decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list[int | float | None])
