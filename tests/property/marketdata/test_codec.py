"""The codec: round trips preserve records, and errors name field and value."""

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.codec import decode, encode, encode_finite
from marketdata.enrichment import enrich, mid_price, spread_bps
from marketdata.errors import DecodeError, InvalidValueError, shorten
from marketdata.records import RECORDS, Candle, Record, Score, SourceState, Tick
from marketdata.times import from_rfc3339, to_rfc3339

times = st.integers(0, 4_102_444_800_000).map(to_rfc3339)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
states = st.builds(
    SourceState,
    status=st.sampled_from(["ok", "disabled", "timeout"]),
    observed_at=st.none() | times,
    received_at=st.none() | times,
    staleness_ms=st.none() | st.integers(-1000, 10**9),
)
NUMBERS = [
    "price",
    "price_usd",
    "volume_24h",
    "market_cap",
    "price_change_24h",
    "price_change_percentage_24h",
    "high_24h",
    "low_24h",
    "bid_price",
    "bid_qty",
    "ask_price",
    "ask_qty",
]
ticks = st.builds(
    Tick,
    symbol=st.text(max_size=12),
    tick_id=st.text(max_size=40),
    timestamp=times,
    trade_timestamp=st.none() | times,
    quote=st.sampled_from(["USD", "EUR"]),
    sources=st.dictionaries(st.sampled_from(["binance", "coingecko"]), states),
    flags=st.lists(st.text(max_size=10)).map(tuple),
    **dict.fromkeys(NUMBERS, numbers),
)


def as_json(tick: Tick) -> dict[str, Any]:
    return json.loads(encode(tick))


@given(ticks)
def test_a_round_trip_preserves_the_record(tick: Tick) -> None:
    assert decode(Tick, encode(tick)) == tick


