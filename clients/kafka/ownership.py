"""Which of several running programs owns a partition or a task, by the membership of a consumer group."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from clients.kafka.connection import GRACEFUL_CLOSE_S, client_options, close_client, connect
from clients.kafka.topics import partition_of, wait_for_topics
from config.sections import KafkaSettings
from marketdata.errors import ConfigurationError

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


@asynccontextmanager
async def only_member(kafka: KafkaSettings, topic: str, group: str, wait_s: float) -> AsyncIterator[None]:
    """Hold a group alone while the context lasts: a run that cannot be shared, such as a command's.

    A program joins first and then counts the members, so of several that start at once at most one continues. Kafka
    removes a killed program from the group after 15 s.

    Raises:
        BrokerError: no broker answers, or the topic does not exist, within `wait_s`.
        ConfigurationError: the group has another member.
    """
    membership = await PartitionOwnership.join(kafka, topic, group, wait_s)
    try:
        admin = await connect(kafka, lambda: AIOKafkaAdminClient(**client_options(kafka)))
        try:
            (description,) = await admin.describe_consumer_groups([group])
        finally:
            await close_client(admin)
        members = [member for _, _, _, _, _, members, *_ in description.groups for member in members]
        if len(members) > 1:
            hosts = ", ".join(sorted({f"{member[1]} at {member[2].lstrip('/')}" for member in members}))
            raise ConfigurationError(
                f"group: {group}: expected no other member, because only one run is allowed at a time; members: {hosts}"
            )
        yield
    finally:
        await membership.leave()
