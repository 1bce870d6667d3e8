"""How the predictor reads topics, and how long it may take to close its Kafka clients."""

import logging
from typing import TypeVar

from clients.kafka.reader import TopicReader
from config.sections import KafkaSettings
from marketdata.records import Record

R = TypeVar("R", bound=Record)

GRACEFUL_CLOSE_S = 0.75
"""Graceful-close timeout of the predictor's clients: it ends within 5 s, and its next start reads the topics again."""


async def tail(
    kafka: KafkaSettings, topic: str, cls: type[R], count: int, wait_s: float, *, key: bytes | None = None
) -> list[R]:
    """The newest records of each partition of a topic, at most `count` a partition, in each partition's order.

    Args:
        kafka: where the topic is.
        topic: its name.
        cls: the class of its records; others are skipped with a warning.
        count: how many of each partition.
        wait_s: how long to wait for broker and topic, in seconds.
        key: read only the partition that records with this key go to.

    Raises:
        BrokerError: no broker answers, or the topic does not exist, within `wait_s`.
    """
    async with TopicReader(kafka, topic, key=key, wait_s=wait_s, close_s=GRACEFUL_CLOSE_S) as reader:
        froms, ends = await reader.tails(count)
        decoded = reader.decoded(cls, froms, ends, skip_level=logging.WARNING)
        return [record async for _raw, record in decoded]
