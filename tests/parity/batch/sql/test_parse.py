"""Spark refuses the ticks and candles that the rules of marketdata refuse, and enriches ticks by its formulas."""

import random
from collections.abc import Sequence

import pytest
from msgspec.json import encode as to_json
from msgspec.structs import replace
from pyspark.sql import SparkSession

from batch.spark.dead_letters import refusal_of
from batch.sql.parse import CANDLE as CANDLE_KIND
from batch.sql.parse import FUTURE, enriched_ticks, parse_records
from batch.sql.parse import TICK as TICK_KIND
from marketdata import candle_rules, tick_rules
from marketdata.bounds import MAX_RECORD_BYTES
from marketdata.candle_rules import check
from marketdata.codec import decode, encode
from marketdata.enrichment import enrich
from marketdata.errors import DecodeError
from marketdata.records import Candle, SourceState, Tick
from marketdata.rules import Rule, compared
from marketdata.times import MINUTE_MS, from_rfc3339, to_rfc3339
from tests.support.broken_candles import BROKEN, CANDLE
from tests.support.odd_records import TIMESTAMP, odd_candle, odd_tick
from tests.support.spark import KAFKA_ROWS, TOPICS, kafka_rows, random_candle, random_tick

LONG = 500_000
START_MS = from_rfc3339("2024-08-04T00:00:00Z")
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
GOOD, KEY = encode(TICK), b"BTC-USD"


def first_broken(record: Tick | Candle, rules: Sequence[Rule]) -> Rule | None:
    return next((rule for rule in rules if not rule.holds(record)), None)


def refusals(spark: SparkSession, values: Sequence[bytes]) -> list[str | None]:
    """Return the error text of Spark for each value of ticks-clean."""
    rows = [("ticks-clean", 0, offset, bytearray(KEY), bytearray(value)) for offset, value in enumerate(values)]
    records = spark.createDataFrame(rows, KAFKA_ROWS)
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
        error = refusal_of(TICK_KIND, KEY, value, str(text), from_rfc3339(TIMESTAMP))
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
        error = refusal_of(TICK_KIND, KEY, value, str(text), from_rfc3339(TIMESTAMP))
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
    error = refusal_of(TICK_KIND, KEY, value, text, from_rfc3339(TIMESTAMP))
    assert (error.reason, error.field) == ("absurd", "n_trades")


def test_a_bound_keeps_all_digits_in_sql(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tick_rules, "RULES", (compared("price", "absurd", "<=", 1.000000000001),))
    prices = (1.000000000001, 1.000000000002)
    first, second = refusals(spark, [encode(replace(TICK, price=price)) for price in prices])
    assert first is None
    assert second is not None


@pytest.mark.parametrize("seed", range(3))
def test_enrichment_equals_the_reference(spark: SparkSession, seed: int) -> None:
    rng = random.Random(seed)
    ticks = [random_tick(rng, "BTC-USD", START_MS + i * 61_001) for i in range(200)]
    streamed = {"n_updates": 7, "n_trades": 2, "traded_volume": 0.3, "vwap": 100.1, "divergence_bps": -1.5}
    ticks = [replace(tick, **streamed) if i % 3 else tick for i, tick in enumerate(ticks)]
    parsed = parse_records(kafka_rows(spark, ticks), **TOPICS)
    assert parsed.where("error IS NOT NULL").count() == 0
    found = {
        row.tick_id: row for row in enriched_ticks(parsed).selectExpr("*", "unix_millis(timestamp) AS at").collect()
    }
    assert len(found) == len(ticks)
    for tick in ticks:
        row, enriched = found[tick.tick_id], enrich(tick)
        assert row.at == tick.timestamp_ms
        for name in ("mid_price", "spread", "spread_percentage", "total_liquidity", "price_volatility"):
            assert row[name] == getattr(enriched, name), name
        for name in ("symbol", "quote", "price", "bid_price", "ask_qty", "market_cap", "volume_24h", "high_24h"):
            assert row[name] == getattr(tick, name), name
        assert all(row[name] == getattr(tick, name) for name in streamed)
        assert tuple(row.flags) == tick.flags
        state = tick.sources.get("binance")
        assert row.binance_status == (state.status if state else None)
        assert row.binance_staleness_ms == (state.staleness_ms if state else None)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"{", "not JSON of the expected schema"),
        (
            b'{"schema_version":1,"tick_id":"a","symbol":"BTC-USD","timestamp":"2024-08-05T00:00:00Z","price":"x"}',
            "not JSON of the expected schema",
        ),
        (
            b'{"schema_version":2,"tick_id":"a","symbol":"BTC-USD","timestamp":"2024-08-05T00:00:00Z"}',
            "schema_version is not 1",
        ),
        (
            b'{"schema_version":1,"tick_id":"a","symbol":"BTC-USD","timestamp":"noon"}',
            "event time is missing or invalid",
        ),
        (
            b'{"schema_version":1,"symbol":"BTC-USD","timestamp":"2024-08-05T00:00:00Z"}',
            "quote is not the symbol's currency",
        ),
        (b'{"schema_version":1,"tick_id":"a","timestamp":"2024-08-05T00:00:00Z"}', "symbol is missing"),
    ],
)
def test_an_unreadable_record_gets_its_error_text(spark: SparkSession, value: bytes, error: str) -> None:
    rows = spark.createDataFrame([("ticks-clean", 3, 17, bytearray(KEY), bytearray(value))], KAFKA_ROWS)
    found = parse_records(rows, **TOPICS).collect()
    assert [(row.partition, row.offset, row.error) for row in found] == [(3, 17, error)]


