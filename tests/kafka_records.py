"""Publishing records to a real Kafka from a test, and making the topics they go to."""

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from config import Settings
from marketdata.codec import encode
from marketdata.records import Candle, Tick
from marketdata.topics import TopicRole

ROLES = (TopicRole.TICKS_CLEAN, TopicRole.CANDLES)


async def _make_topics(settings: Settings) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.brokers)
    await admin.start()
    try:
        topics = [settings.topic(role) for role in ROLES]
        await admin.create_topics([NewTopic(t.name, t.partitions, 1, topic_configs=t.config) for t in topics])
    finally:
        await admin.close()


async def _publish(settings: Settings, records: Sequence[Tick | Candle | bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.brokers, linger_ms=20)
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
    """Make the topics of clean ticks and candles as the settings describe them."""
    asyncio.run(_make_topics(settings))


def publish(settings: Settings, records: Sequence[Tick | Candle | bytes]) -> None:
    """Publish records to their topics (bytes go to the ticks), and wait until the broker has them."""
    asyncio.run(_publish(settings, records))
