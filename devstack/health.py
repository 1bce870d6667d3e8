"""Health checks of the stack's parts. Each returns None for a healthy part, otherwise a short reason."""

import asyncio
import logging
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
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


async def _get(url: str, **params: str) -> httpx.Response | str:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
            return await client.get(url, params=params)
    except httpx.TransportError as error:
        return "does not listen" if isinstance(error, httpx.ConnectError) else type(error).__name__


async def http_problem(url: str) -> str | None:
    """Every response except a server error (5xx) is healthy."""
    response = await _get(url)
    if isinstance(response, str):
        return response
    return f"HTTP {response.status_code}" if response.is_server_error else None


async def hdfs_problem(webhdfs: str) -> str | None:
    """The NameNode is healthy if, by its JMX page, it has left safe mode and has a live DataNode with disks."""
    response = await _get(f"{webhdfs}/jmx", qry="Hadoop:service=NameNode,name=FSNamesystemState")
    if isinstance(response, str):
        return response
    try:
        beans = response.json()["beans"]
    except (ValueError, KeyError):
        return f"HTTP {response.status_code}"
    if not beans:
        return "is starting"
    if beans[0]["FSState"] != "Operational":
        return f"state {beans[0]['FSState']}"
    if beans[0]["NumLiveDataNodes"] == 0:
        return "no live DataNode"
    # A registered DataNode accepts blocks only after the heartbeat that reports its disks.
    return None if beans[0]["CapacityTotal"] > 0 else "no DataNode reported its disks yet"


async def webhdfs_problem(webhdfs: str) -> str | None:
    """WebHDFS is healthy if it lists the root folder."""
    response = await _get(f"{webhdfs}/webhdfs/v1/", op="LISTSTATUS")
    if isinstance(response, str):
        return response
    return None if response.is_success else f"HTTP {response.status_code}"
