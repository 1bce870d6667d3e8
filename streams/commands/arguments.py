"""Resolve command-line arguments (topic, market, time range), and read the newest records of a topic."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import click
from aiokafka.structs import ConsumerRecord
from faust.cli import option

from clients.kafka.reader import TopicReader, read_record
from config.settings import Settings
from marketdata.arguments import MAX_COUNT, time_range, whole_number
from marketdata.errors import ArgumentError
from marketdata.records import RECORDS, Record
from marketdata.topics import TOPICS, TopicRole

R = TypeVar("R", bound=Record)

FROM_OPTION = option("--from", "since", metavar="TIME", help="Start, inclusive; RFC 3339, e.g. 2024-08-05T00:00:00Z.")
TO_OPTION = option("--to", "until", metavar="TIME", help="End, exclusive; RFC 3339.")


class _Type(click.ParamType):
    """A type of `marketdata.arguments` for click."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a value; a default is not a text and is returned unchanged."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except argparse.ArgumentTypeError as error:
            self.fail(str(error), param, ctx)


COUNT = _Type("integer", whole_number(1, MAX_COUNT))
"""Type of options that limit the number of records."""


@dataclass(frozen=True, slots=True)
class Span:
    """The times [from_ms, to_ms); None: unbounded."""

    from_ms: int | None
    to_ms: int | None

    @classmethod
    def parse(cls, since: str | None, until: str | None) -> Self:
        """Parse `--from` and `--to`.

        Raises:
            ArgumentError: one is not a time of a record, or the span is empty.
        """
        return cls(*time_range(since, until))

    @property
    def is_open(self) -> bool:
        """Whether it is unbounded on both sides."""
        return self.from_ms is None and self.to_ms is None

    def holds(self, ms: int) -> bool:
        """Whether it contains a time."""
        return (self.from_ms is None or ms >= self.from_ms) and (self.to_ms is None or ms < self.to_ms)

    def meets(self, from_ms: int, to_ms: int) -> bool:
        """Whether it overlaps [from_ms, to_ms)."""
        return (self.from_ms is None or to_ms > self.from_ms) and (self.to_ms is None or from_ms < self.to_ms)


def role_of(settings: Settings, text: str) -> TopicRole | None:
    """Return the topic's role for its role name (`ticks_clean`), its default or its deployed name; None for others."""
    for role in TopicRole:
        if text in {role.value, role.value.replace("_", "-"), TOPICS[role].name, settings.topic(role).name}:
            return role
    return None


def find_role(settings: Settings, text: str, *others: str) -> TopicRole:
    """Return a topic's role from its role name (`ticks_clean`), its default or its deployed name.

    Args:
        settings: of this deployment.
        text: the argument.
        others: further valid names, for the error message.

    Raises:
        ArgumentError: no topic has this name.
    """
    role = role_of(settings, text)
    if role is not None:
        return role
    known = ", ".join([*(settings.topic(role).name for role in TopicRole), *others])
    raise ArgumentError("topic", text, f"one of {known}")


def record_of(role: TopicRole) -> type[Record]:
    """Return the record type of a role's topic."""
    return RECORDS[TOPICS[role].record]


async def newest(
    settings: Settings,
    role: TopicRole,
    cls: type[R],
    tail: int | None,
    keep: Callable[[R], bool] = lambda _record: True,
) -> list[R]:
    """Read the newest records of a topic, ordered by arrival; records that cannot be decoded are skipped.

    Args:
        settings: of this deployment.
        role: of the topic.
        cls: the record type.
        tail: records to read from the end of each partition; None: all.
        keep: returns whether to include a record.
    """
    async with TopicReader(settings.kafka, settings.topic(role).name) as reader:
        froms, ends = await reader.tails(tail)
        found = [(raw.timestamp, record) async for raw, record in reader.decoded(cls, froms, ends) if keep(record)]
    found.sort(key=lambda item: item[0])
    return [record for _at, record in found]


def decoded(cls: type[R], raw: ConsumerRecord) -> R | None:
    """Decode a record; return None if it is invalid."""
    return read_record(cls, raw)
