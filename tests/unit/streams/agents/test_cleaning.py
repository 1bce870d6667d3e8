"""Cleaning a batch: each rule, duplicates, late ticks, replays; and the state of a market."""

import base64
import math
from typing import Any

import msgspec
import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from marketdata.codec import decode, encode
from marketdata.records import DeadLetter, SourceState, Tick
from marketdata.tick_rules import RULES
from marketdata.times import to_rfc3339
from streams.agents.cleaning import Cleaned, clean
from streams.agents.seen import REMEMBERED, Seen
from tests.support.builders import tick

NOW_MS = 1_722_816_000_000
LONG = 500_000


def record(value: bytes | None, offset: int = 0, key: bytes | None = b"BTC-USD") -> ConsumerRecord:
    return ConsumerRecord("cryptoTopic", 2, offset, 0, 1, key, value, None, -1, -1, ())


def run(
    records: list[ConsumerRecord],
    states: dict[bytes, Seen] | None = None,
    delivered: int = -1,
    max_move: float = math.inf,
) -> Cleaned:
    known = {} if states is None else states
    return clean(
        records,
        lambda key: known.get(key) or Seen(),
        NOW_MS,
        lateness_ms=120_000,
        max_future_ms=60_000,
        delivered=delivered,
        max_move=max_move,
    )


def letters(done: Cleaned) -> list[DeadLetter]:
    return [decode(DeadLetter, value) for _key, value, _headers in done.dead_letters]


def test_a_valid_tick_passes_unchanged() -> None:
    value = encode(tick())
    done = run([record(value, 7)])
    assert done.ticks == [(b"BTC-USD", value, (("source-offset", b"7"),))]
    assert done.states[b"BTC-USD"].offset == 7
    assert done.dead_letters == []


@pytest.mark.parametrize(
    ("changed", "reason", "field"),
    [
        ({"symbol": "btc"}, "key", "key"),
        ({"quote": "EUR", "price_usd": None}, "quote", "quote"),
        ({"tick_id": "BTC-USD|now"}, "tick_id", "tick_id"),
        ({"price_usd": None}, "price_alias", "price_usd"),
        ({"price": 0.0, "price_usd": 0.0}, "not_positive", "price"),
        ({"bid_price": 0.0}, "not_positive", "bid_price"),
        ({"ask_price": -1.0}, "not_positive", "ask_price"),
        ({"bid_price": 102.0}, "crossed_quote", "ask_price"),
        ({"bid_qty": -1.0}, "negative", "bid_qty"),
        ({"ask_qty": -0.1}, "negative", "ask_qty"),
        ({"high_24h": 0.0}, "not_positive", "high_24h"),
        ({"low_24h": -5.0}, "not_positive", "low_24h"),
        ({"high_24h": 1.0, "low_24h": 2.0}, "crossed_range", "high_24h"),
        ({"volume_24h": -1.0}, "negative", "volume_24h"),
        ({"market_cap": -1.0}, "negative", "market_cap"),
        ({"n_updates": -1}, "negative", "n_updates"),
        ({"n_trades": -1}, "negative", "n_trades"),
        ({"traded_volume": -3.0}, "negative", "traded_volume"),
        ({"vwap": 0.0}, "not_positive", "vwap"),
        ({"price": 1e308, "price_usd": 1e308}, "absurd", "price"),
        ({"bid_price": 5e-324}, "absurd", "bid_price"),
        ({"ask_price": 1e308}, "absurd", "ask_price"),
        ({"bid_qty": 1e308}, "absurd", "bid_qty"),
        ({"ask_qty": 1e308}, "absurd", "ask_qty"),
        ({"high_24h": 1e308}, "absurd", "high_24h"),
        ({"low_24h": 5e-324}, "absurd", "low_24h"),
        ({"volume_24h": 1e308}, "absurd", "volume_24h"),
        ({"market_cap": 1e308}, "absurd", "market_cap"),
        ({"n_updates": 10**15 + 1}, "absurd", "n_updates"),
        ({"n_trades": 10**20}, "absurd", "n_trades"),
        ({"traded_volume": 1e308}, "absurd", "traded_volume"),
        ({"vwap": 1e308}, "absurd", "vwap"),
        ({"price": None, "price_usd": None, "bid_price": None}, "no_data", "price"),
    ],
)
def test_a_tick_that_breaks_a_rule_becomes_a_dead_letter(changed: dict[str, Any], reason: str, field: str) -> None:
    value = encode(tick(**changed))
    done = run([record(value, 3), record(encode(tick(NOW_MS - 60_000)), 4)])
    (letter,) = letters(done)
    assert (letter.reason, letter.field) == (reason, field)
    assert (letter.topic, letter.partition, letter.offset, letter.key) == ("cryptoTopic", 2, 3, "BTC-USD")
    assert base64.b64decode(letter.payload) == value
    assert len(done.ticks) == 1


