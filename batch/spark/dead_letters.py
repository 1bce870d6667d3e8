"""Publishes records that cannot be stored to the dead-letter topic, with the reason and the original bytes.

Dead letters are published before their micro-batch is committed. A crash in between publishes a dead letter twice but
never loses one; topic, partition and offset identify the record.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from batch.spark.kafka import client_properties
from batch.sql.parse import CANDLE
from clients.kafka.topics import wait_for_topics
from config import Settings
from marketdata import candle_rules, tick_rules
from marketdata.codec import decode, encode
from marketdata.dead_letters import dead_letter_key, to_dead_letter
from marketdata.errors import DecodeError
from marketdata.records import Candle, DeadLetter, Tick
from marketdata.rules import check_key
from marketdata.topics import TopicRole
from marketdata.vocabulary import Reason

_CHUNK_SIZE = 1_000
_POSITION = ["topic", "partition", "offset"]
_log = logging.getLogger(__name__)


def refusal_of(kind: str, key: bytes | None, value: bytes | None, text: str, latest_ms: int) -> DecodeError:
    """Return the error of a record that Spark refused, with reason code and field.

    The record is decoded and checked again in Python; Spark's text is used only if that finds no error.

    Args:
        kind: the expected kind of record, `TICK` or `CANDLE` of `batch.sql.parse`.
        key: of the record.
        value: the original bytes.
        text: the error found by Spark.
        latest_ms: the latest event time accepted, ms.
    """
    expected = "a closed one-minute candle" if kind == CANDLE else "a clean tick"
    try:
        if kind == CANDLE:
            candle = decode(Candle, value)
            candle_rules.check(candle, latest_ms)
            check_key(key, candle.symbol)
        else:
            tick = decode(Tick, value)
            tick_rules.check(tick, latest_ms)
            check_key(key, tick.symbol)
    except DecodeError as error:
        return error
    except Exception as error:  # noqa: BLE001  logged with its traceback
        _log.exception("unexpected error while checking a record")
        return DecodeError(Reason.UNEXPECTED, "payload", value, f"{expected} ({error!r})")
    return DecodeError(Reason.VALUE, "payload", value, f"{expected}: {text}")


class DeadLetterWriter:
    """Publishes dead letters through Spark's Kafka sink."""

    def __init__(self, spark: SparkSession, settings: Settings, now_ms: Callable[[], int]) -> None:
        self._spark = spark
        self._settings = settings
        self._now_ms = now_ms
        self._topic = settings.topic(TopicRole.DEAD_LETTERS).name

    def send(self, records: DataFrame, refused: DataFrame, latest_ms: int) -> int:
        """Publish a dead letter for each refused record and wait for the broker's acknowledgement.

        Args:
            records: Kafka rows (topic, partition, offset, key, value).
            refused: columns topic, partition, offset, kind and error of the refused records.
            latest_ms: the latest event time accepted, ms.

        Returns:
            The number of dead letters.

        Raises:
            BrokerError: no broker answers, or the dead-letter topic does not exist, within `hdfs.wait_s`.
        """
        asyncio.run(wait_for_topics(self._settings.kafka, [self._topic], self._settings.hdfs.wait_s))
        rows = records.join(refused.select(*_POSITION, "kind", "error"), _POSITION)
        reasons: Counter[str] = Counter()
        now_ms = self._now_ms()
        remaining = rows.toLocalIterator()
        while chunk := list(islice(remaining, _CHUNK_SIZE)):
            self._publish(list(self._encode(chunk, reasons, now_ms, latest_ms)))
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        _log.warning("refused records, see `dead-letters`: %s", counts)
        return reasons.total()

    def _encode(
        self, rows: Iterable[Any], reasons: Counter[str], now_ms: int, latest_ms: int
    ) -> Iterator[tuple[Any, bytearray]]:
        for row in rows:
            key, value = _bytes(row.key), _bytes(row.value)
            error = refusal_of(row.kind, key, value, row.error, latest_ms)
            reasons[f"{error.reason} on {row.topic}"] += 1
            letter: DeadLetter = to_dead_letter(
                error,
                error.reason,
                now_ms,
                topic=row.topic,
                partition=row.partition,
                offset=row.offset,
                key=key,
                value=value,
            )
            yield dead_letter_key(key), bytearray(encode(letter))

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
