"""Build the dead letter of a refused record; the record of republished dead letters."""

import base64
from typing import Literal

from msgspec import Struct

from marketdata.errors import InvalidValueError, digest, shorten
from marketdata.records import DeadLetter
from marketdata.times import to_rfc3339

PAYLOAD_LIMIT = 350_000
"""Bytes of the original in a dead letter; base64 of more would exceed a record batch. The original is not deleted."""
KEY_LIMIT = 1_000
"""Bytes of the original's key in a dead letter, and of the dead letter's own key."""

REPUBLISH_TOPIC = "{}-republished"
"""The name of the topic of republish records, from that of the dead letters."""
REPUBLISH_CONFIG = {"cleanup.policy": "compact"}
"""Unlimited retention: a republish record must outlive its dead letter."""


class RepublishRecord(Struct, frozen=True, kw_only=True):
    """The state of a dead letter that is being republished (`begun`) or has been (`sent`).

    letter: the dead letter's id, which is the key.
    topic and partition: the target of the original. offset: the end of the partition before sending (`begun`), or the
    offset of the republished record (`sent`).
    """

    letter: str
    state: Literal["begun", "sent"]
    topic: str
    partition: int
    offset: int


def to_dead_letter(
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
    """Return the dead letter of one refused record.

    Args:
        error: the cause; an `InvalidValueError` supplies field, value and expectation.
        reason: the reason code.
        now_ms: event time of the refusal.
        topic: the topic of the record.
        partition: its partition.
        offset: its offset.
        key: its key.
        value: its original bytes.
    """
    named = isinstance(error, InvalidValueError)
    text = None if key is None else key[:KEY_LIMIT].decode(errors="replace")
    originals = (("key", key, KEY_LIMIT), ("payload", value, PAYLOAD_LIMIT))
    return DeadLetter(
        symbol=text or "",
        refused_at=to_rfc3339(now_ms),
        reason=reason,
        field=error.field if named else "payload",  # type: ignore[attr-defined]  # `named`: it has these attributes
        value=error.value if named else shorten(repr(error)),  # type: ignore[attr-defined]
        expected=error.expected if named else "a record that can be processed",  # type: ignore[attr-defined]
        topic=topic,
        partition=partition,
        offset=offset,
        key=text,
        payload=base64.b64encode((value or b"")[:PAYLOAD_LIMIT]).decode(),
        cut={name: _size(data) for name, data, limit in originals if data is not None and len(data) > limit},
    )


def dead_letter_key(key: bytes | None) -> bytes | None:
    """Return the record key of a dead letter: that of the original; a longer one is cut and gets its hash."""
    if key is None or len(key) <= KEY_LIMIT:
        return key
    return key[:KEY_LIMIT] + f"… ({_size(key)})".encode()


def _size(data: bytes) -> str:
    return f"{len(data)} bytes, sha256 {digest(data)}"
