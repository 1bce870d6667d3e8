"""The throttle: at most one record per market and 200 ms, and always the newest in the end."""

from itertools import pairwise
from typing import Any

from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from marketdata.topics import TopicRole
from streams.views.throttle import Throttle

ROLE = TopicRole.FEATURES
EVERY_MS = 200


def record(arrived_ms: int, key: bytes = b"BTC-USD") -> ConsumerRecord:
    unknown: Any = None
    return ConsumerRecord("features", 0, arrived_ms, arrived_ms, 1, key, b"", unknown, 0, 0, ())


class Reading:
    """Polls at given times; `shown` contains when each record was shown and when it had arrived."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.throttle = Throttle(EVERY_MS, lambda: self.now_ms / 1000)
        self.shown: list[tuple[int, int]] = []

    def poll(self, now_ms: int, *arrived: int) -> None:
        self.now_ms = now_ms
        found = self.throttle.admit(ROLE, [record(at) for at in arrived])
        found += [one for _role, one in self.throttle.release()]
        self.shown += [(now_ms, one.timestamp) for one in found]


def test_fast_polls_show_at_most_one_record_per_interval() -> None:
    reading = Reading()
    for at in range(0, 2_001, 40):  # 25 polls a second, each with a record
        reading.poll(at, at)
    assert [at for at, _arrived in reading.shown] == list(range(0, 2_001, 200))


def test_the_newest_is_shown_after_the_interval_without_a_successor() -> None:
    reading = Reading()
    reading.poll(0, 0)
    reading.poll(50, 40)
    reading.poll(100, 90)
    assert (reading.shown, reading.throttle.is_holding) == ([(0, 0)], True)
    reading.poll(199)
    reading.poll(200)
    reading.poll(400)
    assert (reading.shown, reading.throttle.is_holding) == ([(0, 0), (200, 90)], False)


def test_records_read_together_are_throttled_by_their_arrival() -> None:
    reading = Reading()
    reading.poll(5_000, *range(0, 1_001, 50))
    assert [arrived for _at, arrived in reading.shown] == [0, 200, 400, 600, 800, 1_000]


def test_markets_are_throttled_independently() -> None:
    throttle = Throttle(EVERY_MS, lambda: 0.0)
    both = [record(0), record(10, b"ETH-USD")]
    assert throttle.admit(ROLE, both) == both
    assert throttle.admit(TopicRole.TICKS_CLEAN, both) == both


@given(st.lists(st.tuples(st.integers(0, 150), st.booleans()), min_size=1, max_size=60))
def test_the_newest_is_always_shown_and_never_two_within_the_interval(polls: list[tuple[int, bool]]) -> None:
    reading, newest, at = Reading(), 0, 0
    reading.poll(0, 0)
    for pause, has_record in polls:
        at += pause
        reading.poll(at, *([at] if has_record else []))
        newest = at if has_record else newest
    reading.poll(at + EVERY_MS + 1)  # rounding of float seconds
    times, arrived = zip(*reading.shown, strict=True)
    assert arrived[-1] == newest
    assert list(arrived) == sorted(arrived)
    assert all(later - earlier >= EVERY_MS for earlier, later in pairwise(times))
