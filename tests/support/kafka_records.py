"""Publishing records to a real Kafka from a test, and making the topics they go to."""

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from clients.kafka.connection import client_options, close_client
from config import Settings
from marketdata.codec import decode, encode
from marketdata.records import Candle, DeadLetter, Tick
from marketdata.topics import TopicRole

ROLES = (TopicRole.TICKS_CLEAN, TopicRole.CANDLES, TopicRole.DEAD_LETTERS)


async def _make_topics(settings: Settings) -> None:
    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    await admin.start()
    try:
        topics = [settings.topic(role) for role in ROLES]
        await admin.create_topics([NewTopic(t.name, t.partitions, 1, topic_configs=t.config) for t in topics])
    finally:
        await close_client(admin)


async def _publish(settings: Settings, records: Sequence[Tick | Candle | bytes]) -> None:
    producer = AIOKafkaProducer(**client_options(settings.kafka), linger_ms=20)
    await producer.start()
    try:
        for record in records:
            role = TopicRole.CANDLES if isinstance(record, Candle) else TopicRole.TICKS_CLEAN
            payload, key = (
                (record, b"BTC-USD") if isinstance(record, bytes) else (encode(record), record.symbol.encode())
            )
            await producer.send(settings.topic(role).name, payload, key=key)
        await producer.flush()
    finally:
        await producer.stop()


def make_topics(settings: Settings) -> None:
    """Make the topics of clean ticks, candles and dead letters as the settings describe them."""
    asyncio.run(_make_topics(settings))


def publish(settings: Settings, records: Sequence[Tick | Candle | bytes]) -> None:
    """Publish records to their topics (bytes go to the ticks), and wait until the broker has them."""
    asyncio.run(_publish(settings, records))


async def _dead_letters(settings: Settings) -> list[DeadLetter]:
    consumer = AIOKafkaConsumer(
        settings.topic(TopicRole.DEAD_LETTERS).name,
        **client_options(settings.kafka),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        letters = []
        for tp, end in ends.items():
            while await consumer.position(tp) < end:
                letters += (await consumer.getmany(tp, timeout_ms=500)).get(tp, [])
        return [decode(DeadLetter, record.value) for record in letters]
    finally:
        await close_client(consumer)


def dead_letters(settings: Settings) -> list[DeadLetter]:
    """All that are on their topic."""
    return asyncio.run(_dead_letters(settings))


async def _publish_raw(settings: Settings, role: TopicRole, items: Sequence[tuple[bytes | None, bytes]]) -> None:
    producer = AIOKafkaProducer(**client_options(settings.kafka))
    await producer.start()
    try:
        for key, payload in items:
            await producer.send(settings.topic(role).name, payload, key=key)
        await producer.flush()
    finally:
        await producer.stop()


def publish_raw(settings: Settings, role: TopicRole, items: Sequence[tuple[bytes | None, bytes]]) -> None:
    """Publish any bytes with their keys to a topic."""
    asyncio.run(_publish_raw(settings, role, items))
