"""The command `replay`: a range of a topic, or of HDFS's raw_data, into a topic that held nothing before.

The copy is made of stored bytes and their order alone: no clock is read, so a worker on it computes what it would have
computed then. A target that ever held a record is refused: what is replayed must not mix with what is there.
"""

import asyncio
import json
import re
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import click
from aiokafka.structs import RecordMetadata, TopicPartition
from faust.cli import argument, option

from clients.kafka.reader import TopicReader
from config.settings import Settings
from marketdata.codec import encode
from marketdata.errors import InvalidValueError
from marketdata.records import event_time_ms
from marketdata.times import to_rfc3339
from marketdata.topics import TOPICS, TopicRole
from streams.commands.arguments import FROM_OPTION, TO_OPTION, Span, decoded, find_role, record_of
from streams.commands.command import JSON_OPTION, Progress, StreamsCommand
from streams.kafka.delivered_offsets import HEADER
from streams.kafka.records import OutgoingRecord
from streams.kafka.sender import Sender
from streams.kafka.topics import TopicAdmin, TopicPolicy

RAW_DATA = "raw_data"
EVENT, ARRIVAL = "event", "arrival"

_FLUSH_EVERY = 2_000  # records
_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_OFFSETS = re.compile(r"(\d+):(\d*):(\d*)")


@dataclass(slots=True)
class Copied:
    """What a replay came to.

    untimed: records that were left out because they cannot be decoded and so have no event time. first_ms, last_ms: the
    event times that were met, chosen or not; None where none was looked at.
    """

    delivered: int = 0
    left_out: int = 0
    untimed: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    partitions: dict[int, int] = field(default_factory=dict)

    def met(self, ms: int) -> None:
        """An event time was looked at."""
        self.first_ms = ms if self.first_ms is None else min(self.first_ms, ms)
        self.last_ms = ms if self.last_ms is None else max(self.last_ms, ms)


@dataclass(frozen=True, slots=True)
class Source:
    """What is copied: `records` gives the partition to keep (None: the key chooses) and the record.

    asked: the range in the user's words.
    """

    name: str
    asked: str
    role: TopicRole
    partitions: int
    records: AsyncIterator[tuple[int | None, OutgoingRecord]]


