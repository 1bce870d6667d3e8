"""Closing clients of a real Kafka where aiokafka's own way goes wrong: it ends, cancels nobody, and leaves nothing."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, ProducerClosed

from clients.kafka.connection import client_options, close_client
from config import Settings
from tests.integration.streams.views.test_restarts import kafka_alone
from tests.support.stack import eventually_async, free_ports, settings_with


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


async def test_a_consumer_that_looks_for_its_group(
    settings: Settings, partition: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off amid that, aiokafka leaves the heartbeats and the commits behind."""
    consumer = AIOKafkaConsumer(partition.topic, **client_options(settings.kafka), group_id=partition.topic)
    await consumer.start()
    assert consumer.assignment() == {partition}
    looks = asyncio.Event()

    async def silent(*_words: Any, **_options: Any) -> None:
        looks.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(consumer._client, "coordinator_lookup", silent)
    consumer._coordinator.coordinator_dead()
    await looks.wait()
    await close_client(consumer, 0.2)
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


async def test_clients_whose_broker_was_killed_are_closed_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A record whose sending failed and is tried again, one that was never sent, and a member of a group."""
    kafka, state = free_ports(1)[0], tmp_path / "state"
    settings = settings_with({"BDI_KAFKA__BROKERS": f"127.0.0.1:{kafka}", "BDI_DEVSTACK__STATE_DIR": str(state)})
    options = client_options(settings.kafka)
    async with kafka_alone(settings, tmp_path / "kafka.log") as pid:
        admin = AIOKafkaAdminClient(**options)
        await admin.start()
        await admin.create_topics([NewTopic("closing", 2, 1)])
        await close_client(admin)
        producer = AIOKafkaProducer(**options, enable_idempotence=True)
        consumer = AIOKafkaConsumer("closing", **options, group_id="closing", auto_offset_reset="earliest")
        await producer.start()
        await consumer.start()
        await producer.send_and_wait("closing", b"read", partition=0)
        assert (await consumer.getone()).value == b"read"

        broker = psutil.Process(pid)
        broker.suspend()

        async def stands_still() -> bool:
            threads = [psutil.Process(thread.id) for thread in broker.threads()]
            return all(thread.status() == psutil.STATUS_STOPPED for thread in threads)

        await eventually_async(stands_still, 10, "no thread of the broker answers any more")
        sent = [await producer.send("closing", b"on its way", partition=0)]
        accumulator = producer._message_accumulator

        async def is_sent() -> bool:
            return len(accumulator._pending_batches) == 1

        await eventually_async(is_sent, 10, "the record on its way")
        (batch,) = accumulator._pending_batches
        sent.append(await producer.send("closing", b"waits", partition=1))
        broker.kill()

        async def was_put_back() -> bool:
            return bool(batch.retry_count > 0)  # where it is now, waiting or on its way again, is the sender's affair

        await eventually_async(was_put_back, 30, "the record was put back")
        await asyncio.gather(close_client(producer, 0.2), close_client(consumer, 0.2))
        for outcome in await asyncio.gather(*sent, return_exceptions=True):
            assert isinstance(outcome, ProducerClosed)
        await nothing_is_left(producer.client)
        await nothing_is_left(consumer._client)
    gc.collect()  # a future tells only then that nobody looked at its exception
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
    assert [record.getMessage() for record in caplog.records if record.name == "clients.kafka.connection"] == []
