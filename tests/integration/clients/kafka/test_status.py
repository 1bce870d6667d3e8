"""Statuses of parts on a real Kafka: changes at once, periodic reports, last reports."""

import asyncio

from clients.kafka.status import StatusPublisher
from config import Settings
from marketdata.records import PartStatus
from marketdata.topics import TopicRole
from marketdata.vocabulary import Activity, ProductPart
from streams.kafka import topics
from tests.support.stack import eventually_async
from tests.support.streams_worker import decoded


async def test_statuses_reach_the_topic(settings: Settings) -> None:
    await topics.ensure(settings)

    async def states(part: ProductPart) -> list[tuple[str, str | None]]:
        found = await decoded(settings, TopicRole.PART_STATUS, PartStatus)
        return [(status.state, status.reason) for status in found if status.part == part]

    async def has(part: ProductPart, *expected: tuple[str, str | None]) -> bool:
        return (await states(part))[-len(expected) :] == [*expected]

    with StatusPublisher(settings, every_s=0.4) as publisher:
        raw, trainer = publisher.part(ProductPart.RAW), publisher.part(ProductPart.TRAINER, "BTC-USD")
        raw.waiting("HDFS")
        repeated = [(Activity.WAITING, "HDFS")] * 3
        await eventually_async(lambda: has(ProductPart.RAW, *repeated), 10.0, "a report every 0.4 s")
        raw.running()
        await eventually_async(lambda: has(ProductPart.RAW, (Activity.RUNNING, None)), 5.0, "the change")
        trainer.end(Activity.DONE, "trained")
        await eventually_async(lambda: has(ProductPart.TRAINER, (Activity.DONE, "trained")), 5.0, "the end")
        n_reports = len(await states(ProductPart.TRAINER))
        await asyncio.sleep(0.9)
    assert len(await states(ProductPart.TRAINER)) == n_reports  # nothing follows the last report
    assert await has(ProductPart.RAW, (Activity.STOPPED, None))
