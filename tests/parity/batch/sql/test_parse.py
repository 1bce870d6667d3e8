"""Spark refuses the ticks and candles that the rules of marketdata refuse, and names the same rule."""

import random
from collections.abc import Sequence

import pytest
from msgspec.json import encode as to_json
from msgspec.structs import replace
from pyspark.sql import SparkSession

from batch.spark.dead_letters import refusal_of
from batch.sql.parse import TICK as TICK_KIND
from batch.sql.parse import parse_records
from marketdata import candle_rules, tick_rules
from marketdata.bounds import MAX_RECORD_BYTES
from marketdata.codec import decode, encode
from marketdata.records import Candle, SourceState, Tick
from marketdata.rules import Rule, compared
from marketdata.times import from_rfc3339
from tests.support.odd_records import TIMESTAMP, odd_candle, odd_tick
from tests.support.spark import TOPICS, kafka_rows

LONG = 500_000
TICK = Tick(
    symbol="BTC-USD",
    tick_id=Tick.make_id("BTC-USD", TIMESTAMP),
    timestamp=TIMESTAMP,
    quote="USD",
    price=1.0,
    price_usd=1.0,
    price_change_24h=-2.0,
    price_change_percentage_24h=-3.0,
    divergence_bps=-4.0,
)
GOOD = encode(TICK)


def first_broken(record: Tick | Candle, rules: Sequence[Rule]) -> Rule | None:
    return next((rule for rule in rules if not rule.holds(record)), None)


def refusals(spark: SparkSession, values: Sequence[bytes]) -> list[str | None]:
    """Return the error text of Spark for each value of ticks-clean."""
    rows = [("ticks-clean", 0, offset, bytearray(value)) for offset, value in enumerate(values)]
    records = spark.createDataFrame(rows, "topic STRING, partition INT, offset BIGINT, value BINARY")
    return [row.error for row in parse_records(records, **TOPICS).orderBy("offset").select("error").collect()]


def test_spark_names_the_first_violated_rule(spark: SparkSession) -> None:
    rng = random.Random(1)
    records = [odd_tick(rng.choice) for _ in range(4_000)] + [odd_candle(rng.choice) for _ in range(1_000)]
    broken = [
        first_broken(record, candle_rules.RULES if isinstance(record, Candle) else tick_rules.RULES)
        for record in records
    ]
    found = parse_records(kafka_rows(spark, records), **TOPICS).orderBy("offset").select("error").collect()
    for record, rule, row in zip(records, broken, found, strict=True):
        assert row.error == (None if rule is None else f"{rule.field} is not {rule.expected}"), record
    assert {*tick_rules.RULES, *candle_rules.RULES} <= set(broken)
    assert broken.count(None) > len(records) / 10


def test_texts_of_half_a_megabyte_are_matched_in_linear_time(spark: SparkSession) -> None:
    long = [
        (replace(TICK, tick_id="|" * LONG), "tick_id"),
        (replace(TICK, quote="-" * LONG), "quote"),
        (replace(TICK, symbol="A" * LONG), "symbol"),
        (replace(TICK, symbol="A-" * (LONG // 2)), "symbol"),
    ]
    found = refusals(spark, [encode(tick) for tick, _field in long])
    assert [text and text.partition(" ")[0] for text in found] == [field for _tick, field in long]


@pytest.mark.parametrize("field", ["price_change_24h", "price_change_percentage_24h", "divergence_bps"])
def test_a_number_without_a_bound_must_be_finite(spark: SparkSession, field: str) -> None:
    number = f'"{field}":{getattr(TICK, field)}'.encode()
    assert GOOD.count(number) == 1
    values = [GOOD.replace(number, f'"{field}":{text}'.encode()) for text in ("1.7e308", "null", "1e400", "-1e999")]
    found = refusals(spark, values)
    assert found == [None, None, *[f"{field} is not finite"] * 2]
    for value, text in zip(values[2:], found[2:], strict=True):
        error = refusal_of(TICK_KIND, value, str(text), from_rfc3339(TIMESTAMP))
        assert (error.reason, error.field, error.expected) == ("type", field, "a finite number")


STATE = SourceState(status="ok", observed_at=TIMESTAMP, staleness_ms=10**15)
EDGE = "9999-12-31T23:00:00.000Z"
IMPLAUSIBLE = [
    (replace(TICK, trade_timestamp="0001-01-01T00:00:00+23:59"), "value", "trade_timestamp"),
    (replace(TICK, trade_timestamp="9999-12-31T23:00:00.001Z"), "value", "trade_timestamp"),
    (replace(TICK, flags=("a",) * 101), "absurd", "flags"),
    (replace(TICK, sources={str(n): STATE for n in range(101)}), "absurd", "sources"),
    (
        replace(TICK, sources={"binance": replace(STATE, staleness_ms=10**15 + 1)}),
        "absurd",
        "sources[...].staleness_ms",
    ),
    (
        replace(TICK, sources={"x": replace(STATE, observed_at="1969-12-31T23:59:59.999Z")}),
        "value",
        "sources.x.observed_at",
    ),
    (
        replace(TICK, sources={"x": replace(STATE, received_at="0001-01-01T00:00:00Z")}),
        "value",
        "sources.x.received_at",
    ),
]


def test_spark_refuses_the_implausible_ticks_that_the_codec_refuses(spark: SparkSession) -> None:
    plausible = [
        replace(TICK, trade_timestamp=EDGE, flags=("a",) * 100, sources={str(n): STATE for n in range(100)}),
        replace(TICK, trade_timestamp="1970-01-01T00:00:00Z", sources={"x": replace(STATE, staleness_ms=-(10**15))}),
    ]
    long = GOOD + b" " * (MAX_RECORD_BYTES - len(GOOD))
    values = [*(to_json(tick) for tick, _, _ in IMPLAUSIBLE), long + b" ", *map(to_json, plausible), long]
    found = refusals(spark, values)
    assert [text is None for text in found] == [False] * (len(IMPLAUSIBLE) + 1) + [True] * 3
    expected = [*((reason, field) for _, reason, field in IMPLAUSIBLE), ("absurd", "payload")]
    for value, text, named in zip(values, found, expected, strict=False):
        error = refusal_of(TICK_KIND, value, str(text), from_rfc3339(TIMESTAMP))
        assert (error.reason, error.field) == named
    for value in values[len(expected) :]:
        tick_rules.check(decode(Tick, value))


def test_a_null_text_violates_its_rule(spark: SparkSession) -> None:
    values = [
        GOOD.replace(b'"quote":"USD"', b'"quote":null'),
        GOOD.replace(TICK.tick_id.encode(), b"").replace(b'""', b"null"),
    ]
    assert GOOD not in values
    assert refusals(spark, values) == ["quote is not the symbol's currency", "tick_id is not symbol|timestamp"]


def test_a_count_above_the_column_range_is_refused_by_its_rule(spark: SparkSession) -> None:
    value = encode(replace(TICK, n_trades=10**20))
    (text,) = refusals(spark, [value])
    assert text is not None
    error = refusal_of(TICK_KIND, value, text, from_rfc3339(TIMESTAMP))
    assert (error.reason, error.field) == ("absurd", "n_trades")


def test_a_bound_keeps_all_digits_in_sql(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tick_rules, "RULES", (compared("price", "absurd", "<=", 1.000000000001),))
    prices = (1.000000000001, 1.000000000002)
    first, second = refusals(spark, [encode(replace(TICK, price=price)) for price in prices])
    assert first is None
    assert second is not None
