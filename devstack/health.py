"""Whether a part answers: each function gives None for a healthy part, else what is wrong, in a few words."""

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
        ValueError: there is no port.
    """
    parts = urlsplit(address if "//" in address else f"//{address}")
    if parts.hostname is None or parts.port is None:
        msg = f"{address!r}: expected host:port"
        raise ValueError(msg)
    return parts.hostname, parts.port


async def _refusal(address: str) -> str | None:
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
    """Asks the first broker for the cluster's metadata; it is healthy when that names a broker.

    Raises:
        ConfigurationError: the certificates to trust cannot be read.
    """
    first = kafka.brokers.split(",", maxsplit=1)[0]
    problem = await _refusal(first)
    if problem is not None:
        return problem
    # A broker that is still starting closes connections, which aiokafka logs as errors; the answer below tells it.
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
    """Any answer but a server error will do."""
    answer = await _get(url)
    if isinstance(answer, str):
        return answer
    return f"HTTP {answer.status_code}" if answer.is_server_error else None


async def hdfs_problem(webhdfs: str) -> str | None:
    """The NameNode is out of safe mode and has a live DataNode, as its own JMX page tells."""
    answer = await _get(f"{webhdfs}/jmx", qry="Hadoop:service=NameNode,name=FSNamesystemState")
    if isinstance(answer, str):
        return answer
    try:
        beans = answer.json()["beans"]
    except (ValueError, KeyError):
        return f"HTTP {answer.status_code}"
    if not beans:
        return "is starting"
    if beans[0]["FSState"] != "Operational":
        return f"state {beans[0]['FSState']}"
    return None if beans[0]["NumLiveDataNodes"] > 0 else "no live DataNode"


async def webhdfs_problem(webhdfs: str) -> str | None:
    """WebHDFS lists the root folder."""
    answer = await _get(f"{webhdfs}/webhdfs/v1/", op="LISTSTATUS")
    if isinstance(answer, str):
        return answer
    return None if answer.is_success else f"HTTP {answer.status_code}"
