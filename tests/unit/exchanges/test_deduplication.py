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
