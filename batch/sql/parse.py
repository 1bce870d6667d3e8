"""Parses Kafka records by strict schemas, applies the rules of `marketdata.rules`, and enriches ticks, in Spark SQL.

An invalid record keeps its Kafka position and gets an error text; `batch.jobs.stream` sends it to the dead letters.
The enrichment formulas are those of `marketdata.enrichment`.
"""

import re
from collections.abc import Iterable

from pyspark.sql import DataFrame
from pyspark.sql import functions as sql

from batch.schemas import CANDLE_WIRE, RAW, SOURCES, TICK_WIRE, column_names
from marketdata import candle_rules, tick_rules
from marketdata.bounds import EARLIEST_MS, LATEST_MS, MAX_COUNT, MAX_ITEMS, MAX_RECORD_BYTES
from marketdata.rules import AnyPresent, Compares, Ends, Joins, Matches, Repeats, Rule
from marketdata.times import MINUTE_MS, to_rfc3339

_CORRUPT = "_corrupt"
TICK, CANDLE, UNKNOWN = "tick", "candle", "unknown"
FUTURE = "ahead of the clock"
KEY = "key is not the symbol"
_FULL_MATCH = r"^(?:{})\z"
_DOUBLE = re.compile(r"(\w+) DOUBLE\b")
_IN_RANGE = f"BETWEEN TIMESTAMP '{to_rfc3339(EARLIEST_MS)}' AND TIMESTAMP '{to_rfc3339(LATEST_MS)}'"


def _time(column: str) -> str:
    """Parse a wire time and truncate it to milliseconds, as `marketdata.times` does."""
    return f"date_trunc('MILLISECOND', try_cast({column} AS TIMESTAMP))"


def _from_json(schema: str) -> str:
    ddl = " ".join(f"{schema}, {_CORRUPT} STRING".split())
    options = f"'mode', 'PERMISSIVE', 'columnNameOfCorruptRecord', '{_CORRUPT}', 'allowNonNumericNumbers', 'false'"
    return f"from_json(text, '{ddl}', map({options}))"


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _holds(rule: Rule, record: str) -> str:
    """Translate a rule of `marketdata.rules` to a Spark SQL condition on a struct.

    A comparison with null yields null, which passes. A text rule on null yields false, because the wire format has no
    null texts in these fields.
    """
    field = f"{record}.{rule.field}"
    match rule:
        case Compares(comparison=comparison, bound=bound):
            return f"{field} {comparison} {f'{record}.{bound}' if isinstance(bound, str) else f'{float(bound)!r}D'}"
        case Matches(pattern=pattern):
            return f"coalesce({field} RLIKE {_literal(_FULL_MATCH.format(pattern))}, false)"
        case Joins(first=first, separator=separator, second=second):
            return f"{field} <=> concat({record}.{first}, {_literal(separator)}, {record}.{second})"
        case Ends(whole=whole, separator=separator):
            return f"coalesce(endswith({record}.{whole}, concat({_literal(separator)}, {field})), false)"
        case Repeats(original=original, where=where, value=value):
            return f"{field} <=> CASE {record}.{where} WHEN {_literal(value)} THEN {record}.{original} END"
        case AnyPresent(other=other):
            return f"coalesce({field}, {record}.{other}) IS NOT NULL"
    raise TypeError(f"{type(rule).__name__} has no translation to Spark SQL")


def _violated_rule(rules: Iterable[Rule], record: str) -> str:
    """Return a CASE expression for the first rule that a struct violates; null if it satisfies all."""
    whens = [
        f"WHEN NOT ({_holds(rule, record)}) THEN {_literal(f'{rule.field} is not {rule.expected}')}" for rule in rules
    ]
    return f"CASE {' '.join(whens)} END"


def _not_finite(schema: str, rules: Iterable[Rule], record: str) -> str:
    """Return a CASE expression for the first number that is not finite, among the fields that no rule bounds.

    JSON has no infinity, but Spark reads 1e400 as one; `marketdata.codec` rejects it.
    """
    bounded = {rule.field for rule in rules}
    names = [name for name in _DOUBLE.findall(schema) if name not in bounded]
    whens = [f"WHEN abs({record}.{name}) >= double('Infinity') THEN '{name} is not finite'" for name in names]
    return f"CASE {' '.join(whens)} END" if whens else "NULL"


def _invalid_time(column: str) -> str:
    """Return a condition for a text that is not a time within the codec's range; false for null."""
    return f"{column} IS NOT NULL AND coalesce({_time(column)} NOT {_IN_RANGE}, true)"


def _implausible(record: str) -> str:
    """Return a CASE expression for the first value of a tick outside the codec's bounds (`marketdata.bounds`)."""
    state = f"""s -> coalesce(abs(s.staleness_ms) > {int(MAX_COUNT)}, false)
        OR {_invalid_time("s.observed_at")} OR {_invalid_time("s.received_at")}"""
    return f"""CASE
        WHEN {_invalid_time(f"{record}.trade_timestamp")} THEN 'trade_timestamp is invalid or out of range'
        WHEN greatest(size({record}.sources), size({record}.flags)) > {MAX_ITEMS}
            THEN 'sources or flags have more than {MAX_ITEMS} entries'
        WHEN exists(map_values({record}.sources), {state}) THEN 'the state of a source is invalid or out of range'
    END"""


