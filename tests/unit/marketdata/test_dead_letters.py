"""Dead letters: any of them fits a Kafka record, and states what was cut."""

import base64
import hashlib
import json

import pytest

from marketdata.bounds import MAX_RECORD_BYTES
from marketdata.codec import decode, encode
from marketdata.dead_letters import KEY_LIMIT, PAYLOAD_LIMIT, dead_letter_key, to_dead_letter
from marketdata.errors import DecodeError
from marketdata.records import DeadLetter, Tick
from marketdata.vocabulary import Reason

NOW_MS = 1_722_816_000_000
LONG = 700_000


def letter_of(value: bytes, key: bytes | None) -> DeadLetter:
    with pytest.raises(DecodeError) as caught:
        decode(Tick, value)
    error = caught.value
    position = {"topic": "cryptoTopic", "partition": 1, "offset": 7}
    return to_dead_letter(error, error.reason, NOW_MS, key=key, value=value, **position)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [None, b"BTC-USD", b"\0" * 400_000, b"\xff" * 400_000, '"\\€'.encode() * 100_000])
@pytest.mark.parametrize(
    "value",
    [
        json.dumps({"x" * LONG: 1}).encode(),
        json.dumps({"symbol": "\0" * 150_000, "schema_version": 1}).encode(),
        b'{"symbol":1,"a":"\xff"}',
        b'{"symbol":' + b"[" * 100_000,
        b'{"symbol":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"n_trades":' + b"9" * 5_000 + b"}",
        b"\xff" * 1_000_000,
    ],
)
def test_any_dead_letter_fits_a_record_and_identifies_the_original(value: bytes, key: bytes | None) -> None:
    letter = letter_of(value, key)
    payload = encode(letter)
    sent = dead_letter_key(key)
    assert len(payload) + len(sent or b"") < MAX_RECORD_BYTES
    assert decode(DeadLetter, payload) == letter
    assert (letter.topic, letter.partition, letter.offset) == ("cryptoTopic", 1, 7)
    assert base64.b64decode(letter.payload) == value[:PAYLOAD_LIMIT]
    cut = {name: data for name, data in (("key", key), ("payload", value)) if name in letter.cut and data is not None}
    assert cut.keys() == {
        name
        for name, data, limit in (("key", key, KEY_LIMIT), ("payload", value, PAYLOAD_LIMIT))
        if len(data or b"") > limit
    }
    for name, data in cut.items():
        assert letter.cut[name] == f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()[:16]}"
    assert (sent == key) == ("key" not in letter.cut)


def test_a_long_field_is_shortened_with_its_length_and_hash() -> None:
    letter = letter_of(json.dumps({"x" * LONG: 1}).encode(), b"BTC-USD")
    digest = hashlib.sha256(b"x" * LONG).hexdigest()[:16]
    assert letter.reason == Reason.UNKNOWN_FIELD
    assert letter.field == f"{'x' * 200}… ({LONG} characters, sha256 {digest})"
    assert letter.value == "1"
