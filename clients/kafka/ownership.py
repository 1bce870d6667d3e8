"""Which of several running programs owns a partition, by the membership of a consumer group."""

from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition

from clients.kafka.connection import GRACEFUL_CLOSE_S, client_options, close_client, connect
from clients.kafka.topics import partition_of, wait_for_topics
from config.sections import KafkaSettings

_SESSION_TIMEOUT_MS = 15_000
_NO_POLL_LIMIT_MS = 2**31 - 1


class PartitionOwnership:
    """The partitions of a topic that Kafka assigned to this program; no record is read.

    A killed program loses its partitions to another member of the group after 15 s.
    """

    def __init__(self, consumer: AIOKafkaConsumer, topic: str, numbers: list[int], close_s: float) -> None:
        self._consumer = consumer
        self._topic = topic
        self._numbers = numbers
        self._close_s = close_s

    @classmethod
    async def join(
        cls, kafka: KafkaSettings, topic: str, group: str, wait_s: float, *, close_s: float = GRACEFUL_CLOSE_S
    ) -> Self:
        """Join the group and wait for the first assignment; the caller leaves it.

        Raises:
            BrokerError: no broker answers, or the topic does not exist, within `wait_s`.
        """
        numbers = (await wait_for_topics(kafka, [topic], wait_s, close_s=close_s))[topic]
        consumer = await connect(
            kafka,
            lambda: AIOKafkaConsumer(
                topic,
                **client_options(kafka),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="latest",
                session_timeout_ms=_SESSION_TIMEOUT_MS,
                rebalance_timeout_ms=_SESSION_TIMEOUT_MS,
                max_poll_interval_ms=_NO_POLL_LIMIT_MS,  # it never polls; its heartbeats keep the membership
            ),
            wait_s=wait_s,
            close_s=close_s,
        )
        return cls(consumer, topic, numbers, close_s)

    def owns(self, key: bytes) -> bool:
        """Whether the partition of this key is assigned to this program now."""
        return TopicPartition(self._topic, partition_of(key, self._numbers)) in self._consumer.assignment()

    async def leave(self) -> None:
        """Leave the group, so that another member takes over at once."""
        await close_client(self._consumer, self._close_s)
