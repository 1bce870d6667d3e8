"""The partition of a key."""

import pytest

from clients.kafka.topics import partition_of


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
