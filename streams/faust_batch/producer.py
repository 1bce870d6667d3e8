"""Faust's producer extended to send many records in few record batches.

Names with an underscore belong to Faust and aiokafka (see `streams.faust_batch.driver`).
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, Protocol

from aiokafka.structs import RecordMetadata
from faust.transport.drivers import aiokafka as driver

from streams.kafka.records import OutgoingRecord


class _OnSent(Protocol):
    def __call__(self, metadata: RecordMetadata, count: int) -> None: ...


class BatchProducer(driver.Producer):
    """Faust's producer with `send_many`. Idempotent: the broker drops the duplicates of a retry."""

    logger = logging.getLogger("faust.batching")  # Faust's messages about this service appear under Faust's name
    send_error: BaseException | None = None
    buffer_messages = 5_000  # Faust's default warns at 100 waiting messages

    async def on_start(self) -> None:
        await super().on_start()
        self.buffer.max_messages = self.buffer_messages

    def _settings_extra(self) -> Mapping[str, Any]:
        return {**super()._settings_extra(), "acks": "all", "enable_idempotence": True}

    async def send_many(
        self, topic: str, partition: int, records: Iterable[OutgoingRecord], on_sent: _OnSent | None = None
    ) -> list["asyncio.Future[RecordMetadata]"]:
        """Send records in order, in as few record batches as they fit into.

        Args:
            topic: its name.
            partition: one of its partitions.
            records: key, value and headers of each.
            on_sent: called with the metadata of each delivered record batch and the number of its records.

        Returns:
            One future per record batch. `flush` and a commit of offsets wait for them. When one fails, no further
            offset is committed and the application stops.

        Raises:
            ValueError: a record is larger than a record batch may be.
        """
        app: Any = self.app
        app.stall_watchdog.check()
        producer = self._ensure_producer()
        futures: list[asyncio.Future[RecordMetadata]] = []
        batch, count = producer.create_batch(), 0
        for key, value, headers in records:
            while batch.append(key=key, value=value, timestamp=None, headers=list(headers)) is None:
                if not count:
                    raise ValueError(f"{topic}: a record of {len(value or b'')} bytes is larger than a record batch")
                futures.append(await self._send_batch(producer, batch, topic, partition, count, on_sent))
                batch, count = producer.create_batch(), 0
            count += 1
        if count:
            futures.append(await self._send_batch(producer, batch, topic, partition, count, on_sent))
        return futures

    async def _send_batch(
        self, producer: Any, batch: Any, topic: str, partition: int, count: int, on_sent: _OnSent | None
    ) -> "asyncio.Future[RecordMetadata]":
        future: asyncio.Future[RecordMetadata] = await producer.send_batch(batch, topic, partition=partition)

        def done(sent: "asyncio.Future[RecordMetadata]") -> None:
            error = None if sent.cancelled() else sent.exception()
            if error is not None:
                self.send_error = error
                self.add_future(self.app.crash(error))
            elif on_sent is not None and not sent.cancelled():
                on_sent(sent.result(), count)

        future.add_done_callback(done)
        return future

    async def publish(self, topic: str, records: Iterable[OutgoingRecord]) -> None:
        """Send records to the partitions of their keys, and wait until all are delivered."""
        by_partition: defaultdict[int, list[OutgoingRecord]] = defaultdict(list)
        for record in records:
            by_partition[self.key_partition(topic, record[0] or b"").partition].append(record)
        futures: list[Awaitable[RecordMetadata]] = []
        for partition, group in by_partition.items():
            futures += await self.send_many(topic, partition, group)
        await asyncio.gather(*futures)
