"""Distributes the kernel of the hourly rows (`marketdata.hourly`) by market."""

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as sql

from batch.schemas import HOURLY
from marketdata.hourly import CANDLES, TICKS, hour_rows
from marketdata.times import DAY_MS


def hourly_rows(ticks: DataFrame, candles: DataFrame, from_ms: int, to_ms: int) -> DataFrame:
    """Return the rows of all markets and hours in [from_ms, to_ms) that have a priced tick or a one-minute candle.

    One Python task holds the ticks and candles of one market at a time.

    Args:
        ticks: rows of raw_data, whole hours.
        candles: rows of minute_candles: whole hours, and the 24 h before them, without which `avg_volatility` of
            minutes without a mid is null.
        from_ms: Unix time in ms, a whole hour.
        to_ms: like `from_ms`, exclusive.
    """

    def market_rows(own_ticks: pa.Table, own_candles: pa.Table) -> pa.Table:
        return hour_rows(own_ticks, own_candles, from_ms, to_ms)

    return (
        _between(ticks.select(*TICKS.names), "timestamp", from_ms, to_ms)
        .groupBy("symbol")
        .cogroup(_between(candles.select(*CANDLES.names), "open_time", from_ms - DAY_MS, to_ms).groupBy("symbol"))
        .applyInArrow(market_rows, HOURLY)
    )


def _between(rows: DataFrame, column: str, from_ms: int, to_ms: int) -> DataFrame:
    """Return the rows whose time is in [from_ms, to_ms)."""
    return rows.where(sql.expr(f"{column} >= timestamp_millis({from_ms}) AND {column} < timestamp_millis({to_ms})"))
