"""Publishing records to a real Kafka from a test, and creating their topics."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from config import Settings
from marketdata.codec import encode
from marketdata.records import Candle, DeadLetter, Tick
from marketdata.topics import TopicRole
from streams.kafka.topics import TopicAdmin, declared
from tests.support.streams_worker import decoded, send

ROLES = (TopicRole.TICKS_CLEAN, TopicRole.CANDLES, TopicRole.DEAD_LETTERS)


def make_topics(
    settings: Settings, roles: Sequence[TopicRole] = ROLES, codecs: Mapping[TopicRole, str] = MappingProxyType({})
) -> None:
    """Create the topics of some roles as the settings describe them; the broker compresses those of `codecs`."""
    names = {settings.topic(role).name: {"compression.type": codecs.get(role, "producer")} for role in roles}
    policies = [
        dataclasses.replace(policy, config={**policy.config, **names[policy.name]})
        for policy in declared(settings)
        if policy.name in names
    ]

    async def create() -> None:
        async with TopicAdmin(settings.kafka) as admin:
            await admin.create(policies)

    asyncio.run(create())


def publish(settings: Settings, records: Sequence[Tick | Candle | bytes]) -> None:
    """Publish records to their topics (bytes go to the ticks), and wait until the broker has them."""

    async def publish_all() -> None:
        for role in (TopicRole.CANDLES, TopicRole.TICKS_CLEAN):
            own = [record for record in records if isinstance(record, Candle) == (role is TopicRole.CANDLES)]
            items = [
                (b"BTC-USD", record) if isinstance(record, bytes) else (record.symbol.encode(), encode(record))
                for record in own
            ]
            await send(settings, role, items)

    asyncio.run(publish_all())


def dead_letters(settings: Settings) -> list[DeadLetter]:
    """All records of the dead-letter topic."""
    return asyncio.run(decoded(settings, TopicRole.DEAD_LETTERS, DeadLetter))


def publish_raw(settings: Settings, role: TopicRole, items: Sequence[tuple[bytes | None, bytes]]) -> None:
    """Publish any bytes with their keys to a topic."""
    asyncio.run(send(settings, role, items))
