"""Republish the original bytes of dead letters to their source topics, each dead letter at most once.

A small compacted topic (`dead-letters-republished`) records the state of each dead letter: `begun`, with the end offset
of its source partition, before it is sent; `sent`, with its new offset, afterwards. A republished record carries the id
of its dead letter in a header. After an interrupted run, the next run searches the partition from the recorded end
offset for that header. Concurrent runs are not coordinated.
"""

import base64
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from aiokafka.structs import ConsumerRecord, TopicPartition

from clients.kafka.ownership import only_member
from clients.kafka.reader import TopicReader
from config.settings import Settings
from marketdata import candle_rules
from marketdata.codec import decode
from marketdata.dead_letters import PAYLOAD_LIMIT, RepublishRecord
from marketdata.errors import DecodeError
from marketdata.records import Candle, DeadLetter, Tick
from marketdata.rules import check_key
from marketdata.topics import TopicRole
from marketdata.vocabulary import Reason
from streams.agents.cleaning import check
from streams.commands.command import Progress
from streams.kafka.sender import Sender
from streams.kafka.topics import TopicAdmin, republish_policy

HEADER = "dead-letter"
"""Header of a republished record; its value is the id of the dead letter."""

_JOIN_S = 30.0  # a killed run is a member for 15 s
_BATCH = 500  # dead letters between two updates of their states
_LOST_CHARACTER = "\ufffd"
_decoder = msgspec.json.Decoder(RepublishRecord)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """Outcome of the dead letters of one reason and field; `why_not` is the cause for the first one not sent."""

    sent: int = 0
    still_bad: int = 0
    already_sent: int = 0
    not_restorable: int = 0
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class _Original:
    dead_letter: str  # its id
    at: TopicPartition
    key: bytes | None
    value: bytes


def dead_letter_id(dead_letter: DeadLetter) -> str:
    """Return `topic-partition@offset#hash` of the original; the hash detects a recreated topic."""
    digest = hashlib.sha256(dead_letter.payload.encode()).hexdigest()[:12]
    return f"{dead_letter.topic}-{dead_letter.partition}@{dead_letter.offset}#{digest}"


async def republish(
    settings: Settings, dead_letters: Sequence[DeadLetter], now_ms: int, *, dry_run: bool, force: bool
) -> dict[tuple[str, str], Counts]:
    """Republish the dead letters that would be accepted now.

    Args:
        settings: of this deployment.
        dead_letters: those selected; duplicates are sent once.
        now_ms: event time, against which ticks ahead of the clock are refused.
        dry_run: only count.
        force: also send records that would be refused again.

    Returns:
        Counts of sent (or sendable) and other dead letters by reason and field.

    Raises:
        ConfigurationError: no broker answers, a record was not delivered, or another run is in progress.
    """
    if dry_run:
        return await _republish(settings, dead_letters, now_ms, dry_run=True, force=force)
    policy = republish_policy(settings)
    async with TopicAdmin(settings.kafka) as admin:
        await admin.create([policy])
    async with only_member(settings.kafka, policy.name, f"{settings.streams.app_id}-republish", _JOIN_S):
        return await _republish(settings, dead_letters, now_ms, dry_run=False, force=force)


async def _republish(
    settings: Settings, dead_letters: Sequence[DeadLetter], now_ms: int, *, dry_run: bool, force: bool
) -> dict[tuple[str, str], Counts]:
    distinct = {dead_letter_id(one): one for one in dead_letters}
    sent = await _sent_before(settings, keep=not dry_run)
    latest_ms = now_ms + int(settings.event_time.max_future_s * 1000)
    roles = refusable_topics(settings)
    async with TopicAdmin(settings.kafka) as admin:
        partitions = await admin.partitions()
    counts: dict[tuple[str, str], Counts] = {}
    originals = []
    for name, dead_letter in distinct.items():
        count = counts.setdefault((dead_letter.reason, dead_letter.field), Counts())
        if name in sent:
            count.already_sent += 1
            continue
        why_not = not_restorable(settings, dead_letter, partitions.get(dead_letter.topic, 0))
        if why_not is not None:
            count.not_restorable += 1
            count.why_not = count.why_not or why_not
            continue
        original = _original(name, dead_letter)
        refused = _refused(original, roles[dead_letter.topic], latest_ms)
        if refused is not None and not force:
            count.still_bad += 1
            count.why_not = count.why_not or str(refused)
            continue
        count.sent += 1
        originals.append(original)
    if not dry_run and originals:
        await _send(settings, originals)
    return dict(sorted(counts.items()))


def not_restorable(settings: Settings, dead_letter: DeadLetter, partitions: int) -> str | None:
    """Return why the original cannot be republished; None if it can.

    Args:
        settings: of this deployment.
        dead_letter: of the original.
        partitions: current number of partitions of its topic, which may have been recreated.
    """
    known = refusable_topics(settings)
    if dead_letter.topic not in known:
        return f"topic: {dead_letter.topic!r}: expected one of {', '.join(sorted(known))}"
    if not 0 <= dead_letter.partition < partitions:
        return f"partition: {dead_letter.partition}: expected one of the {partitions} partitions of {dead_letter.topic}"
    for name, size in sorted(dead_letter.cut.items()):
        return f"{name}: {size}: expected a shorter one, because it was truncated"
    if dead_letter.key is not None and _LOST_CHARACTER in dead_letter.key:
        return f"key: {dead_letter.key!r}: expected UTF-8"
    return _not_decodable(dead_letter)


def _not_decodable(dead_letter: DeadLetter) -> str | None:
    try:
        size = len(base64.b64decode(dead_letter.payload, validate=True))
    except ValueError:  # also a text that is not ASCII
        return "payload: expected base64"
    if not 0 < size < PAYLOAD_LIMIT:
        return f"payload: {size} bytes: expected 1 to {PAYLOAD_LIMIT - 1} (longer ones are truncated)"
    return None