def test_times_are_truncated_to_milliseconds_and_converted_to_utc(spark: SparkSession) -> None:
    value = b'{"schema_version":1,"tick_id":"a","symbol":"BTC-USD","timestamp":"2024-08-05T02:00:00.123987+02:00"}'
    rows = spark.createDataFrame([("ticks-clean", 0, 0, bytearray(KEY), bytearray(value))], KAFKA_ROWS)
    (row,) = parse_records(rows, **TOPICS).selectExpr("unix_micros(at) AS at").collect()
    assert row.at == from_rfc3339("2024-08-05T00:00:00.123Z") * 1000
    assert to_rfc3339(row.at // 1000) == "2024-08-05T00:00:00.123Z"


def test_spark_refuses_the_candles_that_the_rules_refuse(spark: SparkSession) -> None:
    candles = [CANDLE, *(replace(CANDLE, **change) for change, _, _ in BROKEN if "interval" not in change)]
    latest_ms = CANDLE.open_time_ms + MINUTE_MS
    candles.append(replace(CANDLE, open_time=to_rfc3339(latest_ms)))
    found = parse_records(kafka_rows(spark, candles), **TOPICS, latest_ms=latest_ms).orderBy("offset").collect()
    refused = []
    for candle in candles:
        try:
            check(candle, latest_ms)
        except DecodeError:
            refused.append(True)
        else:
            refused.append(False)
    assert [row.error is not None for row in found] == refused == [False] + [True] * (len(candles) - 1)
    assert found[-1].error == FUTURE


@pytest.mark.parametrize("kind", ["ticks-clean", "candles"])
def test_a_key_that_is_not_the_symbol_is_refused(spark: SparkSession, kind: str) -> None:
    candle = random_candle(random.Random(2), "BTC-USD", from_rfc3339(TIMESTAMP))
    value, record_kind = (GOOD, TICK_KIND) if kind == "ticks-clean" else (encode(candle), CANDLE_KIND)
    keys = [KEY, None, b"", b"btc-usd", b"ETH-USD", b"BTC-USD\x00", b"\xff"]
    rows = [(kind, 0, n, None if key is None else bytearray(key), bytearray(value)) for n, key in enumerate(keys)]
    found = parse_records(spark.createDataFrame(rows, KAFKA_ROWS), **TOPICS).orderBy("offset").collect()
    assert [row.error for row in found] == [None, *["key is not the symbol"] * 6]
    for key, row in zip(keys[1:], found[1:], strict=True):
        error = refusal_of(record_kind, key, value, row.error, from_rfc3339(TIMESTAMP) + 60_000)
        assert (error.reason, error.field) == ("key", "key")
        assert error.expected == "the symbol 'BTC-USD' as UTF-8"
