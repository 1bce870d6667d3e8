"""Publishing records from a command: when `flush` returns, they are on all replicas."""

import asyncio
from collections.abc import Sequence
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata

from clients.kafka.connection import close_client, start_producer
from config.sections import KafkaSettings
from marketdata.errors import ConfigurationError
from streams.kafka.records import OutgoingRecord

_LINGER_MS = 5
_MAX_BATCH = 256 << 10  # bytes


class Sender:
    """An idempotent producer whose sends wait for all replicas. An async context manager."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._producer: AIOKafkaProducer
        self._waiting: list[tuple[str, asyncio.Future[RecordMetadata]]] = []

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            BrokerError: no broker answers.
        """
        self._producer = await start_producer(self._kafka, linger_ms=_LINGER_MS, max_batch_size=_MAX_BATCH)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await close_client(self._producer)

    async def send(self, topic: str, item: OutgoingRecord, partition: int | None = None) -> None:
        """Queue one record; its key chooses the partition if none is given.

        Raises:
            ConfigurationError: the record is too large, or its partition does not exist.
        """
        key, value, headers = item
        try:
            sent = await self._producer.send(topic, value=value, key=key, partition=partition, headers=list(headers))
        except (KafkaError, ValueError) as error:
            raise ConfigurationError(f"topic {topic}: not delivered: {error!r}") from error
        self._waiting.append((topic, sent))

    async def flush(self) -> list[RecordMetadata]:
        """Wait for the records sent since the last call; their partitions and offsets, in the order of sending.

        Raises:
            ConfigurationError: one was not delivered.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            await asyncio.wait([sent for _topic, sent in waiting])
        for topic, sent in waiting:
            if error := sent.exception():
                raise ConfigurationError(f"topic {topic}: not delivered: {error!r}") from error
        return [sent.result() for _topic, sent in waiting]

    async def publish(self, topic: str, items: Sequence[OutgoingRecord]) -> None:
        """Send records to the partitions of their keys, and wait until all are delivered."""
        for item in items:
            await self.send(topic, item)
        await self.flush()
