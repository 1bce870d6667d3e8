"""Records that are no candles, sent to the dead-letter topic with their reason and their original bytes.

They are sent before the micro-batch they came with counts as done: a crash in between sends a letter twice (topic,
partition and offset in it name the record), and never loses one. It must never import streams.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from batch.kafka import client_properties, wait_for_topics
from config import Settings
from marketdata.codec import decode, encode
from marketdata.errors import DecodeError
from marketdata.letters import letter_of
from marketdata.records import Candle, DeadLetter
from marketdata.topics import TopicRole

_AT_ONCE = 1_000
_log = logging.getLogger(__name__)


def candle_error(value: bytes | None, why: str) -> DecodeError:
    """What is wrong with a record that Spark could not take for a candle; the wire's own reader names it better."""
    try:
        decode(Candle, value)
    except DecodeError as error:
        return error
    return DecodeError("value", "payload", value, f"a closed one-minute candle: {why}")


class Letters:
    """Sends them; nothing is opened before there is one."""

    def __init__(self, spark: SparkSession, settings: Settings, now_ms: Callable[[], int]) -> None:
        self._spark = spark
        self._settings = settings
        self._now_ms = now_ms
        self._topic = settings.topic(TopicRole.DEAD_LETTERS).name

    def send(self, records: DataFrame, refused: DataFrame) -> int:
        """Send a letter for each refused record, and wait until the broker has them; how many.

        Args:
            records: Kafka rows (topic, partition, offset, key, value).
            refused: topic, partition, offset of those that are refused, and `why`.

        Raises:
            StorageError: there is no such topic.
        """
        wait_for_topics(self._spark, self._settings.kafka, [self._topic], self._settings.hdfs.wait_s)
        rows = records.join(refused.select("topic", "partition", "offset", "why"), ["topic", "partition", "offset"])
        reasons: Counter[str] = Counter()
        now_ms = self._now_ms()
        left = rows.toLocalIterator()
        while chunk := list(islice(left, _AT_ONCE)):
            self._publish(list(self._written(chunk, reasons, now_ms)))
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        _log.warning("refused records that are no candles, see `dead-letters`: %s", told)
        return reasons.total()

    def _written(self, rows: Iterable[Any], reasons: Counter[str], now_ms: int) -> Iterator[tuple[Any, bytearray]]:
        for row in rows:
            key, value = _bytes(row.key), _bytes(row.value)
            error = candle_error(value, row.why)
            reasons[error.reason] += 1
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
