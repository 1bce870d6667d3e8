"""Conflation: the contents of an interval, no dropped events, bounded memory."""

import random

import pytest

from exchanges.interface import QuoteUpdate, TradeUpdate
from streams.collection.conflation import MAX_CLOSED, Conflation, Interval

START = 1_722_816_000_000


def quote(number: int, bid: float = 100.0, symbol: str = "BTC-USD") -> QuoteUpdate:
    return QuoteUpdate(f"{symbol}@q", number, symbol, bid, 1.0, bid + 1, 2.0)


def trade(number: int, price: float, qty: float, symbol: str = "BTC-USD") -> TradeUpdate:
    return TradeUpdate(f"{symbol}@t", number, symbol, price, qty)


def conflation(polls_ms: int | None = None) -> Conflation:
    return Conflation(["BTC-USD", "ETH-USD"], 1_000, polls_ms)


def bid(interval: Interval) -> float:
    assert interval.quote is not None
    return interval.quote.bid_price


def test_an_interval_has_its_events_and_the_last_quote() -> None:
    feed = conflation()
    feed.add(quote(1, 100.0), START + 1)
    feed.add(trade(1, 100.0, 2.0), START + 500)
    feed.add(trade(2, 103.0, 1.0), START + 999)
    feed.add(quote(2, 101.0), START + 1_000)
    assert feed.take(START + 999) == []
    [interval] = feed.take(START + 1_000)
    assert (interval.end_ms, bid(interval), interval.quoted_at_ms) == (START + 1_000, 101.0, START + 1_000)
    assert (interval.n_updates, interval.n_trades, interval.volume, interval.value) == (2, 2, 3.0, 303.0)
    assert feed.take(START + 9_000) == []


def test_a_quote_is_valid_until_the_next_one() -> None:
    feed = conflation()
    feed.add(quote(1, 100.0), START + 1)
    feed.take(START + 1_000)
    feed.add(trade(1, 100.0, 2.0), START + 5_500)
    [interval] = feed.take(START + 6_000)
    assert (interval.end_ms, bid(interval), interval.n_updates) == (START + 6_000, 100.0, 0)
    assert interval.quoted_at_ms == START + 1


def test_events_after_an_end_do_not_enter_an_interval_that_was_not_taken_yet() -> None:
    feed = conflation()
    feed.add(quote(1, 100.0), START + 1)
    feed.add(quote(2, 200.0), START + 1_003)
    [first] = feed.take(START + 1_004)
    assert (first.end_ms, bid(first)) == (START + 1_000, 100.0)
    [second] = feed.take(START + 2_000)
    assert (second.end_ms, bid(second)) == (START + 2_000, 200.0)


def test_trades_without_a_known_quote_wait_for_the_first() -> None:
    feed = conflation()
    feed.add(trade(1, 100.0, 2.0), START + 1)
    assert feed.take(START + 5_000) == []
    feed.add(quote(1), START + 5_001)
    [interval] = feed.take(START + 6_000)
    assert (interval.end_ms, interval.n_trades, interval.n_updates) == (START + 6_000, 1, 1)


def test_a_lost_connections_quote_is_not_used_again() -> None:
    feed = conflation()
    feed.add(quote(1, 100.0), START + 1)
    feed.forget_quotes(["BTC-USD"])
    assert [bid(one) for one in feed.take(START + 1_000)] == [100.0]  # it was valid then
    feed.add(trade(1, 90.0, 1.0), START + 1_500)
    assert feed.take(START + 2_000) == []
    feed.add(quote(2, 90.0), START + 2_500)
    assert [(bid(one), one.n_trades) for one in feed.take(START + 3_000)] == [(90.0, 1)]


def test_an_older_quote_that_arrives_later_is_counted_but_not_used() -> None:
    feed = conflation()
    feed.add(quote(2, 102.0), START + 1)
    feed.add(quote(1, 101.0), START + 2)
    [interval] = feed.take(START + 1_000)
    assert (bid(interval), interval.n_updates) == (102.0, 2)


def test_no_interval_ends_at_a_polls_instant() -> None:
    feed = conflation(polls_ms=60_000)
    feed.add(quote(1), START - 500)
    feed.add(trade(1, 100.0, 1.0), START + 500)
    assert feed.take(START) == []
    [interval] = feed.take(START + 1_000)
    assert (interval.end_ms, interval.n_updates, interval.n_trades) == (START + 1_000, 1, 1)


def test_intervals_that_are_not_taken_are_extended_and_nothing_is_dropped() -> None:
    feed = conflation()
    for second in range(1_000):
        feed.add(quote(second + 1, 100.0 + second), START + second * 1_000 + 1)
        feed.add(trade(second + 1, 100.0, 1.0), START + second * 1_000 + 2)
    taken = feed.take(START + 1_000_000)
    assert len(taken) == MAX_CLOSED + 1
    assert sum(one.n_updates for one in taken) == sum(one.volume for one in taken) == 1_000
    assert (taken[-1].end_ms, bid(taken[-1])) == (START + 1_000_000, 1_099.0)


@pytest.mark.parametrize("seed", range(5))
def test_any_pace_of_taking_keeps_counts_volume_order_and_the_grid(seed: int) -> None:
    chance = random.Random(seed)
    feed, now, taken, volume = conflation(polls_ms=5_000), START, [], 0.0
    for number in range(1, 2_001):
        now += chance.randrange(0, 700)
        symbol = chance.choice(["BTC-USD", "ETH-USD"])
        feed.add(quote(number, symbol=symbol), now)
        feed.add(trade(number, 10.0, number / 8, symbol), now)
        volume += number / 8
        if chance.random() < 0.3:
            taken += feed.take(now)
    taken += feed.take(now + 10_000)
    assert sum(one.n_updates for one in taken) == 2_000
    assert sum(one.volume for one in taken) == volume
    assert {one.end_ms % 1_000 for one in taken} == {0}
    assert all(one.end_ms % 5_000 for one in taken)
    for symbol in ("BTC-USD", "ETH-USD"):
        ends = [one.end_ms for one in taken if one.symbol == symbol]
        assert ends == sorted(set(ends))


def test_an_interval_ends_when_the_clock_is_set_back() -> None:
    feed = conflation()
    feed.add(quote(1, 100.0), START + 3_600_001)
    [interval] = feed.take(START + 500)
    assert interval.end_ms == START + 3_601_000
    feed.add(quote(2, 101.0), START + 600)
    assert feed.take(START + 700) == []
    [interval] = feed.take(START + 1_000)
    assert (interval.end_ms, bid(interval)) == (START + 1_000, 101.0)
