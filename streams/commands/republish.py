"""Sending dead letters' original bytes back to where they came from, each letter at most once.

What was sent is noted on a small compacted topic beside the dead letters (`dead-letters-republished`), one record a
letter: `begun`, with the end of its topic's partition, before it is sent; `sent`, with where it lies, afterwards. A
republished record names its letter in a header. So a run that died in between is made up for: the next one looks from
the noted end on whether the record is there. Two runs at the same moment know nothing of one another.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from aiokafka.structs import TopicPartition

from clients.kafka.reader import TopicReader
from config.settings import Settings
from marketdata import candle_rules
from marketdata.codec import decode
from marketdata.dead_letters import PAYLOAD_LIMIT, Note
from marketdata.errors import DecodeError
from marketdata.records import Candle, DeadLetter, Tick
from marketdata.topics import TopicRole
from streams.agents.cleaning import check
from streams.commands.command import Progress
from streams.kafka.sender import Sender
from streams.kafka.topics import TopicAdmin, notes_policy

HEADER = "dead-letter"
"""Of a republished record: the id of its letter."""

_AT_ONCE = 500  # letters between two notes
_LOST_CHARACTER = "\ufffd"


@dataclass(slots=True)
class Counts:
    """What became of the letters of one reason and field; `why_not` is the first cause of one that was not sent."""

    sent: int = 0
    still_bad: int = 0
    already_sent: int = 0
    not_restorable: int = 0
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class _Original:
    letter: str
    at: TopicPartition
    key: bytes | None
    value: bytes


def letter_id(letter: DeadLetter) -> str:
    """`topic-partition@offset` of the original and a hash of its bytes, for a topic may have been created anew."""
    digest = hashlib.sha256(letter.payload.encode()).hexdigest()[:12]
    return f"{letter.topic}-{letter.partition}@{letter.offset}#{digest}"


async def republish(
    settings: Settings, letters: Sequence[DeadLetter], now_ms: int, *, dry_run: bool, force: bool
) -> dict[tuple[str, str], Counts]:
    """Send back what would be accepted now.

    Args:
        settings: of this deployment.
        letters: those that were chosen; doubles are one.
        now_ms: event time, by which a tick is out of the future.
        dry_run: count only.
        force: send also what would be refused again.

    Returns:
        By reason and field, what was sent (or would be) and what was not.

    Raises:
        ConfigurationError: a broker does not answer or does not take a record.
    """
    distinct = {letter_id(letter): letter for letter in letters}
    sent = await _sent_before(settings, keep=not dry_run)
    latest_ms = now_ms + int(settings.streams.max_future_s * 1000)
    judged = _judged(settings)
    async with TopicAdmin(settings.kafka) as admin:
        partitions = await admin.partitions()
    counts: dict[tuple[str, str], Counts] = {}
    originals = []
    for name, letter in distinct.items():
        count = counts.setdefault((letter.reason, letter.field), Counts())
        if name in sent:
            count.already_sent += 1
            continue
        why_not = not_restorable(settings, letter, partitions.get(letter.topic, 0))
        if why_not is not None:
            count.not_restorable += 1
            count.why_not = count.why_not or why_not
            continue
        original = _original(name, letter)
        refused = _refused(original, judged[letter.topic], latest_ms)
        if refused is not None and not force:
            count.still_bad += 1
            count.why_not = count.why_not or str(refused)
            continue
        count.sent += 1
        originals.append(original)
    if not dry_run and originals:
        await _send(settings, originals)
    return dict(sorted(counts.items()))


def not_restorable(settings: Settings, letter: DeadLetter, partitions: int) -> str | None:
    """Why the original cannot go back to where it came from; None where it can.

    Args:
        settings: of this deployment.
        letter: tells what the original was.
        partitions: how many its topic has now, which may have been created anew.
    """
    known = _judged(settings)
    if letter.topic not in known:
        return f"topic: {letter.topic!r}: expected one of {', '.join(sorted(known))}"
    if not 0 <= letter.partition < partitions:
        return f"partition: {letter.partition}: expected one of the {partitions} that {letter.topic} has now"
    if letter.key is not None and _LOST_CHARACTER in letter.key:
        return f"key: {letter.key!r}: expected UTF-8"
    try:
        size = len(base64.b64decode(letter.payload, validate=True))
    except binascii.Error:
        return "payload: expected base64"
    if not 0 < size < PAYLOAD_LIMIT:
        return f"payload: {size} bytes: expected 1 to {PAYLOAD_LIMIT - 1}, for a longer one was cut"
    return None


def _original(name: str, letter: DeadLetter) -> _Original:
    return _Original(
        name,
        TopicPartition(letter.topic, letter.partition),
        None if letter.key is None else letter.key.encode(),
        base64.b64decode(letter.payload),
    )


def _judged(settings: Settings) -> dict[str, TopicRole]:
    """The topics whose records are refused."""
    return {settings.topic(role).name: role for role in (TopicRole.TICKS, TopicRole.TICKS_CLEAN, TopicRole.CANDLES)}


def _refused(original: _Original, role: TopicRole, latest_ms: int) -> DecodeError | None:
    """Why the reader of its topic would refuse it now."""
    try:
        if role is TopicRole.CANDLES:
            candle = decode(Candle, original.value)
            if candle.interval != "1m":
                raise DecodeError("value", "interval", candle.interval, "1m")  # noqa: TRY301  judged as the rest is
            candle_rules.check(candle, latest_ms)
        else:
            check(decode(Tick, original.value), original.key, latest_ms)
    except DecodeError as error:
        return error
    return None


async def _sent_before(settings: Settings, *, keep: bool) -> set[str]:
    """The letters that lie on their topic again; what a run that died left open is looked up, and noted if `keep`."""
    policy = notes_policy(settings)
    async with TopicAdmin(settings.kafka) as admin:
        if any(one.actual is None for one in await admin.drift([policy])):
            return set()
    notes: dict[str, Note] = {}
    decoder = msgspec.json.Decoder(Note)
    async with TopicReader(settings.kafka, policy.name) as reader:
        froms, ends = await reader.tails(None)
        async for record in reader.between(froms, ends):
            note = decoder.decode(record.value)
            notes[note.letter] = note
    begun = [note for note in notes.values() if note.state == "begun"]
    found = await _lying(settings, begun)
    if found and keep:
        async with Sender(settings.kafka) as sender:
            await _note(sender, policy.name, found)
    return {name for name, note in notes.items() if note.state == "sent"} | {note.letter for note in found}


async def _lying(settings: Settings, begun: Iterable[Note]) -> list[Note]:
    """Of the letters whose sending was begun, those that are there: a note of where."""
    froms: dict[TopicPartition, int] = {}
    for note in begun:
        tp = TopicPartition(note.topic, note.partition)
        froms[tp] = min(note.offset, froms.get(tp, note.offset))
    found: list[Note] = []
    for topic in {tp.topic for tp in froms}:
        async with TopicReader(settings.kafka, topic) as reader:
            starts, ends = await reader.starts(), await reader.ends()
            here = {tp: min(max(offset, starts[tp]), ends[tp]) for tp, offset in froms.items() if tp in starts}
            async for record in reader.between(here, ends):
                found += [
                    Note(letter=name, state="sent", topic=topic, partition=record.partition, offset=record.offset)
                    for name in _letters_in(record.headers)
                ]
    return found


def _letters_in(headers: Sequence[tuple[str, bytes]]) -> list[str]:
    return [value.decode() for key, value in headers if key == HEADER]


async def _send(settings: Settings, originals: Sequence[_Original]) -> None:
    policy = notes_policy(settings)
    async with TopicAdmin(settings.kafka) as admin:
        await admin.create([policy])
    progress = Progress("letters republished", len(originals))
    async with Sender(settings.kafka) as sender:
        for start in range(0, len(originals), _AT_ONCE):
            part = originals[start : start + _AT_ONCE]
            ends = await _ends(settings, {one.at.topic for one in part})
            await _note(
                sender,
                policy.name,
                [
                    Note(
                        letter=one.letter,
                        state="begun",
                        topic=one.at.topic,
                        partition=one.at.partition,
                        offset=ends[one.at],
                    )
                    for one in part
                ],
            )
            for one in part:
                item = (one.key, one.value, ((HEADER, one.letter.encode()),))
                await sender.send(one.at.topic, item, one.at.partition)
            lying = await sender.flush()
            await _note(
                sender,
                policy.name,
                [
                    Note(letter=one.letter, state="sent", topic=at.topic, partition=at.partition, offset=at.offset)
                    for one, at in zip(part, lying, strict=True)
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


async def _note(sender: Sender, topic: str, notes: Iterable[Note]) -> None:
    await sender.publish(topic, [(note.letter.encode(), msgspec.json.encode(note), ()) for note in notes])
