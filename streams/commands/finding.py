"""Finding a topic by what a person calls it, and the newest records on it, decoded."""

from collections.abc import Callable
from typing import TypeVar

from aiokafka.structs import ConsumerRecord

from config.settings import Settings
from marketdata.codec import decode
from marketdata.errors import DecodeError, InvalidValueError
from marketdata.records import RECORDS, Record
from marketdata.topics import TOPICS, TopicRole
from streams.reading import TopicReader

R = TypeVar("R", bound=Record)


def find_topic(settings: Settings, text: str) -> tuple[str, type[Record]]:
    """A topic's name here and its record, from its role (`ticks_clean`), its plain or its deployed name.

    Raises:
        InvalidValueError: no topic is called that.
    """
    for role in TopicRole:
        name = settings.topic(role).name
        if text in {role.value, role.value.replace("_", "-"), TOPICS[role].name, name}:
            return name, RECORDS[TOPICS[role].record]
    known = ", ".join(settings.topic(role).name for role in TopicRole)
    raise InvalidValueError("topic", text, f"one of {known}")


async def newest(
    settings: Settings, role: TopicRole, cls: type[R], tail: int, keep: Callable[[R], bool] = lambda _record: True
) -> list[R]:
    """The records among the last `tail` of each partition that `keep` wants, in the order of their arrival.

    Records that cannot be decoded are passed over: they are other people's, and the agents tell of them.
    """
    found: list[tuple[int, R]] = []
    async with TopicReader(settings.kafka, settings.topic(role).name) as reader:
        froms, ends = await reader.tails(tail)
        async for raw in reader.between(froms, ends):
            record = decoded(cls, raw)
            if record is not None and keep(record):
                found.append((raw.timestamp, record))
    found.sort(key=lambda item: item[0])
    return [record for _at, record in found]


def decoded(cls: type[R], raw: ConsumerRecord) -> R | None:
    """The record, or None when it is not one."""
    try:
        return decode(cls, raw.value)
    except DecodeError:
        return None
