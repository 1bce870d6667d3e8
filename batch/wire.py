"""Kafka records to rows: strict parsing by explicit schemas, and `marketdata.enrichment` in Spark's words.

What is wrong with a record that cannot be read is told with its place; `batch.raw` decides what becomes of it.
"""

from pyspark.sql import DataFrame

from batch.schemas import CANDLE_WIRE, RAW, SOURCES, TICK_WIRE, column_names

_CORRUPT = "_corrupt"
TICK, CANDLE, UNKNOWN = "tick", "candle", "unknown"


def _time(column: str) -> str:
    """A wire time; below a millisecond it is cut off, as `marketdata.times` does."""
    return f"date_trunc('MILLISECOND', try_cast({column} AS TIMESTAMP))"


def _from_json(schema: str) -> str:
    ddl = " ".join(f"{schema}, {_CORRUPT} STRING".split())
    return f"from_json(text, '{ddl}', map('mode', 'PERMISSIVE', 'columnNameOfCorruptRecord', '{_CORRUPT}'))"


def parse(records: DataFrame, *, ticks_topic: str, candles_topic: str) -> DataFrame:
    """Kafka rows (topic, partition, offset, value) as parsed records.

    Columns: topic, partition, offset, kind (`tick` or `candle`), tick (struct), candle (struct), at (event time), why
    (what is wrong with it, null where nothing is).
    """
    kind = f"CASE topic WHEN '{ticks_topic}' THEN '{TICK}' WHEN '{candles_topic}' THEN '{CANDLE}' ELSE '{UNKNOWN}' END"
    return (
        records.selectExpr("topic", "partition", "offset", "cast(value AS STRING) AS text", f"{kind} AS kind")
        .selectExpr(
            "topic",
            "partition",
            "offset",
            "text",
            "kind",
            f"CASE WHEN kind = '{TICK}' THEN {_from_json(TICK_WIRE)} END AS tick",
            f"CASE WHEN kind = '{CANDLE}' THEN {_from_json(CANDLE_WIRE)} END AS candle",
        )
        .selectExpr(
            "topic",
            "partition",
            "offset",
            "text",
            "kind",
            "tick",
            "candle",
            f"coalesce({_time('tick.timestamp')}, {_time('candle.open_time')}) AS at",
        )
        .selectExpr(
            "topic",
            "partition",
            "offset",
            "kind",
            "tick",
            "candle",
            "at",
            f"""CASE
                WHEN tick.{_CORRUPT} IS NOT NULL OR candle.{_CORRUPT} IS NOT NULL THEN 'not JSON of the schema'
                WHEN coalesce(tick.schema_version, candle.schema_version, -1) <> 1 THEN 'schema_version is not 1'
                WHEN at IS NULL THEN 'no event time'
                WHEN coalesce(tick.symbol, candle.symbol) IS NULL THEN 'no symbol'
                WHEN kind = '{TICK}' AND tick.tick_id IS NULL THEN 'no tick_id'
                WHEN kind = '{CANDLE}' AND candle.interval <> '1m' THEN 'not a one-minute candle'
                WHEN kind = '{CANDLE}' AND (candle.open IS NULL OR candle.high IS NULL OR candle.low IS NULL
                    OR candle.close IS NULL OR candle.volume IS NULL) THEN 'a price or the volume is missing'
            END AS why""",
        )
    )


def _sources() -> dict[str, str]:
    columns = {}
    for source in SOURCES:
        state = f"tick.sources['{source}']"
        columns[f"{source}_status"] = f"{state}.status"
        columns[f"{source}_observed_at"] = _time(f"{state}.observed_at")
        columns[f"{source}_received_at"] = _time(f"{state}.received_at")
        columns[f"{source}_staleness_ms"] = f"{state}.staleness_ms"
    return columns


_MID = (
    "CASE WHEN tick.bid_price > 0 AND tick.bid_price <= tick.ask_price THEN (tick.bid_price + tick.ask_price) / 2 END"
)
_SPREAD = "CASE WHEN mid_price IS NOT NULL THEN tick.ask_price - tick.bid_price END"
_TICK_COLUMNS = {
    "timestamp": "at",
    "trade_timestamp": _time("tick.trade_timestamp"),
    "mid_price": "mid_price",
    "spread": "spread",
    "spread_percentage": "spread / mid_price * 100",
    "total_liquidity": "CASE WHEN mid_price IS NOT NULL THEN tick.bid_qty + tick.ask_qty END",
    "price_volatility": "(tick.high_24h - tick.low_24h) / mid_price * 100",
    **_sources(),
}


def enriched_ticks(parsed: DataFrame) -> DataFrame:
    """The good ticks as rows of raw_data, with `_seq`, the order in which they were published to their partition."""
    columns = [f"{_TICK_COLUMNS.get(name, f'tick.{name}')} AS {name}" for name in column_names(RAW)]
    return (
        parsed.where(f"kind = '{TICK}' AND why IS NULL")
        .selectExpr("tick", "at", "offset", f"{_MID} AS mid_price")
        .selectExpr("tick", "at", "offset", "mid_price", f"{_SPREAD} AS spread")
        .selectExpr(*columns, "offset AS _seq")
    )


def candle_rows(parsed: DataFrame) -> DataFrame:
    """The good candles as rows of minute_candles, with `_seq` as above."""
    fields = (
        "open",
        "high",
        "low",
        "close",
        "volume",
        "quote_volume",
        "n_trades",
        "taker_buy_volume",
        "taker_buy_quote_volume",
        "source",
    )
    return parsed.where(f"kind = '{CANDLE}' AND why IS NULL").selectExpr(
        "candle.symbol AS symbol", "at AS open_time", *(f"candle.{name} AS {name}" for name in fields), "offset AS _seq"
    )
