"""Which minutes of a market have a candle on the topic, which are missing, and when to ask for those again. Pure.

A missing minute is either one in which nothing traded, which never comes, or one that the exchange gives later. So it
is asked for again with growing pauses, and given up after `ASKS`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from marketdata.times import MINUTE_MS

ASKS = 8  # with pauses of 1, 2, 4, … minutes in between: two hours
"""How often a missing minute is asked for."""


@dataclass(slots=True)
class Gap:
    """Minutes [start_ms, end_ms) without a candle; to be asked for at `ask_at_ms`, after `asked` times before."""

    start_ms: int
    end_ms: int
    ask_at_ms: int = 0
    asked: int = 0


class Minutes:
    """One market. `next_ms` is the minute after the newest candle; before it only `gaps` are open."""

    __slots__ = ("gaps", "next_ms")

    def __init__(self, next_ms: int) -> None:
        self.next_ms = next_ms
        self.gaps: list[Gap] = []

    @classmethod
    def known(cls, open_times: Iterable[int], inside_ms: int) -> "Minutes":
        """From the candles that are on the topic.

        Args:
            open_times: ms, any order, at least one.
            inside_ms: what is missing more than this before the newest is not asked for.
        """
        ordered = sorted(open_times)
        minutes = cls(max(ordered[0], ordered[-1] - inside_ms))
        for open_ms in ordered:
            minutes.take(open_ms)
        return minutes

    def take(self, open_ms: int) -> bool:
        """Note a candle; False when that minute is on the topic already, or was given up."""
        if open_ms >= self.next_ms:
            if open_ms > self.next_ms:
                self.gaps.append(Gap(self.next_ms, open_ms))
            self.next_ms = open_ms + MINUTE_MS
            return True
        for at, gap in enumerate(self.gaps):
            if gap.start_ms <= open_ms < gap.end_ms:
                before = Gap(gap.start_ms, open_ms, gap.ask_at_ms, gap.asked)
                after = Gap(open_ms + MINUTE_MS, gap.end_ms, gap.ask_at_ms, gap.asked)
                self.gaps[at : at + 1] = [part for part in (before, after) if part.start_ms < part.end_ms]
                return True
        return False

    def due(self, now_ms: int) -> list[int]:
        """The starts to ask from, oldest first: of gaps whose time has come, and of what closed since the newest."""
        starts = [gap.start_ms for gap in self.gaps if gap.ask_at_ms <= now_ms]
        if self.next_ms + MINUTE_MS <= now_ms:
            starts.append(self.next_ms)
        return starts

    def answered(self, start_ms: int, through_ms: int, now_ms: int) -> int:
        """The exchange gave all that it has of [start_ms, through_ms): what is missing there waits.

        Returns:
            How many minutes are given up.
        """
        kept: list[Gap] = []
        given_up = 0
        for gap in self.gaps:
            low, high = max(gap.start_ms, start_ms), min(gap.end_ms, through_ms)
            if low >= high:
                kept.append(gap)
                continue
            asked = gap.asked + 1
            if gap.start_ms < low:
                kept.append(Gap(gap.start_ms, low, gap.ask_at_ms, gap.asked))
            if asked < ASKS:
                kept.append(Gap(low, high, now_ms + MINUTE_MS * 2 ** (asked - 1), asked))
            else:
                given_up += (high - low) // MINUTE_MS
            if high < gap.end_ms:
                kept.append(Gap(high, gap.end_ms, gap.ask_at_ms, gap.asked))
        self.gaps = kept
        return given_up
