"""Dead letters: what was refused, with its original bytes, where it lay, and why."""

import base64

from aiokafka.structs import ConsumerRecord

from marketdata.errors import InvalidValueError
from marketdata.records import DeadLetter
from marketdata.times import to_rfc3339

PAYLOAD_LIMIT = 350_000  # bytes; base64 of more would not fit into a record batch. The original stays where it lay.
UNEXPECTED_REASON = "unexpected"


def dead_letter(record: ConsumerRecord, error: Exception, reason: str, now_ms: int) -> DeadLetter:
    """The letter for one refused record; `now_ms` is event time."""
    named = isinstance(error, InvalidValueError)
    key = None if record.key is None else record.key.decode(errors="replace")
    return DeadLetter(
        symbol=key or "",
        refused_at=to_rfc3339(now_ms),
        reason=reason,
        field=error.field if named else "payload",  # type: ignore[attr-defined]  # `named` says so
        value=error.value if named else repr(error),  # type: ignore[attr-defined]
        expected=error.expected if named else "a record that can be processed",  # type: ignore[attr-defined]
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=key,
        payload=base64.b64encode((record.value or b"")[:PAYLOAD_LIMIT]).decode(),
    )
