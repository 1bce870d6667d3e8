"""The partition of a key, and waiting for topics through an outage of the broker."""

import pytest
from aiokafka.errors import KafkaConnectionError

from clients.kafka import topics
from clients.kafka.topics import partition_of, wait_for_topics
from config.sections import KafkaSettings
from marketdata.errors import BrokerError


@pytest.mark.parametrize(
    ("key", "of_three", "of_six"),
    [
        # murmur2 of the keys by Kafka's own UtilsTest: -973932308, -790332482, -58897971
        (b"21", 0, 0),
        (b"foobar", 0, 0),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", 2, 5),
    ],
)
def test_a_key_goes_where_kafkas_java_client_sends_it(key: bytes, of_three: int, of_six: int) -> None:
    assert partition_of(key, range(3)) == of_three
    assert partition_of(key, range(6)) == of_six


@pytest.mark.parametrize(
    ("script", "wait_s", "expected"),
    [
        ([KafkaConnectionError("away"), {"a": [0]}, {"a": [0], "b": [0, 1]}], 30.0, None),
        ([KafkaConnectionError("away")], 0.0, "kafka.brokers: x:1: no broker answers: KafkaConnectionError: away"),
        ([{"a": [0]}], 0.0, "topic b: does not exist; create it with `faust -A streams topics create`"),
    ],
)
async def test_topics_are_waited_for_until_the_deadline(
    monkeypatch: pytest.MonkeyPatch, script: list[Exception | dict[str, list[int]]], wait_s: float, expected: str | None
) -> None:
    async def nothing(*_args: object, **_options: object) -> None:
        """Neither connect nor close."""

    async def partitions_of(*_args: object) -> dict[str, list[int]]:
        answer = script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(topics, "connect", nothing)
    monkeypatch.setattr(topics, "close_client", nothing)
    monkeypatch.setattr(topics, "partitions_of", partitions_of)
    monkeypatch.setattr(topics, "RETRY_S", 0.001)
    waiting = wait_for_topics(KafkaSettings(brokers="x:1"), ["a", "b"], wait_s)
    if expected is None:
        assert await waiting == {"a": [0], "b": [0, 1]}
        assert script == []
    else:
        with pytest.raises(BrokerError) as raised:
            await waiting
        assert str(raised.value) == expected
