"""Health checks over HTTP. Each returns None for a healthy part, otherwise a short reason."""

from typing import Any

import httpx

_TIMEOUT_S = 3.0


async def _get(url: str, **params: str) -> httpx.Response | str:
    try:
        # Loading certificates takes longer than the request, and blocks the event loop.
        is_tls = url.startswith("https:")
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S, verify=is_tls) as client:
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
        return _state_problem(response.json()["beans"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}, without the state of a NameNode"


def _state_problem(beans: list[dict[str, Any]]) -> str | None:
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


async def storage_problem(webhdfs: str) -> str | None:
    """HDFS is healthy if both `webhdfs_problem` and `hdfs_problem` find it healthy."""
    return await webhdfs_problem(webhdfs) or await hdfs_problem(webhdfs)