class replay(StreamsCommand):  # noqa: N801  Faust names a command by its class
    """Copy a range of a topic, or of raw_data on HDFS, into a fresh topic.

    SOURCE is a topic or `raw_data`, TARGET a topic that does not exist or never held a record. A worker with the prefix
    PREFIX reads what was replayed to PREFIXcryptoTopic.
    """

    options = [  # noqa: RUF012  Faust's name and type
        argument("source"),
        argument("target"),
        FROM_OPTION,
        TO_OPTION,
        option("--by", type=click.Choice([EVENT, ARRIVAL]), default=EVENT, help="Whose time --from and --to are."),
        option(
            "--offsets",
            "offsets",
            multiple=True,
            metavar="PARTITION:FROM:TO",
            help="Offsets of one partition, TO not included; may be repeated. Other partitions are left out then.",
        ),
        JSON_OPTION,
    ]

    async def run(
        self,
        source: str,
        target: str,
        *,
        since: str | None,
        until: str | None,
        by: str,
        offsets: tuple[str, ...],
        as_json: bool,
    ) -> None:
        settings = self.settings
        span = Span.parse(since, until)
        if _TOPIC_NAME.fullmatch(target) is None or target in {".", ".."}:
            raise InvalidValueError("target", target, "a topic's name: up to 249 of A-Z a-z 0-9 . _ -")
        if source in {RAW_DATA, RAW_DATA.replace("_", "-")}:
            if offsets or by != EVENT:
                what, value = ("--offsets", " ".join(offsets)) if offsets else ("--by", by)
                raise InvalidValueError(what, value, f"none with {RAW_DATA}, which has event times alone")
            copied, role = await self._from_hdfs(target, span), TopicRole.TICKS
        else:
            role = find_role(settings, source, RAW_DATA)
            copied = await self._from_topic(role, target, span, by, offsets)
        words = worker_words(settings, role, target)
        if as_json or self.json:
            self.lines(
                [
                    {
                        "source": source,
                        "target": target,
                        "delivered": copied.delivered,
                        "left_out": copied.left_out,
                        "untimed": copied.untimed,
                        "partitions": copied.partitions,
                        "worker": words,
                    }
                ]
            )
            return
        spread = ", ".join(f"{count} in {partition}" for partition, count in sorted(copied.partitions.items()))
        self.stdout.write(f"{copied.delivered} records are on {target} ({spread}); {copied.left_out} left out\n")
        if copied.untimed:
            self.stdout.write(
                f"{copied.untimed} of those cannot be decoded and so have no event time; --by {ARRIVAL} takes them\n"
            )
        if words is not None:
            self.stdout.write(f"a worker of its own on it: {words} faust -A streams worker -l info\n")

    async def _from_hdfs(self, target: str, span: Span) -> Copied:
        from streams.commands.raw_data import RawData  # pyarrow: nothing for a worker to load

        settings = self.settings
        stored = RawData(settings.hdfs)
        hours = await asyncio.to_thread(stored.hours, span)
        copied = Copied()
        progress = Progress("hours replayed", len(hours))

        async def records() -> AsyncIterator[tuple[int | None, OutgoingRecord]]:
            for hour in hours:
                for tick in await asyncio.to_thread(stored.ticks, hour, span):
                    copied.met(tick.timestamp_ms)
                    yield None, (tick.symbol.encode(), encode(tick), ())
                progress.step()

        chosen = Source(stored.folder, _asked(span), TopicRole.TICKS, settings.kafka.partitions, records())
        await self._copy(chosen, target, copied)
        progress.end()
        return copied

    async def _from_topic(self, role: TopicRole, target: str, span: Span, by: str, offsets: tuple[str, ...]) -> Copied:
        settings = self.settings
        name, cls = settings.topic(role).name, record_of(role)
        if name == target:
            raise InvalidValueError("target", target, "another topic than the source")
        copied = Copied()
        async with TopicReader(settings.kafka, name) as reader:
            froms, ends = await _range(reader, offsets)
            if by == ARRIVAL:
                froms, ends = await _arrived(reader, span, froms, ends)
            progress = Progress("records read", sum(max(ends[tp] - froms[tp], 0) for tp in froms))
            chosen = Span(None, None) if by == ARRIVAL else span

            async def records() -> AsyncIterator[tuple[int | None, OutgoingRecord]]:
                async for raw in reader.between(froms, ends):
                    progress.step()
                    if raw.key is None and raw.value is None:  # aiokafka sends no such record, and none means anything
                        copied.left_out += 1
                        continue
                    if not chosen.is_open:
                        record = decoded(cls, raw)
                        if record is None:
                            copied.untimed += 1
                            copied.left_out += 1
                            continue
                        copied.met(event_time_ms(record))
                        if not chosen.holds(event_time_ms(record)):
                            copied.left_out += 1
                            continue
                    # Where an output's source lay means nothing beside another source.
                    headers = tuple((key, value) for key, value in raw.headers if key != HEADER)
                    yield raw.partition, (raw.key, raw.value, headers)

            asked = _asked(span, by, *offsets)
            await self._copy(Source(name, asked, role, len(reader.partitions), records()), target, copied)
            progress.end()
        return copied

    async def _copy(self, source: Source, target: str, copied: Copied) -> None:
        settings = self.settings
        topic = settings.topic(source.role)
        policy = TopicPolicy(target, source.partitions, topic.replication_factor, topic.config)
        await _refuse_used(settings, policy)
        sent = 0
        try:
            async with Sender(settings.kafka) as sender:
                async for partition, item in source.records:
                    if not sent:
                        async with TopicAdmin(settings.kafka) as admin:
                            await admin.create([policy])
                    await sender.send(target, item, partition)
                    sent += 1
                    if sent % _FLUSH_EVERY == 0:
                        _count(copied, await sender.flush())
                _count(copied, await sender.flush())
        except BaseException:
            if sent:
                sys.stderr.write(
                    f"replay: {target} is incomplete: {copied.delivered} records or more are on it; "
                    "replay into another topic\n"
                )
            raise
        if not sent:
            raise InvalidValueError("range", source.asked, f"one in which {source.name} has records{_met(copied)}")


def _count(copied: Copied, delivered: Sequence[RecordMetadata]) -> None:
    copied.delivered += len(delivered)
    for one in delivered:
        copied.partitions[one.partition] = copied.partitions.get(one.partition, 0) + 1


def _asked(span: Span, by: str = EVENT, *offsets: str) -> str:
    sides = ["…" if ms is None else to_rfc3339(ms) for ms in (span.from_ms, span.to_ms)]
    return " ".join([*offsets, *([] if span.is_open else [f"{sides[0]} to {sides[1]} by {by}"])]) or "all"


