"""The watchdog ends a process that was suspended beyond the limit, and no other."""

from types import SimpleNamespace

import pytest

from streams.faust_batch.producer import BatchProducer
from streams.worker.stall_watchdog import StallWatchdog
from tests.support.fake_clock import FakeClock


def ends_after(*gaps_s: float, started: bool = True) -> list[tuple[float, float]]:
    """The calls of `end` when checks are made after each of these gaps; the limit is 4 s."""
    ends: list[tuple[float, float]] = []
    clock = FakeClock()
    watchdog = StallWatchdog(4.0, lambda stood_s, limit_s: ends.append((stood_s, limit_s)), clock.monotonic)
    if started:
        watchdog.start()
    for gap_s in gaps_s:
        clock.now_s += gap_s
        watchdog.check()
    return ends


def test_a_suspension_beyond_the_limit_ends_the_process() -> None:
    assert ends_after(0.5, 4.5) == [(4.5, 4.0)]


def test_many_short_pauses_do_not_add_up() -> None:
    assert ends_after(*[4.0] * 10) == []


def test_a_watchdog_that_was_not_started_is_never_ended() -> None:
    assert ends_after(100.0, 100.0, started=False) == []


async def test_the_producer_checks_before_it_sends() -> None:
    class Ended(Exception):  # noqa: N818
        pass

    def end(_stood_s: float, _limit_s: float) -> None:
        raise Ended

    clock = FakeClock()
    watchdog = StallWatchdog(4.0, end, clock.monotonic)
    watchdog.start()
    clock.now_s += 5.0
    producer = object.__new__(BatchProducer)
    producer.app = SimpleNamespace(stall_watchdog=watchdog)
    with pytest.raises(Ended):
        await producer.send_many("topic", 0, [(b"key", b"value", ())])
