"""The Faust names that the batch driver overrides exist in the pinned version."""

import importlib
from importlib.metadata import version

import pytest
from aiokafka import AIOKafkaConsumer

from streams.faust_batch.consumer_thread import BatchConsumerThread
from streams.faust_batch.driver import FAUST_VERSION, PINNED, BatchConsumer, RawBatchSchema
from streams.faust_batch.producer import BatchProducer
from streams.faust_batch.recovery import BatchRecovery, BatchTableManager
from streams.faust_batch.table import BatchTable

OURS = {
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread": BatchConsumerThread,
    "faust.transport.drivers.aiokafka.Consumer": BatchConsumer,
    "faust.transport.drivers.aiokafka.Producer": BatchProducer,
    "faust.tables.recovery.Recovery": BatchRecovery,
    "faust.tables.TableManager": BatchTableManager,
    "faust.tables.Table": BatchTable,
    "faust.serializers.schemas.Schema": RawBatchSchema,
}
PASSED_ON = {"__init__", "__module__", "__doc__", "__annotations__"}


def theirs(path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


def test_faust_has_the_pinned_version() -> None:
    assert version("faust-streaming") == FAUST_VERSION


@pytest.mark.parametrize("path", sorted(PINNED))
def test_every_pinned_name_exists(path: str) -> None:
    base = theirs(path)
    declared = vars(base).get("__annotations__", {})  # attributes that its __init__ sets
    missing = [name for name in PINNED[path] if not hasattr(base, name) and name not in declared]
    assert missing == []


@pytest.mark.parametrize("path", sorted(OURS))
def test_every_overridden_name_is_pinned(path: str) -> None:
    ours, base = OURS[path], theirs(path)
    overridden = {name for name, value in vars(ours).items() if callable(value) and hasattr(base, name)}
    assert overridden - PASSED_ON <= set(PINNED[path])


async def test_aiokafka_keeps_fetch_options_in_the_same_attributes() -> None:
    consumer = AIOKafkaConsumer(fetch_min_bytes=2, fetch_max_wait_ms=3)
    assert (consumer._fetch_min_bytes, consumer._fetch_max_wait_ms) == (2, 3)
