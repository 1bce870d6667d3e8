"""Topics read from their end back, on a real Kafka."""

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from clients.kafka import reader as reader_module
from clients.kafka.connection import client_options, close_client, connect, start_producer
from clients.kafka.reader import TopicReader
from clients.kafka.topics import partition_of, wait_for_topics
from config import Settings
from marketdata.codec import encode
from marketdata.errors import BrokerError
from marketdata.records import Tick
from marketdata.topics import TopicRole
from streams.collection.last_tick import newest_tick_ms
from streams.kafka import topics
from streams.metrics import Metrics
from tests.support.builders import SYMBOL, tick
from tests.support.streams_worker import send

START_MS = 1_722_816_000_000
BEHIND = 300  # records that are no ticks: more than are looked at first


async def test_a_longer_tail_reads_only_what_the_shorter_one_had_not(settings: Settings) -> None:
    own = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"partitions": 2})})
    await topics.ensure(own)
    name, key = own.topic(TopicRole.TICKS).name, SYMBOL.encode()
    await send(own, TopicRole.TICKS, [(key, encode(tick(START_MS + n))) for n in range(3)])
    await send(own, TopicRole.TICKS, [(key, b"garbage")] * BEHIND)

    async def read(*tails: int | None) -> list[list[int]]:
        """Offsets of each step, by the length of its tail."""
        steps = []
        async with TopicReader(own.kafka, name) as reader:
            async for _tail, froms, ends in reader.backwards(tails):
                steps.append([record.offset async for record in reader.between(froms, ends)])
        return steps

    held = list(range(BEHIND + 3))
    assert await read(2, 5, None) == [held[-2:], held[-5:-2], held[:-5]]
    assert await read(2, 5) == [held[-2:], held[-5:-2]]
    assert await read(len(held), None) == [held]  # there is no more


async def test_one_keys_partition_is_read_alone_and_other_records_are_skipped(settings: Settings) -> None:
    own = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"partitions": 3})})
    await topics.ensure(own)
    name, keys = own.topic(TopicRole.TICKS).name, [symbol.encode() for symbol in own.markets]
    await send(own, TopicRole.TICKS, [(key, encode(tick(START_MS + n))) for n in range(3) for key in keys])
    await send(own, TopicRole.TICKS, [(key, b"garbage") for key in keys])
    assert (await wait_for_topics(own.kafka, [name], 10.0)) == {name: [0, 1, 2]}
    for key in keys:
        number = partition_of(key, range(3))
        async with TopicReader(own.kafka, name, key=key, wait_s=10.0) as reader:
            assert [tp.partition for tp in reader.partitions] == [number]
            found = [raw.key async for raw, _tick in reader.decoded(Tick, *await reader.tails(None))]
        assert sorted(found) == sorted(3 * [one for one in keys if partition_of(one, range(3)) == number])


async def test_a_follower_reads_partitions_that_are_added_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_METADATA_MS", 100)
    own = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"partitions": 1})})
    await topics.ensure(own)
    name = own.topic(TopicRole.TICKS).name
    seen: list[tuple[int, bytes]] = []

    async def write(partition: int, *values: bytes) -> None:
        producer = await start_producer(own.kafka)
        try:
            for value in values:
                await producer.send_and_wait(name, value, partition=partition)
        finally:
            await close_client(producer)

    async def until(*expected: tuple[int, bytes]) -> None:
        async with asyncio.timeout(10):
            while len(seen) < len(expected):
                record = await anext(records)
                seen.append((record.partition, record.value))
        assert sorted(seen) == sorted(expected)

    async with TopicReader(own.kafka, name) as reader:
        await write(0, b"old")
        ends = await reader.ends()
        await write(0, b"first")
        records = reader.follow(ends)
        await until((0, b"first"))
        admin = await connect(own.kafka, lambda: AIOKafkaAdminClient(**client_options(own.kafka)))
        await admin.create_partitions({name: NewPartitions(3)})
        await close_client(admin)
        await write(2, b"second", b"third")
        await write(0, b"fourth")
        await until((0, b"first"), (0, b"fourth"), (2, b"second"), (2, b"third"))
        await records.aclose()


async def test_skipped_records_are_counted_as_a_metric(settings: Settings) -> None:
    await topics.ensure(settings)
    name, metrics = settings.topic(TopicRole.TICKS).name, Metrics()
    await send(settings, TopicRole.TICKS, [(SYMBOL.encode(), value) for value in (encode(tick(START_MS)), b"{", b"[")])
    found = await newest_tick_ms(settings.kafka, name, START_MS + 1, streamed=False, on_skipped=metrics.count_skipped)
    assert found == START_MS
    for reason in ("json", "type"):
        labels = {"topic": name, "reason": reason}
        assert metrics.registry.get_sample_value("bitcoin_skipped_records_total", labels) == 1


async def test_a_topic_that_does_not_exist_is_one_clear_line(settings: Settings) -> None:
    name = f"{settings.topics.prefix}absent"
    for wait_s, after in ((0.0, ""), (0.6, " after 0.6 s")):
        with pytest.raises(BrokerError, match=f"topic {name}: does not exist{after}; create it with `faust -A streams"):
            async with TopicReader(settings.kafka, name, wait_s=wait_s):
                pass
