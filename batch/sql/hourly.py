"""Hourly rows as Spark SQL: the formulas of `marketdata.hourly`; a parity test compares the two.

DataFrame in, DataFrame out. All windows are partitioned by market, so at most one shuffle by market is needed.
"""

from pyspark.sql import DataFrame, SparkSession

from batch.schemas import HOURLY, column_names
from marketdata.hourly import KNOWN_SHARE
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS
from marketdata.vocabulary import Basis, Origin

# High and low of the 24 h before each candle without a window of 1,440 rows. Per calendar day there is a running high
# from its start (`day_high`) and one from each minute to its end (`rest_high`). A trailing day is the rest of yesterday
# plus today so far. Algorithm: van Herk 1992, Gil and Werman 1993.
_TRAILING = """
WITH numbered AS (
  SELECT symbol, open_time, close,
    max(high) OVER so_far AS day_high, min(low) OVER so_far AS day_low,
    max(high) OVER to_end AS rest_high, min(low) OVER to_end AS rest_low,
    row_number() OVER (PARTITION BY symbol ORDER BY open_time) AS n
  FROM {candles}
  WINDOW so_far AS (PARTITION BY symbol, date_trunc('DAY', open_time) ORDER BY open_time
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
    to_end AS (PARTITION BY symbol, date_trunc('DAY', open_time) ORDER BY open_time DESC
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
SELECT c.symbol, c.open_time,
  (greatest(c.day_high, f.rest_high) - least(c.day_low, f.rest_low)) / c.close * 100 AS volatility
FROM numbered c JOIN numbered f
  ON f.symbol = c.symbol AND f.open_time = c.open_time - INTERVAL '1439' MINUTE
WHERE c.n - f.n + 1 >= {known}
"""

_HOURS = f"""
WITH observed AS (
  SELECT symbol, timestamp AS at, date_trunc('HOUR', timestamp) AS hour_start,
    date_trunc('MINUTE', timestamp) AS minute, 1 AS is_tick, coalesce(mid_price, price) AS price,
    coalesce(mid_price, price) AS opening, coalesce(mid_price, price) AS high, coalesce(mid_price, price) AS low,
    spread, spread_percentage, total_liquidity, price_volatility AS volatility, volume_24h, market_cap,
    cast(NULL AS DOUBLE) AS volume
  FROM {{ticks}}
  WHERE coalesce(mid_price, price) IS NOT NULL
    AND timestamp >= timestamp_millis({{start}}) AND timestamp < timestamp_millis({{end}})
  UNION ALL
  SELECT c.symbol, c.open_time + INTERVAL '59.999' SECOND, date_trunc('HOUR', c.open_time), c.open_time, 0, c.close,
    c.open, c.high, c.low, NULL, NULL, NULL, c.volatility, NULL, NULL, c.volume
  FROM {{candles}} c
  WHERE c.open_time >= timestamp_millis({{start}}) AND c.open_time < timestamp_millis({{end}})
), marked AS (
  SELECT *, is_tick = 1 OR max(is_tick) OVER (PARTITION BY symbol, minute) = 0 AS used FROM observed
), filled AS (
  SELECT symbol, hour_start, at, is_tick, used, opening, volume, volume_24h, market_cap,
    spread, spread_percentage, total_liquidity,
    IF(used, price, NULL) AS price, IF(used, high, NULL) AS high, IF(used, low, NULL) AS low,
    IF(used, volatility, NULL) AS volatility, IF(used, minute, NULL) AS minute, IF(used, at, NULL) AS used_at
  FROM marked
), ordered AS (
  SELECT *,
    coalesce(last_value(price) IGNORE NULLS OVER before, opening) AS previous,
    last_value(minute) IGNORE NULLS OVER before AS previous_minute
  FROM filled
  WINDOW before AS (PARTITION BY symbol, hour_start ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), aggregated AS (
  SELECT symbol, hour_start,
    avg(price) AS avg_price, avg(spread) AS avg_spread, avg(spread_percentage) AS avg_spread_percentage,
    avg(total_liquidity) AS total_liquidity,
    avg(IF(is_tick = 1, volatility, NULL)) AS tick_volatility, avg(IF(is_tick = 0, volatility, NULL)) AS trailing,
    max(high) AS high_price, min(low) AS low_price, avg(volume) AS avg_volume, avg(volume_24h) AS avg_volume_24h,
    max_by(market_cap, IF(market_cap IS NULL, NULL, at)) AS last_market_cap,
    min_by(opening, used_at) AS open_price, max_by(price, used_at) AS last_price,
    sum(pow(ln(price / previous), 2)) AS realised_variance,
    cast(sum(is_tick) AS BIGINT) AS n_ticks, count_if(used AND is_tick = 0) AS n_candles,
    count_if(used AND NOT minute <=> previous_minute) / 60D AS coverage
  FROM ordered GROUP BY symbol, hour_start
)
SELECT *, IF(n_ticks > 0, tick_volatility, trailing) AS avg_volatility,
  IF(n_ticks > 0, '{Origin.LIVE}', '{Origin.BACKFILL}') AS origin,
  IF(n_ticks > 0, '{Basis.TICKS}', '{Basis.CANDLES_1M}') AS basis
FROM aggregated WHERE n_ticks + n_candles > 0
"""  # noqa: S608  inserts enum members only