def test_every_rule_has_a_case_above() -> None:
    cases = test_a_tick_that_breaks_a_rule_becomes_a_dead_letter.pytestmark[0].args[1]  # type: ignore[attr-defined]
    shown = {(reason, field) for _changed, reason, field in cases}
    assert {(rule.reason, rule.field) for rule in RULES} - {("symbol", "symbol")} <= shown


def test_a_malformed_symbol_is_refused() -> None:
    timestamp = to_rfc3339(NOW_MS)
    value = encode(tick(symbol="btc/usd", tick_id=f"btc/usd|{timestamp}"))
    (letter,) = letters(run([record(value, key=b"btc/usd")]))
    assert (letter.reason, letter.field) == ("symbol", "symbol")


def test_undecodable_bytes_are_refused_with_the_codecs_reason() -> None:
    good = msgspec.to_builtins(tick())
    bad = [b"", b"{", msgspec.json.encode({**good, "price": "100"}), msgspec.json.encode({**good, "more": 1})]
    bad.append(b'{"nested":' * 50_000)
    done = run([record(value, offset) for offset, value in enumerate(bad)])
    assert [letter.reason for letter in letters(done)] == ["empty", "json", "type", "unknown_field", "unknown_field"]
    assert done.reasons == ["empty", "json", "type", "unknown_field", "unknown_field"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"tick_id": "|" * LONG}, "tick_id"),
        ({"quote": "-" * LONG, "price_usd": None}, "quote"),
        ({"symbol": "A" * LONG}, "symbol"),
        ({"symbol": "A-" * (LONG // 2)}, "symbol"),
    ],
)
def test_a_text_of_half_a_megabyte_is_refused_by_its_field(changed: dict[str, Any], field: str) -> None:
    one = tick(**{"tick_id": "BTC-USD", "quote": "USD", **changed})
    records = [record(encode(one), key=one.symbol.encode())]
    # A check in quadratic time would take 10^11 steps, and run into pytest's timeout.
    (letter,) = letters(run(records))
    assert letter.field == field


@pytest.mark.parametrize("key", [None, b"ETH-USD", b"\xff"])
def test_a_key_that_is_not_the_symbol_is_refused(key: bytes | None) -> None:
    (letter,) = letters(run([record(encode(tick()), key=key)]))
    assert letter.reason == "key"


def test_a_tick_too_far_ahead_of_the_clock_is_refused() -> None:
    done = run([record(encode(tick(NOW_MS + 60_000)), 0), record(encode(tick(NOW_MS + 60_001)), 1)])
    assert len(done.ticks) == 1
    assert [letter.reason for letter in letters(done)] == ["future"]


def test_duplicates_are_dropped_and_counted_in_any_order() -> None:
    values = [encode(tick(NOW_MS - ms)) for ms in (120_000, 0, 60_000, 60_000, 0)]
    done = run([record(value, offset) for offset, value in enumerate(values)])
    assert [headers[0][1] for _key, _value, headers in done.ticks] == [b"0", b"1", b"2"]
    assert done.duplicates == 2
    assert done.dead_letters == []


def test_as_many_timestamps_are_remembered_as_requested() -> None:
    times = [NOW_MS + 100 * n for n in range(2 * REMEMBERED)]
    few, many = Seen(), Seen()
    for timestamp_ms in times:
        few.add(timestamp_ms)
        many.add(timestamp_ms, len(times))
    assert (few.add(times[0]), many.add(times[0], len(times))) == (True, False)


def test_a_jump_and_the_jump_back_are_flagged_and_pass() -> None:
    bids = [99.0, 100.0, 199.0, 99.0, 100.0]
    ticks = [tick(NOW_MS + n * 1_000, bid_price=bid, ask_price=bid + 2) for n, bid in enumerate(bids)]
    late = tick(NOW_MS - 1_000, bid_price=1.0, ask_price=2.0)
    values = [encode(one) for one in (*ticks, late)]
    states: dict[bytes, Seen] = {}
    done = run([record(value, offset) for offset, value in enumerate(values)], states, max_move=1.2)
    assert [decode(Tick, value).flags for _key, value, _headers in done.ticks] == [(), (), ("jump",), ("jump",), (), ()]
    assert [value for _key, value, _headers in done.ticks][:2] == values[:2]  # unchanged
    assert done.jumps == 2
    again = Seen.from_bytes(done.states[b"BTC-USD"].to_bytes())
    assert again.price == 101.0


def test_a_state_without_a_price_is_read() -> None:
    seen = Seen.from_bytes(msgspec.msgpack.encode([7, NOW_MS, 1_000]))
    assert (seen.offset, seen.timestamps, seen.price) == (7, [NOW_MS - 1_000, NOW_MS], None)


def test_a_late_tick_passes_and_is_counted() -> None:
    done = run([record(encode(tick(NOW_MS)), 0), record(encode(tick(NOW_MS - 121_000)), 1)])
    assert (len(done.ticks), done.late) == (2, 1)


def test_a_replay_of_handled_records_changes_nothing() -> None:
    records = [record(encode(tick(NOW_MS - ms)), 10 - ms // 60_000) for ms in (120_000, 60_000, 0)]
    first = run(records)
    again = run(records, first.states)
    assert (again.ticks, again.replayed, again.duplicates) == ([], 3, 0)


def test_ticks_delivered_before_a_crash_are_remembered_and_not_sent_again() -> None:
    records = [record(encode(tick(NOW_MS - ms)), 10 - ms // 60_000) for ms in (120_000, 60_000, 0)]
    done = run(records, delivered=9)
    assert [headers[0][1] for _key, _value, headers in done.ticks] == [b"10"]
    assert done.states[b"BTC-USD"].timestamps == [NOW_MS - 120_000, NOW_MS - 60_000, NOW_MS]


@given(st.lists(st.integers(0, 2**41), max_size=300), st.integers(-1, 2**60))
def test_a_state_is_restored_from_its_bytes(timestamps: list[int], offset: int) -> None:
    seen = Seen(offset)
    fresh = [seen.add(timestamp) for timestamp in timestamps]
    if len(set(timestamps)) <= REMEMBERED:
        assert sum(fresh) == len(set(timestamps))
    assert seen.timestamps == sorted(seen.timestamps)
    assert len(seen.timestamps) <= REMEMBERED
    back = Seen.from_bytes(seen.to_bytes())
    assert (back.offset, back.timestamps) == (seen.offset, seen.timestamps)


def test_the_state_of_a_minutely_feed_is_small() -> None:
    seen = Seen(1_000_000)
    for minute in range(1_000):
        seen.add(NOW_MS + minute * 60_000)
    assert len(seen.to_bytes()) < 450


def test_an_error_after_the_checks_becomes_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Seen, "add", lambda *_args: 1 / 0)
    done = run([record(encode(tick()))])
    assert [letter.reason for letter in letters(done)] == ["unexpected"]
    assert done.reasons == ["unexpected"]


def test_a_huge_staleness_is_refused() -> None:
    value = encode(tick(sources={"binance": SourceState(status="ok", staleness_ms=10**4_000)}))
    assert [letter.field for letter in letters(run([record(value)]))] == ["sources[...].staleness_ms"]
