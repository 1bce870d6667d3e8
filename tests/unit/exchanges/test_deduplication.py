"""During a handover each event is passed on once, whichever connection is ahead."""

from exchanges.deduplication import Deduplicator

TRADES = "btcusdt@trade"


def test_each_event_of_a_handover_is_new_once() -> None:
    deduplicator = Deduplicator()
    old = deduplicator.open()
    assert [deduplicator.is_new(old, TRADES, number) for number in (1, 2)] == [True, True]
    new = deduplicator.open()
    arrivals = ((new, 5), (new, 6), (old, 3), (old, 4), (old, 5), (old, 6), (old, 7), (new, 7), (new, 8))
    passed_on = [number for link, number in arrivals if deduplicator.is_new(link, TRADES, number)]
    assert passed_on == [5, 6, 3, 4, 7, 8]


def test_what_a_closed_connection_delivered_stays_known() -> None:
    deduplicator = Deduplicator()
    old = deduplicator.open()
    assert deduplicator.is_new(old, TRADES, 7)
    new = deduplicator.open()
    deduplicator.close(old)
    assert [deduplicator.is_new(new, TRADES, number) for number in (6, 7, 8)] == [False, False, True]
    assert deduplicator.is_new(new, "btcusdt@bookTicker", 1)


def test_closing_a_connection_leaves_the_others_open() -> None:
    deduplicator = Deduplicator()
    first, second, third = (deduplicator.open() for _ in range(3))  # equal: none has delivered anything
    deduplicator.close(second)
    assert deduplicator.is_new(third, TRADES, 1)
    assert not deduplicator.is_new(first, TRADES, 1)


def test_a_numbering_that_begins_lower_after_a_loss_is_followed_at_once() -> None:
    deduplicator = Deduplicator()
    lost = deduplicator.open()
    assert all(deduplicator.is_new(lost, TRADES, number) for number in (100, 101, 102))
    deduplicator.close(lost)
    again = deduplicator.open()
    assert [deduplicator.is_new(again, TRADES, number) for number in (1, 2, 100, 101)] == [True, True, False, False]
    assert deduplicator.restarts == 1


def test_events_that_the_exchange_sends_again_after_a_loss_are_not_new() -> None:
    deduplicator = Deduplicator()
    for first in (1, 5):  # the second connection is lost as well, after a few events
        link = deduplicator.open()
        assert [deduplicator.is_new(link, TRADES, number) for number in range(first, first + 8)].count(True) in {8, 4}
        deduplicator.close(link)
    third = deduplicator.open()
    assert [number for number in range(3, 16) if deduplicator.is_new(third, TRADES, number)] == [13, 14, 15]
    assert deduplicator.restarts == 0


def test_a_numbering_that_restarts_among_delivered_numbers_is_followed_after_a_while() -> None:
    deduplicator = Deduplicator()
    lost = deduplicator.open()
    assert all(deduplicator.is_new(lost, TRADES, number) for number in range(1, 100))
    deduplicator.close(lost)
    again = deduplicator.open()
    assert not any(deduplicator.is_new(again, TRADES, number) for number in (1, 2, 3, 4))
    deduplicator.forget_closed()
    assert [deduplicator.is_new(again, TRADES, number) for number in (5, 5, 6)] == [True, False, True]
    assert deduplicator.restarts == 1


def test_a_numbering_that_restarts_on_an_open_connection_is_followed_from_its_third_event() -> None:
    deduplicator = Deduplicator()
    link = deduplicator.open()
    arrivals = (50, 51, 50, 51, 52, 1, 2, 53, 1, 2, 3, 4, 4, 5)
    passed_on = [number for number in arrivals if deduplicator.is_new(link, TRADES, number)]
    assert passed_on == [50, 51, 52, 53, 3, 4, 5]
    assert deduplicator.restarts == 1
