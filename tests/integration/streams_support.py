"""What the tests of the streams worker share: feeding a topic, reading it to its end, running the worker."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord

from config import Settings
from marketdata.codec import decode
from marketdata.records import Record
from marketdata.topics import TopicRole
from streams.kafka import client_options
from streams.reading import TopicReader
from tests.stack import Program, environment_of, running

R = TypeVar("R", bound=Record)

FAUST = [sys.executable, "-m", "faust", "-A", "streams"]
STOP_S = 5.0


def without_exchanges(settings: Settings) -> Settings:
    """A worker that only works on what is on its topics."""
    return settings.model_copy(
        update={
            "binance": settings.binance.model_copy(update={"enabled": False}),
            "coingecko": settings.coingecko.model_copy(update={"enabled": False}),
            "clock": settings.clock.model_copy(update={"source": "system"}),
            "streams": settings.streams.model_copy(update={"poll_interval_s": 86_400.0}),
        }
    )


@contextmanager
def worker(settings: Settings, log: Path, stop_s: float = STOP_S) -> Iterator[Program]:
    """`faust -A streams worker` for as long as the context lasts."""
    with running([*FAUST, "worker", "-l", "info"], log, environment_of(settings), stop_s=stop_s) as program:
        yield program


async def send(settings: Settings, role: TopicRole, items: Sequence[tuple[bytes | None, bytes | None]]) -> None:
    """Deliver records, in order within a partition."""
    producer = AIOKafkaProducer(**client_options(settings.kafka), enable_idempotence=True)
    await producer.start()
    try:
        for key, value in items:
            await producer.send(settings.topic(role).name, value=value, key=key)
    finally:
        await producer.stop()


async def everything(settings: Settings, role: TopicRole) -> list[ConsumerRecord]:
    """Every record that is on a topic now."""
    async with TopicReader(settings.kafka, settings.topic(role).name) as reader:
        froms, ends = await reader.tails(None)
        return [record async for record in reader.between(froms, ends)]


async def decoded(settings: Settings, role: TopicRole, cls: type[R]) -> list[R]:
    """The same, decoded."""
    return [decode(cls, record.value) for record in await everything(settings, role)]
