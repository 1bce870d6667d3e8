"""Finding what a person names: a topic, a market, a range of time; and the newest records of a topic, decoded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

from aiokafka.structs import ConsumerRecord
from faust.cli import option

from clients.kafka.reader import TopicReader
from config.settings import Settings
from marketdata.codec import decode
from marketdata.errors import DecodeError, InvalidValueError
from marketdata.records import RECORDS, Record
from marketdata.times import from_rfc3339
from marketdata.topics import TOPICS, TopicRole

R = TypeVar("R", bound=Record)

FROM_OPTION = option("--from", "since", metavar="TIME", help="Not before; RFC 3339, such as 2024-08-05T00:00:00Z.")
TO_OPTION = option("--to", "until", metavar="TIME", help="Before this; RFC 3339.")


@dataclass(frozen=True, slots=True)
class Span:
    """Times of [from, to) in ms; None: open on that side."""

    from_ms: int | None
    to_ms: int | None

    @classmethod
    def parse(cls, since: str | None, until: str | None) -> Self:
        """The span of `--from` and `--to`.

        Raises:
            InvalidValueError: one is no time, or the span is empty.
        """
        from_ms = None if since is None else from_rfc3339(since, "--from")
        to_ms = None if until is None else from_rfc3339(until, "--to")
        if from_ms is not None and to_ms is not None and to_ms <= from_ms:
            raise InvalidValueError("--to", until, f"a time after --from ({since})")
        return cls(from_ms, to_ms)

    @property
    def is_open(self) -> bool:
        """Whether it holds every time."""
        return self.from_ms is None and self.to_ms is None

    def holds(self, ms: int) -> bool:
        return (self.from_ms is None or ms >= self.from_ms) and (self.to_ms is None or ms < self.to_ms)

    def meets(self, from_ms: int, to_ms: int) -> bool:
        """Whether it has times of [from, to)."""
        return (self.from_ms is None or to_ms > self.from_ms) and (self.to_ms is None or from_ms < self.to_ms)


def find_role(settings: Settings, text: str, *others: str) -> TopicRole:
    """What a topic is for, from its role (`ticks_clean`), its plain or its deployed name; `others` may be named too.

    Raises:
        InvalidValueError: no topic is called that.
    """
    for role in TopicRole:
        if text in {role.value, role.value.replace("_", "-"), TOPICS[role].name, settings.topic(role).name}:
            return role
    known = ", ".join([*(settings.topic(role).name for role in TopicRole), *others])
    raise InvalidValueError("topic", text, f"one of {known}")


def record_of(role: TopicRole) -> type[Record]:
    """What stands on the topic of a role."""
    return RECORDS[TOPICS[role].record]


def find_market(settings: Settings, text: str) -> str:
    """A market's symbol; upper and lower case are one.

    Raises:
        InvalidValueError: it is not collected.
    """
    if text.upper() not in settings.markets:
        raise InvalidValueError("market", text, f"one of {', '.join(settings.markets)}")
    return text.upper()


async def newest(
    settings: Settings,
    role: TopicRole,
    cls: type[R],
    tail: int | None,
    keep: Callable[[R], bool] = lambda _record: True,
) -> list[R]:
    """The records among the last `tail` of each partition (None: all) that `keep` wants, in the order of their arrival.

    Records that cannot be decoded are passed over: they are other people's, and the agents tell of them.
    """
    async with TopicReader(settings.kafka, settings.topic(role).name) as reader:
        froms, ends = await reader.tails(tail)
        found = [(raw.timestamp, record) async for raw, record in reader.decoded(cls, froms, ends) if keep(record)]
    found.sort(key=lambda item: item[0])
    return [record for _at, record in found]


def decoded(cls: type[R], raw: ConsumerRecord) -> R | None:
    """The record, or None when it is not one."""
    try:
        return decode(cls, raw.value)
    except DecodeError:
        return None
