"""Closing clients of a real Kafka where aiokafka's own way goes wrong: it ends, cancels nobody, and leaves nothing."""

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, ProducerClosed

from config import Settings
from config.kafka import client_options, close_client
from tests.stack import eventually_async


@pytest.fixture
async def partition(settings: Settings) -> TopicPartition:
    """Of a topic that is empty."""
    topic = f"{settings.topics.prefix}closing"
    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await close_client(admin)
    return TopicPartition(topic, 0)


async def nothing_is_left(client: Any) -> None:
    """No connection is open, and every task but the test's own has ended."""
    assert not any(connection.connected() for connection in client._conns.values())

    async def alone() -> bool:
        return asyncio.all_tasks() == {asyncio.current_task()}

    await eventually_async(alone, 5, "all tasks of the client ended")
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_consumer_whose_tasks_have_not_begun(settings: Settings) -> None:
    """The first shows that aiokafka still needs it."""
    for close in (AIOKafkaConsumer.stop, close_client):
        consumer = AIOKafkaConsumer(**client_options(settings.kafka))
        await consumer.start()
        if close is close_client:
            await close(consumer)
        else:
            with pytest.raises(asyncio.CancelledError):
                await close(consumer)
            await asyncio.gather(consumer._fetcher.close(), consumer._client.close())
        await nothing_is_left(consumer._client)


async def test_a_consumer_whose_fetch_waits_to_be_tried_again(
    settings: Settings, partition: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = AIOKafkaConsumer(**client_options(settings.kafka), retry_backoff_ms=60_000)
    await consumer.start()
    refused = asyncio.Event()

    async def gone(*_words: Any, **_options: Any) -> None:
        refused.set()
        raise KafkaConnectionError("the broker is gone")

    consumer.assign([partition])
    consumer.seek(partition, 0)
    monkeypatch.setattr(consumer._client, "send", gone)
    await refused.wait()
    await asyncio.sleep(0)  # from the refusal into the wait
    await close_client(consumer)
    await nothing_is_left(consumer._client)


async def test_a_producer_that_cannot_deliver_is_closed_all_the_same(
    settings: Settings, partition: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = AIOKafkaProducer(**client_options(settings.kafka), enable_idempotence=True)
    await producer.start()
    await producer.send_and_wait(partition.topic, b"first")
    asked = asyncio.Event()

    async def silent(*_words: Any, **_options: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(producer.client, "send", silent)
    sent = await producer.send(partition.topic, b"second")
    await asked.wait()
    await close_client(producer, 0.2)
    with pytest.raises(ProducerClosed):
        await sent
    await nothing_is_left(producer.client)


async def test_a_producer_delivers_before_it_is_closed(settings: Settings, partition: TopicPartition) -> None:
    producer = AIOKafkaProducer(**client_options(settings.kafka), linger_ms=200)
    await producer.start()
    sent = await producer.send(partition.topic, b"held back")
    await close_client(producer)
    assert (await sent).offset == 0
    await nothing_is_left(producer.client)
