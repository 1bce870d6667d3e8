"""Spark's hourly rows and enrichment equal the formulas of marketdata."""

import random

import pytest
from msgspec import structs
from pyspark.sql import SparkSession

from batch.schemas import CANDLES, HOURLY, RAW, column_names
from batch.sql.hourly import hourly_rows, kline_rows
from batch.sql.parse import FUTURE, candle_rows, enriched_ticks, parse_records
from marketdata.candle_rules import check
from marketdata.enrichment import enrich
from marketdata.errors import DecodeError
from marketdata.hourly import hour_rows, kline_row
from marketdata.records import Candle, HourlyRow, Tick
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, from_rfc3339, to_datetime, to_rfc3339
from tests.support.broken_candles import BROKEN, CANDLE
from tests.support.spark import (
    TOPICS,
    as_row,
    assert_same,
    collected,
    kafka_rows,
    random_candle,
    random_hours,
    random_tick,
)

START_MS = from_rfc3339("2024-08-04T00:00:00Z")


def test_table_columns_match_the_record_fields() -> None:
    hourly = tuple(name for name in HourlyRow.__struct_fields__ if name != "schema_version")
    assert sorted(column_names(HOURLY)) == sorted(hourly)
    tick = {name for name in Tick.__struct_fields__ if name != "sources"}
    assert tick <= set(column_names(RAW))
    candle = {name for name in Candle.__struct_fields__ if name not in {"schema_version", "interval"}}
    assert set(column_names(CANDLES)) == candle


@pytest.mark.parametrize("seed", range(3))
def test_enrichment_equals_the_reference(spark: SparkSession, seed: int) -> None:
    rng = random.Random(seed)
    ticks = [random_tick(rng, "BTC-USD", START_MS + i * 61_001) for i in range(200)]
    streamed = {"n_updates": 7, "n_trades": 2, "traded_volume": 0.3, "vwap": 100.1, "divergence_bps": -1.5}
    ticks = [structs.replace(tick, **streamed) if i % 3 else tick for i, tick in enumerate(ticks)]
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
    ("seed", "ticks", "candles"), [(1, 0.9, 0.9), (2, 0.3, 0.95), (3, 0.9, 0.2), (4, 0.05, 0.05), (5, 0.0, 0.98)]
)
def test_hourly_rows_equal_the_reference(spark: SparkSession, seed: int, ticks: float, candles: float) -> None:
    rng = random.Random(seed)
    made_ticks, made_candles = random_hours(rng, ["BTC-USD", "ETH-EUR"], START_MS, 50, ticks=ticks, candles=candles)
    parsed = parse_records(kafka_rows(spark, [*made_ticks, *made_candles]), **TOPICS).cache()
    to_ms = START_MS + 50 * HOUR_MS
    rows = hourly_rows(spark, enriched_ticks(parsed), candle_rows(parsed), START_MS, to_ms)
    assert tuple(rows.columns) == column_names(HOURLY)
    assert_same(collected(rows), [as_row(row) for row in hour_rows(made_ticks, made_candles)])


def test_volatility_of_minutes_is_null_until_the_trailing_day_is_known(spark: SparkSession) -> None:
    rng = random.Random(11)
    candles = [random_candle(rng, "BTC-USD", START_MS + i * 60_000) for i in range(60 * 60) if i not in range(700, 760)]
    parsed = parse_records(kafka_rows(spark, candles), **TOPICS)
    empty = spark.createDataFrame([], RAW)
    found = collected(hourly_rows(spark, empty, candle_rows(parsed), START_MS, START_MS + 60 * HOUR_MS))
    assert_same(found, [as_row(row) for row in hour_rows([], candles)])
    known = [row["avg_volatility"] is not None for row in found]
    assert not any(known[:22])
    assert all(known[24:34])


def test_only_the_requested_hours_are_computed(spark: SparkSession) -> None:
    rng = random.Random(12)
    ticks, candles = random_hours(rng, ["BTC-USD"], START_MS, 30, ticks=0.9, candles=0.9)
    parsed = parse_records(kafka_rows(spark, [*ticks, *candles]), **TOPICS).cache()
    from_ms, to_ms = START_MS + DAY_MS, START_MS + DAY_MS + 3 * HOUR_MS
    found = collected(hourly_rows(spark, enriched_ticks(parsed), candle_rows(parsed), from_ms, to_ms))
    wanted = [row for row in hour_rows(ticks, candles) if from_ms <= from_rfc3339(row.hour_start) < to_ms]
    assert_same(found, [as_row(row) for row in wanted])


def test_kline_rows_equal_the_reference(spark: SparkSession) -> None:
    rng = random.Random(13)
    hours = [i for i in range(100) if i not in {40, 41, 77}]
    klines = [random_candle(rng, "XRP-USD", START_MS + i * HOUR_MS) for i in hours]
    rows = [
        tuple(
            to_datetime(k.open_time_ms) if name == "open_time" else getattr(k, name) for name in column_names(CANDLES)
        )
        for k in klines
    ]
    found = collected(kline_rows(spark, spark.createDataFrame(rows, CANDLES)))
    known = {k.open_time_ms: k for k in klines}
    assert_same(found, [as_row(kline_row(k, known)) for k in klines])
    assert [row["avg_volatility"] is not None for row in found[:25]] == [False] * 23 + [True] * 2


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
    rows = spark.createDataFrame(
        [("ticks-clean", 3, 17, bytearray(value))], "topic STRING, partition INT, offset BIGINT, value BINARY"
    )
    found = parse_records(rows, **TOPICS).collect()
    assert [(row.partition, row.offset, row.error) for row in found] == [(3, 17, error)]


def test_times_are_truncated_to_milliseconds_and_converted_to_utc(spark: SparkSession) -> None:
    value = b'{"schema_version":1,"tick_id":"a","symbol":"BTC-USD","timestamp":"2024-08-05T02:00:00.123987+02:00"}'
    rows = spark.createDataFrame(
        [("ticks-clean", 0, 0, bytearray(value))], "topic STRING, partition INT, offset BIGINT, value BINARY"
    )
    (row,) = parse_records(rows, **TOPICS).selectExpr("unix_micros(at) AS at").collect()
    assert row.at == from_rfc3339("2024-08-05T00:00:00.123Z") * 1000
    assert to_rfc3339(row.at // 1000) == "2024-08-05T00:00:00.123Z"


def test_spark_refuses_the_candles_that_the_rules_refuse(spark: SparkSession) -> None:
    candles = [CANDLE, *(structs.replace(CANDLE, **change) for change, _, _ in BROKEN if "interval" not in change)]
    latest_ms = CANDLE.open_time_ms + MINUTE_MS
    candles.append(structs.replace(CANDLE, open_time=to_rfc3339(latest_ms)))
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