def _met(copied: Copied) -> str:
    if copied.first_ms is None or copied.last_ms is None:
        return ""
    return f"; its event times are {to_rfc3339(copied.first_ms)} to {to_rfc3339(copied.last_ms)}"


async def _range(
    reader: TopicReader, offsets: tuple[str, ...]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Where each partition begins and ends, as `--offsets` says; all of the topic without.

    Raises:
        InvalidValueError: one is not PARTITION:FROM:TO, or not on the topic.
    """
    starts, ends = await reader.starts(), await reader.ends()
    if not offsets:
        return starts, ends
    froms: dict[TopicPartition, int] = {}
    tos: dict[TopicPartition, int] = {}
    for text in offsets:
        match = _OFFSETS.fullmatch(text)
        if match is None:
            raise InvalidValueError("--offsets", text, "PARTITION:FROM:TO, such as 0:100:200, 0:100: or 0::200")
        tp = TopicPartition(reader.topic, int(match.group(1)))
        if tp not in starts or tp in froms:
            raise InvalidValueError("--offsets", text, f"each partition once, of 0 to {len(starts) - 1}")
        froms[tp] = int(match.group(2)) if match.group(2) else starts[tp]
        tos[tp] = int(match.group(3)) if match.group(3) else ends[tp]
        if not starts[tp] <= froms[tp] < tos[tp] <= ends[tp]:
            expected = f"a range within {starts[tp]}:{ends[tp]}, which partition {tp.partition} holds"
            raise InvalidValueError("--offsets", text, expected)
    return froms, tos


async def _arrived(
    reader: TopicReader, span: Span, froms: dict[TopicPartition, int], ends: dict[TopicPartition, int]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """The part of a range of offsets that arrived within a span."""
    if span.from_ms is not None:
        first = await reader.arrived(span.from_ms)
        froms = {tp: max(offset, first[tp]) for tp, offset in froms.items()}
    if span.to_ms is not None:
        after = await reader.arrived(span.to_ms)
        ends = {tp: min(offset, after[tp]) for tp, offset in ends.items()}
    return froms, ends


async def _refuse_used(settings: Settings, policy: TopicPolicy) -> None:
    """Refuse a target that held records or is not what would be created.

    Raises:
        InvalidValueError: it is.
    """
    async with TopicAdmin(settings.kafka) as admin:
        drift = await admin.drift([policy])
    if any(one.actual is None for one in drift):
        return
    if drift:
        raise InvalidValueError("target", policy.name, f"one to be created, or like the source ({drift[0].text})")
    async with TopicReader(settings.kafka, policy.name) as reader:
        held = sum((await reader.ends()).values())
    if held:
        raise InvalidValueError("target", policy.name, f"a topic that never held a record; this one held {held}")


def worker_words(settings: Settings, role: TopicRole, target: str) -> str | None:
    """The variables with which a worker of its own reads `target`, None where workers read no such topic.

    The exchanges are not asked, and outputs go to topics, tables and a folder of its own.
    """
    cls = record_of(role)
    for wanted in (TopicRole.TICKS, TopicRole.TICKS_CLEAN):
        plain = settings.topics.names.get(wanted, TOPICS[wanted].name)
        if record_of(wanted) is cls and target.endswith(plain):
            prefix = target.removesuffix(plain)
            if prefix != settings.topics.prefix:
                return _words(settings, prefix.rstrip("-._") or "replay", {"BDI_TOPICS__PREFIX": prefix})
    if role not in {TopicRole.TICKS, TopicRole.TICKS_CLEAN}:
        return None
    names = {one.value: f"{target}-{TOPICS[one].name}" for one in TopicRole} | {role.value: target}
    return _words(settings, target, {"BDI_TOPICS__PREFIX": "", "BDI_TOPICS__NAMES": json.dumps(names)})


def _words(settings: Settings, name: str, topics: dict[str, str]) -> str:
    variables = {
        **topics,
        "BDI_STREAMS__APP_ID": name,
        "BDI_STREAMS__DATA_DIR": f".state/{name}",
        "BDI_STREAMS__WEB_PORT": str(settings.streams.web_port + 1),
        "BDI_CLOCK__SOURCE": "system",
        "BDI_BINANCE__ENABLED": "false",
        "BDI_COINGECKO__ENABLED": "false",
    }
    return " ".join(f"{key}={shlex.quote(value)}" for key, value in variables.items())
