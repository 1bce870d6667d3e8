"""Track a market's minutes without a candle on the topic, and when to request them again. Pure.

A missing minute either had no trade, so that its candle never exists, or the exchange publishes its candle later. It is
therefore requested again with growing pauses, at most `MAX_REQUESTS` times.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from marketdata.times import MINUTE_MS

MAX_REQUESTS = 8
"""Requests of a missing minute, with pauses of 1, 2, 4, … minutes between them: two hours in total."""


@dataclass(slots=True)
class Gap:
    """Minutes [start_ms, end_ms) without a candle: `requests` made so far, the next one due at `due_ms`."""

    start_ms: int
    end_ms: int
    due_ms: int = 0
    requests: int = 0


class Minutes:
    """The minutes of one market: `next_ms` is the one after the newest candle, `gaps` are the earlier ones without."""

    __slots__ = ("gaps", "next_ms")

    def __init__(self, next_ms: int) -> None:
        self.next_ms = next_ms
        self.gaps: list[Gap] = []

    @classmethod
    def known(cls, open_times: Iterable[int], inside_ms: int) -> "Minutes":
        """Build from the candles on the topic.

        Args:
            open_times: ms, any order, at least one.
            inside_ms: minutes missing longer than this before the newest candle are not requested.
        """
        ordered = sorted(open_times)
        minutes = cls(max(ordered[0], ordered[-1] - inside_ms))
        for open_ms in ordered:
            minutes.take(open_ms)
        return minutes

    def take(self, open_ms: int) -> bool:
        """Add a candle; return False if its minute is on the topic already or was given up."""
        if open_ms >= self.next_ms:
            if open_ms > self.next_ms:
                self.gaps.append(Gap(self.next_ms, open_ms))
            self.next_ms = open_ms + MINUTE_MS
            return True
        for at, gap in enumerate(self.gaps):
            if gap.start_ms <= open_ms < gap.end_ms:
                before = Gap(gap.start_ms, open_ms, gap.due_ms, gap.requests)
                after = Gap(open_ms + MINUTE_MS, gap.end_ms, gap.due_ms, gap.requests)
                self.gaps[at : at + 1] = [part for part in (before, after) if part.start_ms < part.end_ms]
                return True
        return False

    def due(self, now_ms: int) -> list[int]:
        """Return the times (ms) to request from, oldest first: starts of due gaps, then `next_ms` once it is closed."""
        starts = [gap.start_ms for gap in self.gaps if gap.due_ms <= now_ms]
        if self.next_ms + MINUTE_MS <= now_ms:
            starts.append(self.next_ms)
        return starts

    def mark_requested(self, start_ms: int, through_ms: int, now_ms: int) -> int:
        """Record that the exchange sent all its candles of [start_ms, through_ms); missing minutes there wait.

        Returns:
            The number of minutes given up.
        """
        kept: list[Gap] = []
        given_up = 0
        for gap in self.gaps:
            low, high = max(gap.start_ms, start_ms), min(gap.end_ms, through_ms)
            if low >= high:
                kept.append(gap)
                continue
            requests = gap.requests + 1
            if gap.start_ms < low:
                kept.append(Gap(gap.start_ms, low, gap.due_ms, gap.requests))
            if requests < MAX_REQUESTS:
                kept.append(Gap(low, high, now_ms + MINUTE_MS * 2 ** (requests - 1), requests))
            else:
                given_up += (high - low) // MINUTE_MS
            if high < gap.end_ms:
                kept.append(Gap(high, gap.end_ms, gap.due_ms, gap.requests))
        self.gaps = kept
        return given_up
