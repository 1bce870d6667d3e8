"""A refused record's letter to the dead-letter topic, alike for every room, and the notes of those sent back. Pure."""

import base64
from typing import Literal

from msgspec import Struct

from marketdata.errors import InvalidValueError
from marketdata.records import DeadLetter
from marketdata.times import to_rfc3339

PAYLOAD_LIMIT = 350_000
"""Bytes; base64 of more would not fit into a record batch. The original stays where it lay."""

REPUBLISH_TOPIC = "{}-republished"
"""The topic of the notes, by that of the letters."""
REPUBLISH_CONFIG = {"cleanup.policy": "compact"}
"""For ever, for a letter must not outlive its note."""


class RepublishRecord(Struct, frozen=True, kw_only=True):
    """What is known of a letter that was sent back, or is about to be.

    letter: its id, which is the key.
    offset: the partition's end before it was sent (`begun`), or where it lies (`sent`).
    """

    letter: str
    state: Literal["begun", "sent"]
    topic: str
    partition: int
    offset: int


def letter_of(
    error: Exception,
    reason: str,
    now_ms: int,
    *,
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
) -> DeadLetter:
    """The letter of one refused record.

    Args:
        error: why it is refused; an `InvalidValueError` names field, value and what was expected.
        reason: its code.
        now_ms: event time.
        topic: where the record lies, and so for `partition` and `offset`.
        partition: see `topic`.
        offset: see `topic`.
        key: of the record.
        value: its original bytes.
    """
    named = isinstance(error, InvalidValueError)
    text = None if key is None else key.decode(errors="replace")
    return DeadLetter(
        symbol=text or "",
        refused_at=to_rfc3339(now_ms),
        reason=reason,
        field=error.field if named else "payload",  # type: ignore[attr-defined]  # `named` says so
        value=error.value if named else repr(error),  # type: ignore[attr-defined]
        expected=error.expected if named else "a record that can be processed",  # type: ignore[attr-defined]
        topic=topic,
        partition=partition,
        offset=offset,
        key=text,
        payload=base64.b64encode((value or b"")[:PAYLOAD_LIMIT]).decode(),
    )
