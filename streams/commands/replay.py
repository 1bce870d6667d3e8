"""The command `replay`: copy a range of a topic, or of raw_data on HDFS, into an empty topic.

The copy depends only on the stored bytes and their order, not on a clock, so a worker that reads it computes the same
results again. A target that ever held a record is refused, so that replayed records never mix with others.
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
from marketdata.errors import ArgumentError, InvalidValueError
from marketdata.printable import write_line
from marketdata.records import event_time_ms
from marketdata.times import to_rfc3339
from marketdata.topics import TOPICS, TopicRole
from streams.commands.arguments import FROM_OPTION, TO_OPTION, Span, decoded, find_role, record_of, role_of
from streams.commands.command import JSON_OPTION, Progress, StreamsCommand
from streams.kafka.records import SOURCE_OFFSET_HEADER, OutgoingRecord
from streams.kafka.sender import Sender
from streams.kafka.topics import TopicAdmin, TopicPolicy

RAW_DATA = "raw_data"
EVENT, ARRIVAL = "event", "arrival"

_FLUSH_EVERY = 2_000  # records
_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_OFFSETS = re.compile(r"([0-9]{1,9}):([0-9]{0,18}):([0-9]{0,18})")


@dataclass(slots=True)
class Copied:
    """The result of a replay.

    untimed: records left out because they cannot be decoded and so have no event time. first_ms, last_ms: the range of
    event times in the source, selected or not; None if none was decoded.
    """

    delivered: int = 0
    left_out: int = 0
    untimed: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    partitions: dict[int, int] = field(default_factory=dict)

    def extend_range(self, ms: int) -> None:
        """Extend the range of event times."""
        self.first_ms = ms if self.first_ms is None else min(self.first_ms, ms)
        self.last_ms = ms if self.last_ms is None else max(self.last_ms, ms)


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a replay.

    asked: the requested range, for messages. records: yields target partition (None: chosen by the key) and record.
    """

    name: str
    asked: str
    role: TopicRole
    partitions: int
    records: AsyncIterator[tuple[int | None, OutgoingRecord]]


class replay(StreamsCommand):  # noqa: N801  Faust derives the command name
    """Copy a range of a topic, or of raw_data on HDFS, into an empty topic.

    SOURCE is a topic or `raw_data`, TARGET a topic that does not exist or never held a record. Both may be a role, such
    as ticks_clean. A worker with the topic prefix PREFIX reads a replay to PREFIXcryptoTopic.
    """

    options = [  # noqa: RUF012  Faust's declaration
        argument("source"),
        argument("target"),
        FROM_OPTION,
        TO_OPTION,
        option("--by", type=click.Choice([EVENT, ARRIVAL]), default=EVENT, help="Time that --from and --to refer to."),
        option(
            "--offsets",
            "offsets",
            multiple=True,
            metavar="PARTITION:FROM:TO",
            help="Offsets of one partition, TO exclusive; repeatable. Excludes all other partitions.",
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
        named = role_of(settings, target)
        if named is not None:
            target = settings.topic(named).name
        if _TOPIC_NAME.fullmatch(target) is None or target in {".", ".."}:
            raise ArgumentError("target", target, "a topic name: up to 249 characters of A-Z a-z 0-9 . _ -")
        if source in {RAW_DATA, RAW_DATA.replace("_", "-")}:
            if offsets or by != EVENT:
                what, value = ("--offsets", " ".join(offsets)) if offsets else ("--by", by)
                raise ArgumentError(what, value, f"none with {RAW_DATA}, which only has event times")
            copied, role = await self._from_hdfs(target, span), TopicRole.TICKS
        else:
            role = find_role(settings, source, RAW_DATA)
            copied = await self._from_topic(role, target, span, by, offsets)
        variables = worker_variables(settings, role, target)
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
                        "worker": variables,
                    }
                ]
            )
            return
        spread = ", ".join(
            f"{count} in partition {partition}" for partition, count in sorted(copied.partitions.items())
        )
        self.line(f"{copied.delivered} records delivered to {target} ({spread}); {copied.left_out} left out")
        if copied.untimed:
            self.line(
                f"{copied.untimed} of those cannot be decoded and so have no event time; --by {ARRIVAL} includes them"
            )
        if variables is not None:
            self.line(f"run a worker on it: {variables} faust -A streams worker -l info")

    async def _from_hdfs(self, target: str, span: Span) -> Copied:
        from streams.commands.raw_data import RawData  # imports pyarrow, which a worker does not need

        settings = self.settings
        stored = RawData(settings.hdfs)
        hours = await asyncio.to_thread(stored.hours, span)
        copied = Copied()
        progress = Progress("hours replayed", len(hours))

        async def records() -> AsyncIterator[tuple[int | None, OutgoingRecord]]:
            for hour in hours:
                for tick in await asyncio.to_thread(stored.ticks, hour, span):
                    copied.extend_range(tick.timestamp_ms)
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
            raise ArgumentError("target", target, "another topic than the source")
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
                    if raw.key is None and raw.value is None:  # aiokafka cannot send it; it has no meaning
                        copied.left_out += 1
                        continue
                    if not chosen.is_open:
                        record = decoded(cls, raw)
                        if record is None:
                            copied.untimed += 1
                            copied.left_out += 1
                            continue
                        copied.extend_range(event_time_ms(record))
                        if not chosen.holds(event_time_ms(record)):
                            copied.left_out += 1
                            continue
                    # The source offset of an output is meaningless on another topic.
                    headers = tuple((key, value) for key, value in raw.headers if key != SOURCE_OFFSET_HEADER)
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
                write_line(
                    sys.stderr,
                    f"replay: {target} is incomplete: at least {copied.delivered} records were delivered; "
                    "replay into another topic",
                )
            raise
        if not sent:
            raise InvalidValueError(
                "range", source.asked, f"a range in which {source.name} has records{_event_range(copied)}"
            )


