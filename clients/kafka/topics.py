"""Partitions of topics: waiting until topics exist, and the partition that a key goes to."""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from clients.kafka.connection import GRACEFUL_CLOSE_S, RETRY_S, client_options, close_client, connect, no_broker
from config.sections import KafkaSettings
from marketdata.errors import BrokerError

log = logging.getLogger(__name__)


def partition_of(key: bytes, numbers: Sequence[int]) -> int:
    """The partition, out of a topic's sorted partition numbers, to which producers send records with this key."""
    return int(DefaultPartitioner()(key, numbers, numbers))


async def partitions_of(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> dict[str, list[int]]:
    """Topic to its sorted partition numbers; topics that do not exist are missing."""
    return {
        found["topic"]: sorted(int(part["partition"]) for part in found["partitions"])
        for found in await admin.describe_topics([*topics])
        if not found["error_code"] and found["partitions"]
    }


async def wait_for_topics(
    kafka: KafkaSettings, topics: Sequence[str], wait_s: float, *, close_s: float = GRACEFUL_CLOSE_S
) -> dict[str, list[int]]:
    """Wait until topics exist; topic to its sorted partition numbers.

    With `wait_s` 0 there is one attempt.

    Raises:
        BrokerError: no broker answers, or a topic does not exist, within `wait_s`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    admin = await connect(kafka, lambda: AIOKafkaAdminClient(**client_options(kafka)), wait_s=wait_s, close_s=close_s)
    logged = False
    try:
        while True:
            try:
                found = await partitions_of(admin, topics)
            except (KafkaError, OSError) as error:
                if loop.time() >= deadline:
                    raise no_broker(kafka, wait_s, error) from error
            else:
                missing = ", ".join(topic for topic in topics if topic not in found)
                if not missing:
                    return found
                if loop.time() >= deadline:
                    after = f" after {wait_s:g} s" if wait_s else ""
                    create = "create it with `faust -A streams topics create`"
                    raise BrokerError(f"topic {missing}: does not exist{after}; {create}")
                if not logged:
                    log.info("waiting for topic %s", missing)
                    logged = True
            await asyncio.sleep(RETRY_S)
    finally:
        await close_client(admin, close_s)
