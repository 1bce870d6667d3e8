"""Spark's hourly rows equal the reference: every market's rows come from the kernel, whatever Spark's partitions."""

import random

import pytest
from pyspark.sql import DataFrame, SparkSession

from batch.schemas import CANDLES, HOURLY, RAW, column_names
from batch.sql.parse import candle_rows, enriched_ticks, parse_records
from batch.tables.hours import hourly_rows
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, from_rfc3339
from tests.support.hour_tables import as_row, assert_same, rows_of
from tests.support.hourly_reference import hour_row, hour_rows
from tests.support.spark import TOPICS, kafka_rows, random_candle, random_hours

START_MS = from_rfc3339("2024-08-04T00:00:00Z")


def test_rows_equal_the_reference_in_the_requested_hours(spark: SparkSession) -> None:
    rng = random.Random(1)
    symbols = ("BTC-USD", "ETH-EUR")
    ticks, _ = random_hours(rng, symbols, START_MS + DAY_MS - HOUR_MS, 5, ticks=0.6, candles=0.0)
    times = [START_MS + minute * MINUTE_MS for minute in range(28 * 60) if rng.random() < 0.95 or minute == 0]
    candles = [random_candle(rng, symbol, at) for symbol in symbols for at in times]
    parsed = parse_records(kafka_rows(spark, [*ticks, *candles]), **TOPICS).cache()
    from_ms, to_ms = START_MS + DAY_MS, START_MS + DAY_MS + 3 * HOUR_MS
    found = hourly_rows(enriched_ticks(parsed), candle_rows(parsed).repartition(3), from_ms, to_ms)
    assert tuple(found.columns) == column_names(HOURLY)
    hours = [(symbol, at) for symbol in symbols for at in range(from_ms, to_ms, HOUR_MS)]
    wanted = [row for symbol, at in hours if (row := hour_row(symbol, at, ticks, candles)) is not None]
    assert_same(rows_of(found.toArrow()), [as_row(row) for row in wanted])
    assert {row.basis for row in wanted} == {"ticks", "candles_1m"}
    assert any(row.avg_volatility is not None for row in wanted if row.basis == "candles_1m")


@pytest.mark.parametrize("empty", [RAW, CANDLES], ids=["no ticks", "no candles"])
def test_one_input_may_be_empty(spark: SparkSession, empty: str) -> None:
    ticks, candles = random_hours(random.Random(2), ["BTC-USD"], START_MS, 3, ticks=0.9, candles=0.9)
    parsed = parse_records(kafka_rows(spark, [*ticks, *candles]), **TOPICS).cache()
    nothing: DataFrame = spark.createDataFrame([], empty)
    found = hourly_rows(
        nothing if empty == RAW else enriched_ticks(parsed),
        nothing if empty == CANDLES else candle_rows(parsed),
        START_MS,
        START_MS + 3 * HOUR_MS,
    )
    expected = hour_rows([] if empty == RAW else ticks, [] if empty == CANDLES else candles)
    assert_same(rows_of(found.toArrow()), [as_row(row) for row in expected])
