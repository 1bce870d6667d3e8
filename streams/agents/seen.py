"""What the clean agent remembers of a market: how far it has read, and what it let through of late.

Pure. A tick_id is symbol and timestamp, so a timestamp seen again is a duplicate. `remembered` of them are kept: at
least `REMEMBERED`, hours of a feed that polls once a minute; as many as the lateness holds at the feed's own pace; and
never more than `MOST`, for they are written again with every batch. That is enough, for a duplicate comes from a poll
that was published twice, moments ago. An older one passes; mostly it is too late for features, and the batch side drops
it by tick_id.
"""

import math
from bisect import bisect_left
from typing import Any

import msgspec

from streams.faust_batch.delivered_offsets import NOTHING

REMEMBERED, MOST = 128, 1_024


def remembered(lateness_s: float, interval_s: float) -> int:
    """How many timestamps of a market are kept where a feed sends one every `interval_s`."""
    return min(max(REMEMBERED, math.ceil(lateness_s / interval_s) + 1), MOST)


class Seen:
    """Offset of the newest record handled, newest timestamps (ms) in ascending order, and the newest tick's price."""

    __slots__ = ("offset", "price", "timestamps")

    def __init__(self, offset: int = NOTHING, timestamps: list[int] | None = None, price: float | None = None) -> None:
        self.offset = offset
        self.timestamps = [] if timestamps is None else timestamps
        self.price = price

    @property
    def newest_ms(self) -> int | None:
        return self.timestamps[-1] if self.timestamps else None

    def add(self, timestamp_ms: int, most: int = REMEMBERED) -> bool:
        """Remember a timestamp, `most` of them; False when it is already known."""
        known = self.timestamps
        if not known or timestamp_ms > known[-1]:
            known.append(timestamp_ms)
        else:
            at = bisect_left(known, timestamp_ms)
            if known[at] == timestamp_ms:
                return False
            known.insert(at, timestamp_ms)
        if len(known) > most:
            del known[0]
        return True

    def follow(self, price: float, most: float) -> bool:
        """Go on to the newest tick's price; False where it is over `most` times the one before, or under 1 / most."""
        before, self.price = self.price, price
        return before is None or (before <= price * most and price <= before * most)

    def to_bytes(self) -> bytes:
        """MessagePack of [offset, price, newest, differences going back]: two to five bytes a timestamp."""
        newest = self.newest_ms
        if newest is None:
            return msgspec.msgpack.encode([self.offset])
        gaps = [later - earlier for earlier, later in zip(self.timestamps, self.timestamps[1:], strict=False)]
        return msgspec.msgpack.encode([self.offset, self.price, newest, *reversed(gaps)])

    @classmethod
    def from_bytes(cls, stored: bytes | None) -> "Seen":
        """The state that `to_bytes` wrote; a new one for None."""
        if stored is None:
            return cls()
        offset, *rest = _decoder.decode(stored)
        price = None
        if rest and not isinstance(rest[0], int):  # states of before there were prices begin with the newest timestamp
            price, *rest = rest
        timestamps = rest[:1]
        for gap in rest[1:]:
            timestamps.append(timestamps[-1] - gap)
        return cls(offset, timestamps[::-1], price)


_decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list[int | float | None])
