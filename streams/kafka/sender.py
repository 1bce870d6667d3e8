"""Delivering records from a command: what `flush` returned for is on the brokers, on all replicas."""

import asyncio
from collections.abc import Sequence
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata

from clients.kafka.connection import client_options, close_client
from config.sections import KafkaSettings
from marketdata.errors import ConfigurationError
from streams.kafka.records import OutgoingRecord

_LINGER_MS = 5
_MAX_BATCH = 256 << 10  # bytes


class Sender:
    """An idempotent producer that waits for all replicas. An async context manager."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._producer = AIOKafkaProducer(
            **client_options(kafka),
            acks="all",
            enable_idempotence=True,
            linger_ms=_LINGER_MS,
            max_batch_size=_MAX_BATCH,
        )
        self._brokers = kafka.brokers
        self._waiting: list[tuple[str, asyncio.Future[RecordMetadata]]] = []

    async def __aenter__(self) -> Self:
        try:
            await self._producer.start()
        except (KafkaError, OSError) as error:
            await close_client(self._producer)
            raise ConfigurationError(f"kafka.brokers: {self._brokers}: no broker answers: {error}") from error
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await close_client(self._producer)

    async def send(self, topic: str, item: OutgoingRecord, partition: int | None = None) -> None:
        """Hand one record over; its key chooses the partition where none is given.

        Raises:
            ConfigurationError: the broker takes no such record.
        """
        key, value, headers = item
        try:
            sent = await self._producer.send(topic, value=value, key=key, partition=partition, headers=list(headers))
        except (KafkaError, ValueError) as error:  # aiokafka's own: too large, no such partition
            raise ConfigurationError(f"topic {topic}: not delivered: {error!r}") from error
        self._waiting.append((topic, sent))

    async def flush(self) -> list[RecordMetadata]:
        """Wait for what was sent since the last call; where each record lies, in order.

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
        """Deliver records to the partitions of their keys."""
        for item in items:
            await self.send(topic, item)
        await self.flush()