_KLINES = f"""
WITH known AS (
  SELECT *, max(high) OVER day AS high_24h, min(low) OVER day AS low_24h, count(*) OVER day AS n,
    min(open_time) OVER day AS first_time
  FROM {{klines}}
  WINDOW day AS (PARTITION BY symbol ORDER BY open_time RANGE BETWEEN INTERVAL '23' HOUR PRECEDING AND CURRENT ROW)
)
SELECT symbol, open_time AS hour_start, (open + high + low + close) / 4 AS avg_price,
  cast(NULL AS DOUBLE) AS avg_spread, cast(NULL AS DOUBLE) AS avg_spread_percentage,
  cast(NULL AS DOUBLE) AS total_liquidity,
  IF(first_time = open_time - INTERVAL '23' HOUR AND n >= {{known}},
    (high_24h - low_24h) / close * 100, NULL) AS avg_volatility,
  high AS high_price, low AS low_price, volume / 60 AS avg_volume, cast(NULL AS DOUBLE) AS avg_volume_24h,
  cast(NULL AS DOUBLE) AS last_market_cap, open AS open_price, close AS last_price,
  cast(NULL AS DOUBLE) AS realised_variance, 0L AS n_ticks, 0L AS n_candles, 1D AS coverage,
  '{Origin.BACKFILL}' AS origin, '{Basis.CANDLES_1H}' AS basis
FROM known WHERE wanted
"""  # noqa: S608  inserts enum members only


def trailing_volatility(spark: SparkSession, candles: DataFrame) -> DataFrame:
    """Return (24 h high - 24 h low) / close x 100 of each one-minute candle whose trailing day is known.

    Columns: symbol, open_time, volatility (%).
    """
    return spark.sql(_TRAILING, candles=candles, known=KNOWN_SHARE * DAY_MS / MINUTE_MS)


def hourly_rows(
    spark: SparkSession, ticks: DataFrame, candles: DataFrame, from_ms: int, to_ms: int, *, trailing: bool = True
) -> DataFrame:
    """Return the rows of all markets and hours in [from_ms, to_ms) that have a tick or a one-minute candle.

    Args:
        spark: the session.
        ticks: rows of raw_data, whole hours.
        candles: rows of minute_candles: whole hours and, with `trailing`, the 24 h before them.
        from_ms: Unix time in ms, a whole hour.
        to_ms: like `from_ms`, exclusive.
        trailing: False leaves `avg_volatility` of hours without ticks null and saves a pass over the candles.
    """
    if trailing:
        known = trailing_volatility(spark, candles)
        marked = spark.sql(
            "SELECT c.*, v.volatility FROM {candles} c LEFT JOIN {known} v "
            "ON v.symbol = c.symbol AND v.open_time = c.open_time",
            candles=candles,
            known=known,
        )
    else:
        marked = candles.selectExpr("*", "cast(NULL AS DOUBLE) AS volatility")
    rows = spark.sql(_HOURS, ticks=ticks, candles=marked, start=from_ms, end=to_ms)
    return rows.selectExpr(*column_names(HOURLY))


def kline_rows(spark: SparkSession, klines: DataFrame) -> DataFrame:
    """Return the rows of hours for which only the one-hour candle is known.

    Args:
        spark: the session.
        klines: one-hour candles with the columns of minute_candles, including the 23 h before the first requested row.
            An optional boolean column `wanted` selects the rows to return; without it all are returned.
    """
    if "wanted" not in klines.columns:
        klines = klines.selectExpr("*", "true AS wanted")
    return spark.sql(_KLINES, klines=klines, known=KNOWN_SHARE * DAY_MS / HOUR_MS)
