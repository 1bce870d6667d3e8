"""Partitions that a group shares out, on a real Kafka."""

from clients.kafka.ownership import PartitionOwnership
from config import Settings
from marketdata.topics import TopicRole
from streams.kafka import topics
from tests.support.stack import eventually_async


async def test_each_key_has_one_owner_and_the_last_member_owns_all(settings: Settings) -> None:
    own = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"partitions": 4})})
    await topics.ensure(own)
    name, group = own.topic(TopicRole.TICKS).name, f"{own.topics.prefix}owners"
    keys = [str(number).encode() for number in range(40)]
    first = await PartitionOwnership.join(own.kafka, name, group, 10.0)
    assert all(first.owns(key) for key in keys)
    second = await PartitionOwnership.join(own.kafka, name, group, 10.0)

    async def shared() -> bool:
        owners = [first.owns(key) + second.owns(key) for key in keys]
        return owners == [1] * len(keys) and any(map(second.owns, keys))

    await eventually_async(shared, 30, "each key has one owner, and the second member owns some")
    await first.leave()

    async def taken_over() -> bool:
        return all(map(second.owns, keys))

    await eventually_async(taken_over, 10, "the second member owns all keys")
    await second.leave()