def parse_records(
    records: DataFrame, *, ticks_topic: str, candles_topic: str, latest_ms: int | None = None
) -> DataFrame:
    """Parse Kafka rows.

    Args:
        records: rows with columns topic, partition, offset, key, value.
        ticks_topic: the topic of clean ticks.
        candles_topic: the topic of closed candles.
        latest_ms: ticks after this time and candles that end after it are invalid (`FUTURE`); None skips the check.

    Returns:
        Columns topic, partition, offset, kind (`tick` or `candle`), tick (struct), candle (struct), at (event time),
        error (text, null for a valid record).
    """
    ahead = "false"
    if latest_ms is not None:
        ahead = f"unix_millis(at) + CASE kind WHEN '{CANDLE}' THEN {MINUTE_MS} ELSE 0 END > {latest_ms}"
    kind = f"CASE topic WHEN '{ticks_topic}' THEN '{TICK}' WHEN '{candles_topic}' THEN '{CANDLE}' ELSE '{UNKNOWN}' END"
    return (
        records.selectExpr(
            "topic",
            "partition",
            "offset",
            "key",
            f"octet_length(value) > {MAX_RECORD_BYTES} AS is_long",
            f"CASE WHEN octet_length(value) <= {MAX_RECORD_BYTES} THEN cast(value AS STRING) END AS text",
            f"{kind} AS kind",
        )
        .selectExpr(
            "topic",
            "partition",
            "offset",
            "key",
            "is_long",
            "text",
            "kind",
            f"CASE WHEN kind = '{TICK}' THEN {_from_json(TICK_WIRE)} END AS tick",
            f"CASE WHEN kind = '{CANDLE}' THEN {_from_json(CANDLE_WIRE)} END AS candle",
        )
        .selectExpr(
            "topic",
            "partition",
            "offset",
            "key",
            "is_long",
            "text",
            "kind",
            "tick",
            "candle",
            f"coalesce({_time('tick.timestamp')}, {_time('candle.open_time')}) AS at",
        )
        .withColumn("at", sql.expr(f"CASE WHEN at {_IN_RANGE} THEN at END"))
        .selectExpr(
            "topic",
            "partition",
            "offset",
            "kind",
            "tick",
            "candle",
            "at",
            f"""coalesce(CASE
                WHEN is_long THEN 'longer than {MAX_RECORD_BYTES} bytes'
                WHEN tick.{_CORRUPT} IS NOT NULL OR candle.{_CORRUPT} IS NOT NULL THEN 'not JSON of the expected schema'
                WHEN coalesce(tick.schema_version, candle.schema_version, -1) <> 1 THEN 'schema_version is not 1'
                WHEN at IS NULL THEN 'event time is missing or invalid'
                WHEN coalesce(tick.symbol, candle.symbol) IS NULL THEN 'symbol is missing'
                WHEN kind = '{CANDLE}' AND candle.interval <> '1m' THEN 'not a one-minute candle'
                WHEN kind = '{CANDLE}' AND (candle.open IS NULL OR candle.high IS NULL OR candle.low IS NULL
                    OR candle.close IS NULL OR candle.volume IS NULL) THEN 'a price or the volume is missing'
            END, CASE kind
                WHEN '{TICK}' THEN coalesce({_violated_rule(tick_rules.RULES, "tick")},
                    {_not_finite(TICK_WIRE, tick_rules.RULES, "tick")}, {_implausible("tick")})
                WHEN '{CANDLE}' THEN coalesce({_violated_rule(candle_rules.RULES, "candle")},
                    {_not_finite(CANDLE_WIRE, candle_rules.RULES, "candle")})
            END, CASE
                WHEN kind = '{CANDLE}' AND unix_millis(at) % {MINUTE_MS} <> 0 THEN 'open_time is not a whole minute'
                WHEN NOT key <=> cast(coalesce(tick.symbol, candle.symbol) AS BINARY) THEN '{KEY}'
                WHEN {ahead} THEN '{FUTURE}'
            END) AS error""",
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


_MID = "(tick.bid_price + tick.ask_price) / 2"  # clean quotes are positive and not crossed
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
    """Return the valid ticks as rows of raw_data, with `_seq`: the Kafka offset, which orders rows with equal keys."""
    columns = [f"{_TICK_COLUMNS.get(name, f'tick.{name}')} AS {name}" for name in column_names(RAW)]
    return (
        parsed.where(f"kind = '{TICK}' AND error IS NULL")
        .selectExpr("tick", "at", "offset", f"{_MID} AS mid_price")
        .selectExpr("tick", "at", "offset", "mid_price", f"{_SPREAD} AS spread")
        .selectExpr(*columns, "offset AS _seq")
    )


def candle_rows(parsed: DataFrame) -> DataFrame:
    """Return the valid candles as rows of minute_candles, with `_seq` as in `enriched_ticks`."""
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
    return parsed.where(f"kind = '{CANDLE}' AND error IS NULL").selectExpr(
        "candle.symbol AS symbol", "at AS open_time", *(f"candle.{name} AS {name}" for name in fields), "offset AS _seq"
    )
