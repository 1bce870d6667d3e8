"""Records that cannot be stored, sent to the dead-letter topic with their reason and their original bytes.

They are sent before the micro-batch they came with counts as done: a crash in between sends a letter twice (topic,
partition and offset in it name the record), and never loses one. It must never import streams.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from batch.spark.kafka import client_properties, wait_for_topics
from batch.sql import parse as wire
from config import Settings
from marketdata import candle_rules, tick_rules
from marketdata.codec import decode, encode
from marketdata.dead_letters import letter_of
from marketdata.errors import DecodeError
from marketdata.records import Candle, DeadLetter, Tick
from marketdata.topics import TopicRole

_AT_ONCE = 1_000
_PLACE = ["topic", "partition", "offset"]
_log = logging.getLogger(__name__)


def refusal(kind: str, value: bytes | None, why: str, latest_ms: int) -> DecodeError:
    """What is wrong with a record that Spark refused; the wire's own reader and the tables of rules name it better.

    Args:
        kind: what it should have been, of `wire`.
        value: its bytes.
        why: what Spark found.
        latest_ms: the time beyond which it is ahead of the clock.
    """
    expected = "a closed one-minute candle" if kind == wire.CANDLE else "a clean tick"
    try:
        if kind == wire.CANDLE:
            candle_rules.check(decode(Candle, value), latest_ms)
        else:
            tick_rules.check(decode(Tick, value), latest_ms)
    except DecodeError as error:
        return error
    return DecodeError("value", "payload", value, f"{expected}: {why}")


class Letters:
    """Sends them; nothing is opened before there is one."""

    def __init__(self, spark: SparkSession, settings: Settings, now_ms: Callable[[], int]) -> None:
        self._spark = spark
        self._settings = settings
        self._now_ms = now_ms
        self._topic = settings.topic(TopicRole.DEAD_LETTERS).name

    def send(self, records: DataFrame, refused: DataFrame, latest_ms: int) -> int:
        """Send a letter for each refused record, and wait until the broker has them; how many.

        Args:
            records: Kafka rows (topic, partition, offset, key, value).
            refused: topic, partition, offset of those that are refused, `kind` and `why`.
            latest_ms: the time beyond which a record is ahead of the clock.

        Raises:
            StorageError: there is no such topic.
        """
        wait_for_topics(self._spark, self._settings.kafka, [self._topic], self._settings.hdfs.wait_s)
        rows = records.join(refused.select(*_PLACE, "kind", "why"), _PLACE)
        reasons: Counter[str] = Counter()
        now_ms = self._now_ms()
        left = rows.toLocalIterator()
        while chunk := list(islice(left, _AT_ONCE)):
            self._publish(list(self._written(chunk, reasons, now_ms, latest_ms)))
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        _log.warning("refused records, see `dead-letters`: %s", told)
        return reasons.total()

    def _written(
        self, rows: Iterable[Any], reasons: Counter[str], now_ms: int, latest_ms: int
    ) -> Iterator[tuple[Any, bytearray]]:
        for row in rows:
            key, value = _bytes(row.key), _bytes(row.value)
            error = refusal(row.kind, value, row.why, latest_ms)
            reasons[f"{error.reason} on {row.topic}"] += 1
            letter: DeadLetter = letter_of(
                error,
                error.reason,
                now_ms,
                topic=row.topic,
                partition=row.partition,
                offset=row.offset,
                key=key,
                value=value,
            )
            yield row.key, bytearray(encode(letter))

    def _publish(self, letters: list[tuple[Any, bytearray]]) -> None:
        options = {f"kafka.{name}": value for name, value in client_properties(self._settings.kafka).items()}
        (
            self._spark.createDataFrame(letters, "key BINARY, value BINARY")
            .coalesce(1)
            .write.format("kafka")
            .options(**options)
            .option("topic", self._topic)
            .save()
        )


def _bytes(value: bytearray | None) -> bytes | None:
    return None if value is None else bytes(value)
