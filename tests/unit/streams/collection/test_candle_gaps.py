"""Minutes without a candle: gaps, when they are requested again, and when they are given up."""

from collections.abc import Sequence

from exchanges.interface import Budget, Cost, OnRefused
from exchanges.retry_policy import RetryPolicy
from marketdata.markets import Market
from marketdata.records import Candle
from marketdata.times import MINUTE_MS
from streams.collection.candle_gaps import MAX_REQUESTS, Minutes
from streams.collection.candles import CandleCollector
from streams.kafka.records import OutgoingRecord
from streams.metrics import Metrics
from tests.support.fake_clock import FakeClock

M = MINUTE_MS
T = 1_722_816_000_000


def spans(minutes: Minutes) -> list[tuple[int, int]]:
    return sorted((gap.start_ms // M, gap.end_ms // M) for gap in minutes.gaps)


def test_candles_in_order_leave_no_gap() -> None:
    minutes = Minutes(0)
    assert [minutes.take(at * M) for at in range(3)] == [True] * 3
    assert [minutes.take(at * M) for at in range(3)] == [False] * 3
    assert minutes.next_ms == 3 * M
    assert minutes.gaps == []


def test_a_candle_ahead_opens_a_gap_which_candles_close_in_any_order() -> None:
    minutes = Minutes(0)
    assert minutes.take(5 * M)
    assert spans(minutes) == [(0, 5)]
    assert minutes.take(2 * M)
    assert spans(minutes) == [(0, 2), (3, 5)]
    assert not minutes.take(2 * M)
    assert all(minutes.take(at * M) for at in (0, 4, 3, 1))
    assert minutes.gaps == []


def test_gaps_and_newly_closed_minutes_are_due() -> None:
    minutes = Minutes(0)
    assert minutes.due(M - 1) == []
    assert minutes.due(M) == [0]
    minutes.take(3 * M)
    assert minutes.due(4 * M) == [0]
    assert minutes.due(5 * M) == [0, 4 * M]


def test_a_missing_minute_waits_longer_each_time_and_is_given_up() -> None:
    minutes = Minutes(0)
    minutes.take(2 * M)
    now, waits = 3 * M, []
    for _ in range(MAX_REQUESTS - 1):
        assert minutes.mark_requested(0, now, now) == 0
        [gap] = minutes.gaps
        waits.append((gap.due_ms - now) // M)
        now = gap.due_ms
        assert 0 in minutes.due(now)
        assert 0 not in minutes.due(now - 1)
    assert waits == [1, 2, 4, 8, 16, 32, 64]
    assert minutes.mark_requested(0, now, now) == 2
    assert minutes.gaps == []
    assert not minutes.take(0)  # it stays given up until the next start


def test_a_response_covers_only_its_part_of_a_gap() -> None:
    minutes = Minutes(0)
    minutes.take(9 * M)
    minutes.mark_requested(2 * M, 5 * M, 10 * M)
    assert [(g.start_ms // M, g.end_ms // M, g.requests) for g in minutes.gaps] == [(0, 2, 0), (2, 5, 1), (5, 9, 0)]
    assert minutes.due(10 * M) == [0, 5 * M]


def test_gaps_on_the_topic_are_open_within_a_limit() -> None:
    opens = [at * M for at in (0, 1, 5, 6, 9, 8)]
    assert spans(Minutes.known(opens, 100 * M)) == [(2, 5), (7, 8)]
    assert spans(Minutes.known(opens, 4 * M)) == [(7, 8)]
    assert Minutes.known(opens, 4 * M).next_ms == 10 * M
    assert Minutes.known([3 * M], 4 * M).due(4 * M) == []


class NothingTraded:
    """A source without candles."""

    name = "binance"
    budget = Budget()
    candles_cost = Cost(calls=1)
    candles_per_call = 1000

    async def candles(
        self, _market: Market, _start_ms: int, _now_ms: int, _timeout_s: float, _on_refused: OnRefused
    ) -> list[Candle]:
        return []


async def test_minutes_that_are_given_up_are_counted() -> None:
    async def publish(topic: str, items: Sequence[OutgoingRecord]) -> None:
        raise AssertionError(f"{topic}: {items}: there is nothing to publish")

    minutes = Minutes(T)
    minutes.take(T + 3 * MINUTE_MS)

    async def on_topic(symbols: Sequence[str], _latest_ms: int) -> dict[str, Minutes]:
        return dict.fromkeys(symbols, minutes)

    clock, metrics = FakeClock(T), Metrics()
    collector = CandleCollector(
        markets=[Market("BTC", "USD")],
        source=NothingTraded(),
        retry_policy=RetryPolicy("binance"),
        clock=clock,
        metrics=metrics,
        publish=publish,
        topic="candles",
        dead_letters="dead-letters",
        published=on_topic,
        lookback_ms=0,
    )
    for _request in range(MAX_REQUESTS):
        assert metrics.registry.get_sample_value("bitcoin_candles_given_up_total") == 0
        clock.ms = max([gap.due_ms for gap in minutes.gaps] + [T + 4 * MINUTE_MS])
        await collector.fetch()
    assert metrics.registry.get_sample_value("bitcoin_candles_given_up_total") == 3
