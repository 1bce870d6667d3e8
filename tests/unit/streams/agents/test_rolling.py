"""Rolling features of a batch: one row per market and second, replays, invalid records; and liveness."""

import pytest
from aiokafka.structs import ConsumerRecord

from marketdata.codec import decode
from marketdata.features import MarketFeatures
from marketdata.records import DeadLetter, FeatureRow
from marketdata.times import to_rfc3339
from streams.agents.rolling import Rolled, roll
from streams.worker.health import STALLED_S, liveness

START_MS = 1_722_816_000_000


def record(
    offset: int, after_ms: int, symbol: str = "BTC-USD", key: str | None = None, ask: float = 101.0, qty: float = 1.0
) -> ConsumerRecord:
    value = (
        f'{{"symbol":"{symbol}","timestamp":"{to_rfc3339(START_MS + after_ms)}",'
        f'"bid_price":{min(ask, 99.0)},"bid_qty":{qty},"ask_price":{ask},"ask_qty":1.0}}'
    ).encode()
    return ConsumerRecord("ticks-clean", 1, offset, 0, 1, (key or symbol).encode(), value, None, -1, -1, ())


class States(dict[bytes, MarketFeatures]):
    def __missing__(self, key: bytes) -> MarketFeatures:
        state = self[key] = MarketFeatures(key.decode())
        return state


def run(records: list[ConsumerRecord], states: States) -> Rolled:
    return roll(1, records, states.__getitem__, START_MS, 3_600_000)


def rows(done: Rolled) -> list[tuple[str, str, int, bytes]]:
    made = [(decode(FeatureRow, value), headers) for _key, value, headers in done.rows]
    return [(row.symbol, row.timestamp, row.windows["24h"].n_ticks, headers[0][1]) for row, headers in made]


def test_there_is_a_row_for_each_market_and_second_and_at_the_end() -> None:
    records = [record(0, 0), record(1, 500), record(2, 600, "ETH-USD"), record(3, 1_000), record(4, 1_200)]
    assert rows(run(records, States())) == [
        ("BTC-USD", "2024-08-05T00:00:00.500Z", 2, b"1"),
        ("ETH-USD", "2024-08-05T00:00:00.600Z", 1, b"2"),
        ("BTC-USD", "2024-08-05T00:00:01.200Z", 4, b"4"),
    ]


def test_absurd_numbers_of_other_writers_do_not_enter_a_row() -> None:
    strange = [record(0, 0, ask=1e308), record(1, 1_000, ask=5e-324), record(2, 2_000, qty=1e308)]
    done = run([*strange, record(3, 3_000)], States())
    row = decode(FeatureRow, done.rows[-1][1])
    window = row.windows["1m"]
    assert (window.n_ticks, window.high, window.low, window.mean_liquidity) == (4, 100.0, 100.0, 2.0)
    assert done.dead_letters == []


def test_a_late_tick_makes_a_row_of_a_higher_revision() -> None:
    states = States()
    run([record(0, 60_000)], states)
    done = run([record(1, 30_000)], states)
    (row,) = [decode(FeatureRow, value) for _key, value, _headers in done.rows]
    assert (row.timestamp, row.revision, row.windows["5m"].n_ticks) == ("2024-08-05T00:01:00.000Z", 1, 2)


def test_a_tick_beyond_the_lateness_is_counted() -> None:
    done = run([record(0, 300_000), record(1, 0)], States())
    assert done.late == 1


def test_a_replay_changes_nothing() -> None:
    states = States()
    records = [record(0, 0), record(1, 1_000)]
    run(records, states)
    again = run(records, states)
    assert (again.rows, again.touched, again.replayed) == ([], set(), 2)


def test_an_undecodable_record_becomes_a_dead_letter() -> None:
    done = run([record(0, 0, key="ETH-USD"), record(1, 0)], States())
    (letter,) = [decode(DeadLetter, value) for _key, value, _headers in done.dead_letters]
    assert (letter.reason, letter.offset) == ("not_a_tick", 0)
    assert len(done.rows) == 1


def test_a_tick_ahead_of_the_clock_does_not_advance_the_windows() -> None:
    done = run([record(0, 0), record(1, 3_600_001), record(2, 1_000)], States())
    (letter,) = [decode(DeadLetter, value) for _key, value, _headers in done.dead_letters]
    assert (letter.reason, letter.field, letter.offset) == ("future", "timestamp", 1)
    assert letter.expected == "at most 2024-08-05T01:00:00.000Z, by the clock"
    assert done.late == 0
    assert rows(done)[-1] == ("BTC-USD", "2024-08-05T00:00:01.000Z", 2, b"2")


@pytest.mark.parametrize(
    ("payload", "reason", "value"),
    [(None, "empty", "None"), (b"", "empty", "b''"), (b"{]", "json", "b'{]'"), (b"[]", "type", "b'[]'")],
)
def test_the_dead_letter_of_an_undecodable_record_equals_the_clean_agents(
    payload: bytes | None, reason: str, value: str
) -> None:
    raw = ConsumerRecord("ticks-clean", 1, 0, 0, 1, b"BTC-USD", payload, None, -1, -1, ())
    (letter,) = [decode(DeadLetter, one) for _key, one, _headers in run([raw], States()).dead_letters]
    assert (letter.reason, letter.field, letter.value) == (reason, "payload", value)
    assert "a record that can be processed" not in letter.expected


def test_an_agent_is_stalled_when_records_wait_and_nothing_happens() -> None:
    assert liveness({"clean": 0, "features": 3}, {"clean": 999.0, "features": STALLED_S}) == {}
    wrong = liveness({"clean": 0, "features": 3}, {"clean": 999.0, "features": STALLED_S + 1})
    assert wrong == {"features": "3 records are waiting and none was handled for 61 s"}


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_at_the_edge_of_the_calendar_becomes_a_dead_letter(text: str) -> None:
    value = record(0, 0).value.replace(to_rfc3339(START_MS).encode(), text.encode())
    raw = ConsumerRecord("ticks-clean", 1, 0, 0, 1, b"BTC-USD", value, None, -1, -1, ())
    done = run([raw, record(1, 0)], States())
    assert [decode(DeadLetter, letter[1]).field for letter in done.dead_letters] == ["timestamp"]
    assert len(done.rows) == 1


def test_an_error_within_the_state_becomes_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MarketFeatures, "add", lambda *_args: 1 / 0)
    done = run([record(0, 0)], States())
    assert done.reasons == ["unexpected"]


def test_deep_nesting_is_refused_with_the_codecs_reason() -> None:
    deep = b'{"symbol":"BTC-USD","n_trades":' + b"[" * 100_000
    raw = ConsumerRecord("ticks-clean", 1, 0, 0, 1, b"BTC-USD", deep, None, -1, -1, ())
    (letter,) = [decode(DeadLetter, one) for _key, one, _headers in run([raw], States()).dead_letters]
    assert (letter.reason, letter.field) == ("type", "n_trades")
