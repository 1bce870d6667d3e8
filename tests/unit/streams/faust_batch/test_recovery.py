"""A local table that its changelog does not contain is set aside and rebuilt, and stored offsets are checked."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from config import load_settings
from streams.application import build_app
from streams.faust_batch.consumer_thread import missing_topics
from streams.faust_batch.driver import BatchConsumer
from streams.faust_batch.recovery import BatchRecovery
from streams.faust_batch.table import KEPT_ASIDE, BatchTable, rename_aside
from streams.kafka.delivered_offsets import DeliveredOffsets
from streams.worker.clock import WorkerClock


class Offsets:
    """The offsets of every partition, as a consumer reports them."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end

    async def highwaters(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, self.end)

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, self.start)


@pytest.fixture(params=["rocksdb", "memory"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BatchTable]:
    settings = load_settings()
    streams = settings.streams.model_copy(update={"data_dir": tmp_path, "store": request.param})
    settings = settings.model_copy(update={"streams": streams})
    app = build_app(settings, WorkerClock.from_settings(settings))
    tables: Any = app.tables
    yield tables["clean"]
    tables["clean"].data._dbs.clear() if request.param == "rocksdb" else None


def stored(table: BatchTable, offsets: dict[int, int]) -> BatchRecovery:
    """Return a recovery after an assignment of the partitions, with these offsets in the local copy."""
    tables: Any = table.app.tables
    recovery = BatchRecovery(table.app, tables)
    for partition, offset in offsets.items():
        tp = TP(table.changelog_topic_name, partition)
        if table.in_memory:
            recovery.active_offsets[tp] = offset  # since an earlier recovery of this process
            table.data.data[b"BTC-USD"] = b"state"
        else:
            table.data.set_persisted_offset(tp, offset)
        recovery.add_active(table, tp)
    return recovery


async def build(recovery: BatchRecovery, start: int, end: int) -> dict[int, int]:
    consumer: Any = Offsets(start, end)
    await recovery._build_offsets(consumer, recovery.active_tps, recovery.active_offsets, "active")
    return {tp.partition: offset for tp, offset in recovery.active_offsets.items()}


@pytest.mark.parametrize("end", [0, 1, 35])
async def test_a_local_copy_ahead_of_its_changelog_is_set_aside(
    table: BatchTable, end: int, caplog: pytest.LogCaptureFixture
) -> None:
    recovery = stored(table, {0: 35})
    assert await build(recovery, 0, end) == {0: -1}
    (warning,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    text = warning.getMessage()
    assert "table clean, partition 0: the local copy is at offset 35" in text
    assert f"{table.changelog_topic_name} has the offsets 0 to {end} (exclusive)" in text
    if table.in_memory:
        assert not table.data.data
    else:
        aside = table.data.partition_path(0)
        aside = aside.with_name(f"{aside.name}.aside-1")
        assert aside.is_dir()
        assert str(aside) in text
        assert table.data.persisted_offset(TP(table.changelog_topic_name, 0)) is None


async def test_a_local_copy_within_its_changelog_is_kept(table: BatchTable, caplog: pytest.LogCaptureFixture) -> None:
    assert await build(stored(table, {0: 35}), 0, 36) == {0: 35}
    assert not caplog.records


async def test_one_partition_ahead_leaves_the_files_of_the_others(table: BatchTable) -> None:
    recovery = stored(table, {0: 10, 1: 35})
    # Memory is shared by the partitions, so all of them are read again.
    assert await build(recovery, 0, 20) == ({0: -1, 1: -1} if table.in_memory else {0: 10, 1: -1})


def test_a_bounded_number_of_copies_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "clean-0.db"
    for number in range(KEPT_ASIDE + 2):
        folder.mkdir()
        (folder / "number").write_text(str(number))
        assert rename_aside(folder) == tmp_path / "clean-0.db.aside-1"
    kept = {path.name: (path / "number").read_text() for path in tmp_path.iterdir()}
    assert kept == {f"clean-0.db.aside-{n}": str(KEPT_ASIDE + 2 - n) for n in range(1, KEPT_ASIDE + 1)}


async def test_a_step_without_an_answer_does_not_count_as_done(table: BatchTable) -> None:
    """Faust continues after a timeout as if the step had succeeded; `recovery_watch` ends the worker instead."""
    recovery = stored(table, {0: 35})
    answer = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(recovery._wait(answer, timeout=0.01))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    answer.set_result(None)
    await waiting


@pytest.mark.parametrize(
    ("offset", "exists", "reason"),
    [(5, True, ""), (40, True, ""), (41, False, "it was recreated"), (4, False, "1 records were deleted before")],
)
def test_a_committed_offset_outside_its_topic_is_named(
    offset: int, exists: bool, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    consumer: Any = type("Consumer", (), {"log": logging.getLogger("test")})()
    assert BatchConsumer._exists(consumer, TP("cryptoTopic", 2), offset, 5, 40) is exists
    found = [one.getMessage() for one in caplog.records]
    if exists:
        assert found == []
    else:
        assert f"cryptoTopic: partition 2: the committed offset {offset} is outside" in found[0]
        assert reason in found[0]
        assert found[0].endswith("reading from 5")


def test_a_stored_source_offset_beyond_the_topic_is_not_trusted_and_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    delivered = DeliveredOffsets(load_settings().kafka, "cryptoTopic", "ticks-clean")
    delivered._ends = {0: 10}
    assert [delivered.trusted(0, offset) for offset in (9, 10, 5_000)] == [9, -1, -1]
    (warning,) = caplog.records
    assert "cryptoTopic: partition 0 ended at 10" in warning.getMessage()
    delivered.forget()
    assert not delivered.known(0)


def test_subscribed_topics_that_the_brokers_do_not_have_are_named() -> None:
    partitions = {"a": {0, 1}, "b": None, "c": set()}
    cluster = SimpleNamespace(partitions_for_topic=partitions.get)
    consumer = SimpleNamespace(subscription=lambda: frozenset("cba"), _client=SimpleNamespace(cluster=cluster))
    assert missing_topics(consumer) == "b, c"
    consumer.subscription = lambda: frozenset("a")
    assert missing_topics(consumer) is None
