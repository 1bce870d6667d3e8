"""The broker as the predictor needs it: wait for topics, read a topic's tail, publish, take turns. Imports no Keras."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from clients.kafka.connection import client_options, close_client
from config.sections import KafkaSettings
from marketdata.codec import decode
from marketdata.errors import DecodeError, ForecastError
from marketdata.records import Record

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)
C = TypeVar("C", AIOKafkaProducer, AIOKafkaConsumer, AIOKafkaAdminClient)

_FETCH_MS = 500
_RETRY_S = 0.5
_SILENT_MS = 15_000
_FOR_EVER_MS = 2**31 - 1
CLOSING_S = 0.75
"""So that the predictor ends within 5 s whatever the broker does: what is left undone, the next start reads anew."""


async def _started(kafka: KafkaSettings, wait_s: float, make: Callable[[], C]) -> C:
    """A client that is connected; the caller closes it."""
    deadline = asyncio.get_running_loop().time() + wait_s
    while True:
        client = make()
        try:
            await client.start()
        except (KafkaError, OSError) as error:
            await close_client(client, CLOSING_S)
            if asyncio.get_running_loop().time() > deadline:
                raise ForecastError(f"kafka {kafka.brokers}: no answer within {wait_s:g} s: {error}") from error
            await asyncio.sleep(_RETRY_S)
        except asyncio.CancelledError:
            await close_client(client, CLOSING_S)
            raise
        else:
            return client


async def start_producer(kafka: KafkaSettings, wait_s: float) -> AIOKafkaProducer:
    """An idempotent producer that is connected; the caller closes it.

    Raises:
        ForecastError: no broker answers within `wait_s`.
    """
    return await _started(
        kafka,
        wait_s,
        lambda: AIOKafkaProducer(**client_options(kafka), enable_idempotence=True, acks="all", linger_ms=0),
    )


async def tail(
    kafka: KafkaSettings, topic: str, cls: type[R], count: int, wait_s: float, *, key: bytes | None = None
) -> list[R]:
    """The newest records of each partition of a topic, at most `count` a partition, in each partition's order.

    Args:
        kafka: where.
        topic: which.
        cls: what its records are.
        count: how many of each partition.
        wait_s: how long to wait for broker and topic.
        key: only the partition that records of this key go to.

    Raises:
        ForecastError: no broker answers, or the topic does not exist, within `wait_s`.
    """
    numbers = await _partitions(kafka, topic, wait_s)
    if key is not None:
        numbers = [partition_of(key, numbers)]
    consumer = await _started(
        kafka,
        wait_s,
        lambda: AIOKafkaConsumer(**client_options(kafka), enable_auto_commit=False, auto_offset_reset="earliest"),
    )
    try:
        partitions = [TopicPartition(topic, number) for number in numbers]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        begins = await consumer.beginning_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, max(begins[partition], ends[partition] - count))
        records: list[R] = []
        while any([await consumer.position(p) < ends[p] for p in partitions]):
            for messages in (await consumer.getmany(timeout_ms=_FETCH_MS)).values():
                for message in messages:
                    try:
                        records.append(decode(cls, message.value))
                    except DecodeError as error:
                        log.warning("skipped topic=%s offset=%d error=%s", topic, message.offset, error)
        return records
    finally:
        await close_client(consumer, CLOSING_S)


def partition_of(key: bytes, numbers: list[int]) -> int:
    """The partition of a topic with these partitions that the producer puts records of a key on."""
    return int(DefaultPartitioner()(key, numbers, numbers))


async def _partitions(kafka: KafkaSettings, topic: str, wait_s: float) -> list[int]:
    """The partitions of a topic, as soon as it exists."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    admin = await _started(kafka, wait_s, lambda: AIOKafkaAdminClient(**client_options(kafka)))
    try:
        while True:
            (found,) = await admin.describe_topics([topic])
            if found["error_code"] == 0 and found["partitions"]:
                return sorted(int(part["partition"]) for part in found["partitions"])
            if loop.time() > deadline:
                raise ForecastError(
                    f"topic {topic}: does not exist after {wait_s:g} s: expected it from "
                    "`python -m faust -A streams topics create`"
                )
            await asyncio.sleep(_RETRY_S)
    finally:
        await close_client(admin, CLOSING_S)


class Turns:
    """Which of several running predictors speaks for a market: the one that Kafka's group gave its partition.

    The group's membership alone is used, what it fetches is left unread. A killed predictor is succeeded after 15 s.
    """

    def __init__(self, consumer: AIOKafkaConsumer, topic: str, numbers: list[int]) -> None:
        self._consumer = consumer
        self._topic = topic
        self._numbers = numbers

    @classmethod
    async def join(cls, kafka: KafkaSettings, topic: str, group: str, wait_s: float) -> "Turns":
        """Join the group and wait for its first assignment; the caller leaves it.

        Raises:
            ForecastError: no broker answers, or the topic does not exist, within `wait_s`.
        """
        numbers = await _partitions(kafka, topic, wait_s)
        consumer = await _started(
            kafka,
            wait_s,
            lambda: AIOKafkaConsumer(
                topic,
                **client_options(kafka),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="latest",
                session_timeout_ms=_SILENT_MS,
                rebalance_timeout_ms=_SILENT_MS,
                max_poll_interval_ms=_FOR_EVER_MS,  # it never polls; heartbeats tell that it lives
            ),
        )
        return cls(consumer, topic, numbers)

    def has(self, key: bytes) -> bool:
        """Whether the records of this key are ours to publish now."""
        return TopicPartition(self._topic, partition_of(key, self._numbers)) in self._consumer.assignment()

    async def leave(self) -> None:
        """Leave the group, so that another predictor takes over at once."""
        await close_client(self._consumer, CLOSING_S)
