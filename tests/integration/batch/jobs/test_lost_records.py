"""`raw` on topics that do not have the next records any more: one line, and a command that continues knowingly."""

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition
from pyspark.sql import SparkSession

from batch.hdfs.store import open_store
from batch.jobs.gaps import find_gaps
from batch.jobs.stream import run_stream
from batch.jobs.verify import Verifier
from clients.kafka.connection import client_options
from clients.webhdfs import WebHdfs, connect
from config import Settings
from marketdata.errors import StorageError
from marketdata.records import Candle, Tick
from marketdata.times import MINUTE_MS
from marketdata.topics import TopicRole
from tests.integration.batch.jobs.test_stream import START_MS, assert_each_once, hourly, records
from tests.support.kafka_records import make_topics, publish
from tests.support.spark import session
from tests.support.stack import StackUnderTest

NOW_MS = START_MS + 1_000 * MINUTE_MS
COMMAND = "python -m batch raw --from-earliest-available"


@pytest.fixture(scope="module")
def spark(stack: StackUnderTest) -> Iterator[SparkSession]:
    with session(stack.settings) as spark:
        yield spark


def one_market(seed: int, from_minute: int, to_minute: int) -> tuple[list[Tick], list[Candle]]:
    """Ticks and candles of one market, and therefore of one partition."""
    ticks, candles = records(seed, from_minute, to_minute)
    return [one for one in ticks if one.symbol == "BTC-USD"], [one for one in candles if one.symbol == "BTC-USD"]


def stream(spark: SparkSession, settings: Settings, *, from_earliest: bool = False) -> None:
    """`python -m batch raw --once`, within this process."""
    run_stream(
        spark,
        open_store(spark, settings),
        settings,
        once=True,
        hourly=True,
        from_earliest=from_earliest,
        stopped=lambda: False,
        now_ms=lambda: NOW_MS,
    )


async def delete(settings: Settings, before: int | None) -> None:
    """Delete the records of the ticks' only partition before an offset, as retention does; None: delete the topic."""
    topic = settings.topic(TopicRole.TICKS_CLEAN).name
    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    await admin.start()
    try:
        if before is not None:
            await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before)})
            return
        await admin.delete_topics([topic])
        async with asyncio.timeout(20):
            while topic in await admin.list_topics():  # noqa: ASYNC110  brokers send no event
                await asyncio.sleep(0.05)
    finally:
        await admin.close()


def test_lost_records_are_named_and_skipped_only_knowingly(spark: SparkSession, settings: Settings) -> None:
    own = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"partitions": 1})})
    make_topics(own)
    topic = own.topic(TopicRole.TICKS_CLEAN).name
    hdfs = WebHdfs(own.hdfs)
    first, first_candles = one_market(1, 0, 60)
    publish(own, [*first, *first_candles])
    stream(spark, own)

    # Retention deletes the ticks of two hours before they are stored, the candles remain.
    late, late_candles = one_market(2, 60, 250)
    kept = [one for one in late if one.timestamp_ms >= START_MS + 180 * MINUTE_MS]
    publish(own, [*late, *late_candles])
    n_first, n_all, start = len(first), len(first) + len(late), len(first) + len(late) - len(kept)
    asyncio.run(delete(own, start))
    with pytest.raises(StorageError) as refused:
        stream(spark, own)
    assert str(refused.value) == (
        f"{topic}, partition 0: wanted offset {n_first}, available {start} to {n_all}: {start - n_first} records were "
        f"deleted. Nothing was changed. To continue without these records, and record the loss: {COMMAND}"
    )
    assert_each_once(own, first)

    stream(spark, own, from_earliest=True)
    assert_each_once(own, [*first, *kept])
    hours = {(at - START_MS) // (60 * MINUTE_MS): row["basis"] for (_symbol, at), row in hourly(own).items()}
    assert hours == {0: "ticks", 1: "candles_1m", 2: "candles_1m", 3: "ticks"}  # candles fill the lost hours
    report = Verifier(hdfs, own).run()
    assert (report.problems, len(report.lost)) == ([], 1)
    lost = f"lost {topic}, partition 0: {start - n_first} records, offsets {n_first} to {start}, skipped 20"
    assert any(line.startswith(lost) for line in report.lines())
    assert any(line.startswith(lost) for line in find_gaps(hdfs, own).lines())
    assert "raw.aside-1" in connect(own.hdfs).list(own.hdfs.checkpoints)
    stream(spark, own)  # the new checkpoint continues

    # The topic is recreated, and shorter than before.
    asyncio.run(delete(own, None))
    make_topics(own)
    again, _ = one_market(3, 300, 320)
    publish(own, again)
    with pytest.raises(StorageError, match=f"wanted offset {n_all}, available 0 to {len(again)}: the topic was recr"):
        stream(spark, own)
    stream(spark, own, from_earliest=True)
    assert_each_once(own, [*first, *kept, *again])
    assert [(one.from_offset, one.to_offset) for one in find_gaps(hdfs, own).lost] == [(n_first, start), (n_all, None)]
    stream(spark, own, from_earliest=True)  # nothing is lost: the option changes nothing
    assert len(find_gaps(hdfs, own).lost) == 2
