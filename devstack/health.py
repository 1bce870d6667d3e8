"""Health checks of the stack's parts. Each returns None for a healthy part, otherwise a short reason."""

import asyncio
import logging
from contextlib import suppress
from urllib.parse import urlsplit

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from clients.kafka.connection import client_options, close_client
from config.sections import KafkaSettings

_TIMEOUT_S = 3.0


def endpoint(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or of a URL with a port.

    Raises:
        ValueError: the address has no port.
    """
    parts = urlsplit(address if "//" in address else f"//{address}")
    if parts.hostname is None or parts.port is None:
        msg = f"{address!r}: expected host:port"
        raise ValueError(msg)
    return parts.hostname, parts.port


async def _connection_problem(address: str) -> str | None:
    host, port = endpoint(address)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _TIMEOUT_S)
    except (OSError, TimeoutError):
        return "does not listen"
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return None


async def kafka_problem(kafka: KafkaSettings) -> str | None:
    """Request the cluster's metadata from the first broker; it is healthy if the metadata names a broker.

    Raises:
        ConfigurationError: `kafka.ssl_cafile` cannot be read.
    """
    first = kafka.brokers.split(",", maxsplit=1)[0]
    problem = await _connection_problem(first)
    if problem is not None:
        return problem
    # A starting broker closes connections, which aiokafka logs as errors; the result below reports it.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    options = {**client_options(kafka), "bootstrap_servers": first}
    client = AIOKafkaClient(**options, request_timeout_ms=int(_TIMEOUT_S * 1000))
    try:
        await asyncio.wait_for(client.bootstrap(), _TIMEOUT_S)
        return None if client.cluster.brokers() else "no broker registered yet"
    except (KafkaError, OSError, TimeoutError) as error:
        return f"no metadata: {type(error).__name__}"
    finally:
        await close_client(client)
