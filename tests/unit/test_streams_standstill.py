"""A worker that was not looked at for too long is ended; one that is busy is not."""

from streams.standstill import Standstill


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