@given(ticks)
def test_the_wire_has_every_field_and_null_for_unknown_values(tick: Tick) -> None:
    wire = as_json(tick)
    assert set(wire) == set(Tick.__struct_fields__)
    assert all((wire[name] is None) == (getattr(tick, name) is None) for name in NUMBERS)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_a_decode_error(payload: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(Tick, payload)
    assert caught.value.reason in {"empty", "json", "type", "missing_field", "unknown_field"}


@given(ticks, st.sampled_from(NUMBERS), st.text(max_size=5) | st.lists(st.none()) | st.booleans())
def test_a_number_of_another_type_is_reported_with_its_value(tick: Tick, field: str, value: object) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(Tick, json.dumps(as_json(tick) | {field: value}).encode())
    assert (caught.value.reason, caught.value.field, caught.value.value) == ("type", field, repr(value))
    assert "float" in caught.value.expected


@given(ticks, st.sampled_from(["symbol", "tick_id", "timestamp", "quote"]))
def test_a_missing_field_is_reported(tick: Tick, field: str) -> None:
    wire = as_json(tick)
    del wire[field]
    with pytest.raises(DecodeError) as caught:
        decode(Tick, json.dumps(wire).encode())
    assert (caught.value.reason, caught.value.field) == ("missing_field", field)


@given(ticks, st.sampled_from(["2024-08-05", "yesterday", "2024-08-05T00:00:00", "2024-02-30T00:00:00Z"]))
def test_an_invalid_time_is_reported(tick: Tick, text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(Tick, json.dumps(as_json(tick) | {"timestamp": text}).encode())
    assert (caught.value.reason, caught.value.field, caught.value.value) == ("value", "timestamp", repr(text))


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"schema_version": 2}, "schema_version", "schema_version"),
        ({"price_eur": 1.0}, "unknown_field", "price_eur"),
        ({"sources": {"binance": {"status": "ok", "observed_at": "noon"}}}, "value", "sources.binance.observed_at"),
    ],
)
def test_other_refusals(change: dict[str, Any], reason: str, field: str) -> None:
    tick = Tick(symbol="BTC-USD", tick_id="x", timestamp="2024-08-05T00:00:00.000Z", quote="USD")
    with pytest.raises(DecodeError) as caught:
        decode(Tick, json.dumps(as_json(tick) | change).encode())
    assert (caught.value.reason, caught.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("cls", "payload", "message"),
    [
        (Candle, b'{"interval": "2m"}', "interval: '2m': expected one of 1m, 1h"),
        (Score, b'{"role": "king"}', "role: 'king': expected one of champion, challenger, baseline"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_known_ones(cls: type[Record], payload: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=re.escape(message)):
        decode(cls, payload)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_not_encoded(value: float) -> None:
    tick = Tick(symbol="BTC-USD", tick_id="x", timestamp="2024-08-05T00:00:00.000Z", quote="USD", price=value)
    with pytest.raises(InvalidValueError, match="price"):
        encode(tick)


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_times_survive_the_wire(ms: int) -> None:
    assert from_rfc3339(to_rfc3339(ms)) == ms


def test_every_record_is_registered_under_its_name() -> None:
    assert all(cls.__name__ == name for name, cls in RECORDS.items())
    assert {"Tick", "Candle", "FeatureRow", "HourlyRow", "DeadLetter", "Prediction", "Score", "PartStatus"} == set(
        RECORDS
    )


@given(ticks)
def test_derived_columns_are_none_without_their_inputs(tick: Tick) -> None:
    derived = enrich(tick)
    valid = tick.bid_price is not None and tick.ask_price is not None and 0 < tick.bid_price <= tick.ask_price
    assert (derived.mid_price is not None) == valid
    assert derived.spread is None or derived.spread >= 0
    assert (derived.total_liquidity is None) == (not valid or tick.bid_qty is None or tick.ask_qty is None)


def test_enrichment_formulas() -> None:
    tick = Tick(
        symbol="BTC-USD",
        tick_id="x",
        timestamp="2024-08-05T23:59:59.999Z",
        quote="USD",
        bid_price=99.0,
        ask_price=101.0,
        bid_qty=2.0,
        ask_qty=3.0,
        high_24h=110.0,
        low_24h=90.0,
    )
    derived = enrich(tick)
    assert (derived.date, derived.hour) == ("2024-08-05", 23)
    assert (derived.mid_price, derived.spread, derived.spread_percentage) == (100.0, 2.0, 2.0)
    assert (derived.total_liquidity, derived.price_volatility) == (5.0, 20.0)
    assert spread_bps(99.0, 101.0) == 200.0


@pytest.mark.parametrize(("bid", "ask"), [(None, 1.0), (1.0, None), (0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_an_invalid_quote_has_no_mid(bid: float | None, ask: float | None) -> None:
    assert mid_price(bid, ask) is None
    assert spread_bps(bid, ask) is None


def test_a_long_name_of_an_unknown_field_with_path_markers_is_refused() -> None:
    tick = Tick(symbol="BTC-USD", tick_id="x", timestamp="2024-08-05T00:00:00.000Z", quote="USD")
    payload = as_json(tick) | {" - at `$" * 60_000 + "\n": 1}
    with pytest.raises(DecodeError) as caught:
        decode(Tick, json.dumps(payload).encode())
    assert caught.value.reason == "unknown_field"


@pytest.mark.parametrize("field", [*NUMBERS, "traded_volume", "vwap", "divergence_bps"])
@pytest.mark.parametrize("number", ["1e400", "-1e999", "9" * 400, "9" * 5_000])
def test_a_number_out_of_the_range_of_floats_is_refused(field: str, number: str) -> None:
    tick = Tick(symbol="BTC-USD", tick_id="x", timestamp="2024-08-05T00:00:00.000Z", quote="USD")
    payload = encode(tick).replace(f'"{field}":null'.encode(), f'"{field}":{number}'.encode())
    with pytest.raises(DecodeError) as caught:
        decode(Tick, payload)
    assert (caught.value.reason, caught.value.field, caught.value.expected) == ("type", field, "a finite number")
    assert caught.value.value == shorten(number)


@pytest.mark.parametrize("cls", RECORDS.values())
@given(payload=st.binary(max_size=50))
def test_bytes_that_are_not_utf8_raise_a_decode_error_in_any_field(cls: type[Record], payload: bytes) -> None:
    for value in (b'{"symbol":1,"a":"' + payload + b'"}', b'{"schema_version":"' + payload, b'{"' + payload + b'":1}'):
        with pytest.raises(DecodeError):
            decode(cls, value)


def test_an_unexpected_error_is_a_decode_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketdata.codec._check_times", lambda _record: 1 / 0)
    tick = Tick(symbol="BTC-USD", tick_id="x", timestamp="2024-08-05T00:00:00.000Z", quote="USD")
    with pytest.raises(DecodeError) as caught:
        decode(Tick, encode_finite(tick))
    assert caught.value.reason == "unexpected"


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "1969-12-31T23:59:59.999Z", "9999-12-31T23:59:59-23:59"])
def test_a_time_outside_the_calendar_of_records_is_refused(text: str) -> None:
    tick = Tick(symbol="BTC-USD", tick_id="x", timestamp=text, quote="USD")
    with pytest.raises(DecodeError) as caught:
        decode(Tick, encode_finite(tick))
    assert (caught.value.reason, caught.value.field, caught.value.value) == ("value", "timestamp", repr(text))