def _count(copied: Copied, delivered: Sequence[RecordMetadata]) -> None:
    copied.delivered += len(delivered)
    for one in delivered:
        copied.partitions[one.partition] = copied.partitions.get(one.partition, 0) + 1


def _asked(span: Span, by: str = EVENT, *offsets: str) -> str:
    sides = ["…" if ms is None else to_rfc3339(ms) for ms in (span.from_ms, span.to_ms)]
    return " ".join([*offsets, *([] if span.is_open else [f"{sides[0]} to {sides[1]} by {by}"])]) or "all"


def _event_range(copied: Copied) -> str:
    if copied.first_ms is None or copied.last_ms is None:
        return ""
    return f"; its event times: {to_rfc3339(copied.first_ms)} to {to_rfc3339(copied.last_ms)}"


async def _range(
    reader: TopicReader, offsets: tuple[str, ...]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Return the first and end offsets to copy per partition: those of `--offsets`, by default the whole topic.

    Raises:
        ArgumentError: an option is not PARTITION:FROM:TO, or not a range of the topic.
    """
    starts, ends = await reader.starts(), await reader.ends()
    if not offsets:
        return starts, ends
    froms: dict[TopicPartition, int] = {}
    tos: dict[TopicPartition, int] = {}
    for text in offsets:
        match = _OFFSETS.fullmatch(text)
        if match is None:
            raise ArgumentError("--offsets", text, "PARTITION:FROM:TO, such as 0:100:200, 0:100: or 0::200")
        tp = TopicPartition(reader.topic, int(match.group(1)))
        if tp not in starts or tp in froms:
            raise ArgumentError("--offsets", text, f"each partition at most once, from 0 to {len(starts) - 1}")
        froms[tp] = int(match.group(2)) if match.group(2) else starts[tp]
        tos[tp] = int(match.group(3)) if match.group(3) else ends[tp]
        if not starts[tp] <= froms[tp] < tos[tp] <= ends[tp]:
            expected = f"a rising range within {starts[tp]}:{ends[tp]}, the offsets of partition {tp.partition}"
            raise ArgumentError("--offsets", text, expected)
    return froms, tos


async def _arrived(
    reader: TopicReader, span: Span, froms: dict[TopicPartition, int], ends: dict[TopicPartition, int]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Limit a range of offsets to records that arrived within a span."""
    if span.from_ms is not None:
        first = await reader.arrived(span.from_ms)
        froms = {tp: max(offset, first[tp]) for tp, offset in froms.items()}
    if span.to_ms is not None:
        after = await reader.arrived(span.to_ms)
        ends = {tp: min(offset, after[tp]) for tp, offset in ends.items()}
    return froms, ends


async def _refuse_used(settings: Settings, policy: TopicPolicy) -> None:
    """Check that the target never held a record, and has the policy with which it would be created.

    Raises:
        InvalidValueError: the target is unusable.
    """
    async with TopicAdmin(settings.kafka) as admin:
        drift = await admin.drift([policy])
    if any(one.actual is None for one in drift):
        return
    if drift:
        raise InvalidValueError(
            "target", policy.name, f"a new topic, or one with the source's policy ({drift[0].text})"
        )
    async with TopicReader(settings.kafka, policy.name) as reader:
        held = sum((await reader.ends()).values())
    if held:
        raise InvalidValueError("target", policy.name, f"a topic that never held a record, but it held {held}")


def worker_variables(settings: Settings, role: TopicRole, target: str) -> str | None:
    """Return the environment variables of a separate worker that reads `target`; None if workers read no such topic.

    That worker polls no exchange, and has its own output topics, tables and data folder.
    """
    cls = record_of(role)
    for wanted in (TopicRole.TICKS, TopicRole.TICKS_CLEAN):
        default = settings.topics.names.get(wanted, TOPICS[wanted].name)
        if record_of(wanted) is cls and target.endswith(default):
            prefix = target.removesuffix(default)
            if prefix != settings.topics.prefix:
                return _variables(settings, prefix.rstrip("-._") or "replay", {"BDI_TOPICS__PREFIX": prefix})
    if role not in {TopicRole.TICKS, TopicRole.TICKS_CLEAN}:
        return None
    names = {one.value: f"{target}-{TOPICS[one].name}" for one in TopicRole} | {role.value: target}
    return _variables(settings, target, {"BDI_TOPICS__PREFIX": "", "BDI_TOPICS__NAMES": json.dumps(names)})


def _variables(settings: Settings, name: str, topics: dict[str, str]) -> str:
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