def _original(name: str, dead_letter: DeadLetter) -> _Original:
    return _Original(
        name,
        TopicPartition(dead_letter.topic, dead_letter.partition),
        None if dead_letter.key is None else dead_letter.key.encode(),
        base64.b64decode(dead_letter.payload),
    )


def refusable_topics(settings: Settings) -> dict[str, TopicRole]:
    """Return the topics whose readers may refuse records, with their roles."""
    return {settings.topic(role).name: role for role in (TopicRole.TICKS, TopicRole.TICKS_CLEAN, TopicRole.CANDLES)}


def _refused(original: _Original, role: TopicRole, latest_ms: int) -> DecodeError | None:
    """Return why the reader of its topic would refuse it now; None if it would not."""
    try:
        if role is TopicRole.CANDLES:
            candle = decode(Candle, original.value)
            if candle.interval != "1m":
                raise DecodeError(Reason.VALUE, "interval", candle.interval, "1m")  # noqa: TRY301  handled like every other rule
            candle_rules.check(candle, latest_ms)
            check_key(original.key, candle.symbol)
        else:
            check(decode(Tick, original.value), original.key, latest_ms)
    except DecodeError as error:
        return error
    except Exception as error:
        log.exception("%s: unexpected error", original.dead_letter)
        return DecodeError(Reason.UNEXPECTED, "payload", original.value, f"a record that can be checked ({error!r})")
    return None


async def _sent_before(settings: Settings, *, keep: bool) -> set[str]:
    """Return the ids of republished dead letters.

    Dead letters of an interrupted run are searched on their topics; those found are recorded as sent if `keep`.
    """
    policy = republish_policy(settings)
    async with TopicAdmin(settings.kafka) as admin:
        if any(one.actual is None for one in await admin.drift([policy])):
            return set()
    states: dict[str, RepublishRecord] = {}
    async with TopicReader(settings.kafka, policy.name) as reader:
        froms, ends = await reader.tails(None)
        async for record in reader.between(froms, ends):
            state = _republish_record(record)
            if state is not None:
                states[state.letter] = state
    begun = [one for one in states.values() if one.state == "begun"]
    found_sent = await _find_sent(settings, begun)
    if found_sent and keep:
        async with Sender(settings.kafka) as sender:
            await _publish_states(sender, policy.name, found_sent)
    return {name for name, state in states.items() if state.state == "sent"} | {state.letter for state in found_sent}


def _republish_record(record: ConsumerRecord) -> RepublishRecord | None:
    """Decode a republish record; log and skip a record of another program."""
    try:
        return _decoder.decode(record.value or b"")
    except (ValueError, RecursionError) as error:
        log.warning("skipped %s-%d@%d: %s", record.topic, record.partition, record.offset, error)
        return None


async def _find_sent(settings: Settings, begun: Iterable[RepublishRecord]) -> list[RepublishRecord]:
    """Return the new state of those dead letters in state `begun` whose records are on their topics."""
    froms: dict[TopicPartition, int] = {}
    for one in begun:
        tp = TopicPartition(one.topic, one.partition)
        froms[tp] = min(one.offset, froms.get(tp, one.offset))
    found: list[RepublishRecord] = []
    for topic in {tp.topic for tp in froms}:
        async with TopicReader(settings.kafka, topic) as reader:
            starts, ends = await reader.starts(), await reader.ends()
            here = {tp: min(max(offset, starts[tp]), ends[tp]) for tp, offset in froms.items() if tp in starts}
            async for record in reader.between(here, ends):
                found += [
                    RepublishRecord(
                        letter=name, state="sent", topic=topic, partition=record.partition, offset=record.offset
                    )
                    for name in _ids_in(record.headers)
                ]
    return found


def _ids_in(headers: Sequence[tuple[str, bytes | None]]) -> list[str]:
    return [(value or b"").decode(errors="replace") for key, value in headers if key == HEADER]


async def _send(settings: Settings, originals: Sequence[_Original]) -> None:
    policy = republish_policy(settings)
    progress = Progress("dead letters republished", len(originals))
    async with Sender(settings.kafka) as sender:
        for start in range(0, len(originals), _BATCH):
            part = originals[start : start + _BATCH]
            ends = await _ends(settings, {one.at.topic for one in part})
            await _publish_states(
                sender,
                policy.name,
                [
                    RepublishRecord(
                        letter=one.dead_letter,
                        state="begun",
                        topic=one.at.topic,
                        partition=one.at.partition,
                        offset=ends[one.at],
                    )
                    for one in part
                ],
            )
            for one in part:
                record = (one.key, one.value, ((HEADER, one.dead_letter.encode()),))
                await sender.send(one.at.topic, record, one.at.partition)
            delivered = await sender.flush()
            await _publish_states(
                sender,
                policy.name,
                [
                    RepublishRecord(
                        letter=one.dead_letter, state="sent", topic=at.topic, partition=at.partition, offset=at.offset
                    )
                    for one, at in zip(part, delivered, strict=True)
                ],
            )
            progress.step(len(part))
    progress.end()


async def _ends(settings: Settings, topics: Iterable[str]) -> Mapping[TopicPartition, int]:
    found: dict[TopicPartition, int] = {}
    for topic in topics:
        async with TopicReader(settings.kafka, topic) as reader:
            found.update(await reader.ends())
    return found


async def _publish_states(sender: Sender, topic: str, states: Iterable[RepublishRecord]) -> None:
    await sender.publish(topic, [(one.letter.encode(), msgspec.json.encode(one), ()) for one in states])
