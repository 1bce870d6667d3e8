"""The newest tick on a topic of a real Kafka."""

from config import Settings
from marketdata.codec import encode
from marketdata.topics import TopicRole
from streams.collection.last_tick import newest_tick_ms
from streams.kafka import topics
from tests.support.builders import SYMBOL, tick
from tests.support.streams_worker import send

START_MS = 1_722_816_000_000
BEHIND = 300  # records that are no ticks: more than are read first


async def test_the_newest_tick_is_found_behind_records_that_are_no_ticks(settings: Settings) -> None:
    own = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"partitions": 2})})
    await topics.ensure(own)
    name, key = own.topic(TopicRole.TICKS).name, SYMBOL.encode()
    await send(own, TopicRole.TICKS, [(key, encode(tick(START_MS + n))) for n in range(3)])
    await send(own, TopicRole.TICKS, [(key, b"garbage")] * BEHIND)

    assert await newest_tick_ms(own.kafka, name, START_MS + 2, streamed=False) == START_MS + 1
    assert await newest_tick_ms(own.kafka, name, START_MS, streamed=False) is None
    assert await newest_tick_ms(own.kafka, name, START_MS + 2, streamed=True) is None
