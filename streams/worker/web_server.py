"""Limits of the worker's web server, so that no client uses up the descriptors, memory or time of event processing.

A worker shares its process and its limit of open files with this server. Connections are limited in number: idle ones
make room for new ones, oldest first. A connection without a complete request, at its start or between two requests, is
closed after `IDLE_S`, which also ends headers that are sent slowly.
"""

import asyncio
import logging
import resource
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
IDLE_S = 20.0
_HEADER_BYTES = 4_096  # of one line
_HEADERS = 64
_LINGER_S = 1.0  # time to discard a body that no handler reads
BACKLOG = 128  # asyncio accepts up to this many at once, above the limit for a moment
_MAKE_ROOM = 3 / 4  # share of the limit from which idle connections are closed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def connection_limit(open_files: int | None = None) -> int:
    """Return the maximum number of connections: at most a quarter of the process's open files.

    Args:
        open_files: the limit of open files; default: this process's own.
    """
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if open_files is None else open_files
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, soft // 4))


_BUSY: web.AppKey[set[web.RequestHandler]] = web.AppKey("busy", set)  # connections whose request is handled now


@web.middleware
async def _mark_busy(request: web.Request, handler: Handler) -> web.StreamResponse:
    busy = request.app[_BUSY]
    busy.add(request.protocol)
    try:
        return await handler(request)
    finally:
        busy.discard(request.protocol)


def bounded_runner(app: web.Application, idle_s: float = IDLE_S) -> web.AppRunner:
    """Return a runner with limits on header sizes and idle time, for `BoundedSite`.

    Args:
        app: the application, before its first request.
        idle_s: seconds until a connection without a complete request is closed.
    """
    app[_BUSY] = set()
    app.middlewares.insert(0, _mark_busy)
    return web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=idle_s,
        lingering_time=_LINGER_S,
        max_line_size=_HEADER_BYTES,
        max_field_size=_HEADER_BYTES,
        max_headers=_HEADERS,
    )


class BoundedSite(web.TCPSite):
    """A listening address with a limit on connections; its runner is one of `bounded_runner`."""

    def __init__(
        self, runner: web.AppRunner, host: str, port: int, *, limit: int | None = None, **options: Any
    ) -> None:
        super().__init__(runner, host, port, backlog=BACKLOG, **options)
        self._busy = runner.app[_BUSY]
        self._limit = connection_limit() if limit is None else limit
        self._is_full = False

    async def start(self) -> None:
        await web.BaseSite.start(self)
        self._server = await asyncio.get_running_loop().create_server(
            self._accept, self._host, self._port, ssl=self._ssl_context, backlog=self._backlog
        )

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        connections = [one for one in server.connections if one.transport is not None] if server is not None else []
        excess = len(connections) + 1 - int(self._limit * _MAKE_ROOM)
        if excess > 0:
            for oldest in [one for one in connections if one not in self._busy][:excess]:
                connections.remove(oldest)
                oldest.force_close()
        was_full, self._is_full = self._is_full, len(connections) >= self._limit
        if server is None or self._is_full:
            if not was_full:
                log.warning("web server: %d connections, the limit; further ones are refused", len(connections))
            return _Refused()
        return server()


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
