"""Which originals of dead letters their readers would refuse again."""

import random

import pytest
from aiokafka.structs import TopicPartition

from marketdata.codec import encode
from marketdata.times import MINUTE_MS, from_rfc3339
from marketdata.topics import TopicRole
from streams.commands.republish import _Original, _refused
from tests.support.spark import random_candle, random_tick

AT_MS = from_rfc3339("2024-08-05T12:00:00Z")


@pytest.mark.parametrize("role", [TopicRole.TICKS_CLEAN, TopicRole.CANDLES])
@pytest.mark.parametrize(("key", "reason"), [(b"BTC-USD", None), (b"ETH-USD", "key"), (None, "key")])
def test_a_record_whose_key_is_not_its_symbol_is_still_bad(
    role: TopicRole, key: bytes | None, reason: str | None
) -> None:
    make = random_candle if role is TopicRole.CANDLES else random_tick
    value = encode(make(random.Random(1), "BTC-USD", AT_MS))
    error = _refused(_Original("id", TopicPartition("topic", 0), key, value), role, AT_MS + MINUTE_MS)
    assert (None if error is None else error.reason) == reason
