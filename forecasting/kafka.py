"""The broker as the predictor needs it: wait for topics, read a topic's tail, publish. Imports no Keras."""

import asyncio
import logging
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.helpers import create_ssl_context

from config.sections import KafkaSettings
from marketdata.codec import decode
from marketdata.errors import DecodeError, ForecastError
from marketdata.records import Record

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)

_FETCH_MS = 500


def connection(kafka: KafkaSettings) -> dict[str, Any]:
    """Aiokafka's words for how to reach the brokers."""
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.brokers.split(","),
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = create_ssl_context(cafile=None if kafka.ssl_cafile is None else str(kafka.ssl_cafile))
    if kafka.sasl_mechanism is not None:
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = None if kafka.sasl_password is None else kafka.sasl_password.get_secret_value()
    return options


async def start_producer(kafka: KafkaSettings, wait_s: float) -> AIOKafkaProducer:
    """An idempotent producer that is connected; the caller stops it.

    Raises:
        ForecastError: no broker answers within `wait_s`.
    """
    deadline = asyncio.get_running_loop().time() + wait_s
    while True:
        producer = AIOKafkaProducer(**connection(kafka), enable_idempotence=True, acks="all", linger_ms=0)
        try:
            await producer.start()
        except KafkaError as error:
            await producer.stop()
            if asyncio.get_running_loop().time() > deadline:
                raise ForecastError(f"kafka {kafka.brokers}: no answer within {wait_s:g} s: {error}") from error
            await asyncio.sleep(0.5)
        else:
            return producer


async def tail(kafka: KafkaSettings, topic: str, cls: type[R], count: int, wait_s: float) -> list[R]:
    """The newest records of each partition of a topic, at most `count` a partition, in each partition's order.

    Raises:
        ForecastError: no broker answers, or the topic does not exist, within `wait_s`.
    """
    numbers = await _partitions(kafka, topic, wait_s)
    consumer = AIOKafkaConsumer(**connection(kafka), enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
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
        await consumer.stop()


async def _partitions(kafka: KafkaSettings, topic: str, wait_s: float) -> list[int]:
    """The partitions of a topic, as soon as it exists."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    admin = AIOKafkaAdminClient(**connection(kafka))
    await admin.start()
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
            await asyncio.sleep(0.5)
    finally:
        await admin.close()
