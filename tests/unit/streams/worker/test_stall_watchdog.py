"""A worker that was not looked at for too long is ended; one that is busy is not."""

from types import SimpleNamespace

import pytest

from streams.faust_batch.driver import BatchProducer
from streams.worker.stall_watchdog import Standstill


class Clock:
    """Seconds, as told."""

    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:
        return self.s


def looked_at(*gaps_s: float, begun: bool = True) -> list[tuple[float, float]]:
    """How it ends when it is looked at after each of these gaps; its limit is 4 s."""
    ends: list[tuple[float, float]] = []
    clock = Clock()
    standstill = Standstill(4.0, lambda stood_s, limit_s: ends.append((stood_s, limit_s)), clock)
    if begun:
        standstill.begin()
    for gap_s in gaps_s:
        clock.s += gap_s
        standstill.look()
    return ends


def test_a_standstill_beyond_the_limit_ends_it() -> None:
    assert looked_at(0.5, 4.5) == [(4.5, 4.0)]


def test_many_short_pauses_are_none() -> None:
    assert looked_at(*[4.0] * 10) == []


def test_what_has_not_begun_is_never_ended() -> None:
    assert looked_at(100.0, 100.0, begun=False) == []


async def test_who_sends_asks_first() -> None:
    class Ended(Exception):  # noqa: N818
        pass

    def end(_stood_s: float, _limit_s: float) -> None:
        raise Ended

    clock = Clock()
    standstill = Standstill(4.0, end, clock)
    standstill.begin()
    clock.s += 5.0
    producer = object.__new__(BatchProducer)
    producer.app = SimpleNamespace(standstill=standstill)
    with pytest.raises(Ended):
        await producer.send_many("topic", 0, [(b"key", b"value", ())])
