"""Spark refuses the ticks and candles that the tables of rules refuse, and names the same rule."""

import random
from collections.abc import Sequence

from pyspark.sql import SparkSession

from batch import wire
from marketdata import candle_rules, tick_rules
from marketdata.records import Candle, Tick
from marketdata.rules import Rule
from tests.odd_records import odd_candle, odd_tick
from tests.spark import TOPICS, kafka_rows

_COUNTS = ("n_updates", "n_trades")
_MOST_COUNT = 2**63 - 1  # Spark's integers end far below an absurd count: such a record is not of its schema


def first_broken(record: Tick | Candle, rules: Sequence[Rule]) -> Rule | str | None:
    if any((getattr(record, name, None) or 0) > _MOST_COUNT for name in _COUNTS):
        return "not JSON of the schema"
    return next((rule for rule in rules if not rule.holds(record)), None)


def test_spark_names_the_rule_that_the_tables_name(spark: SparkSession) -> None:
    rng = random.Random(1)
    records = [odd_tick(rng.choice) for _ in range(4_000)] + [odd_candle(rng.choice) for _ in range(1_000)]
    broken = [
        first_broken(record, candle_rules.RULES if isinstance(record, Candle) else tick_rules.RULES)
        for record in records
    ]
    found = wire.parse(kafka_rows(spark, records), **TOPICS).orderBy("offset").select("why").collect()
    for record, rule, row in zip(records, broken, found, strict=True):
        assert row.why == (f"{rule.field} is not {rule.expected}" if isinstance(rule, Rule) else rule), record
    unseen = {*tick_rules.RULES, *candle_rules.RULES}.difference(rule for rule in broken if isinstance(rule, Rule))
    assert {(rule.field, rule.reason) for rule in unseen} <= {(name, "absurd") for name in _COUNTS}
    assert broken.count(None) > len(records) / 10
