"""A small proxy on loopback: CONNECT (RFC 9110) and SOCKS 5 (RFC 1928, RFC 1929) on one port, with its own names."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_VERSION, _NO_LOGIN, _LOGIN, _NONE_ACCEPTABLE = 5, 0, 2, 255
_IPV4, _NAME = 1, 3


@dataclass
class ProxyServer:
    """Connects names of `routes` (name → port on loopback) unless it `refuses`; records each HOST:PORT in `asked`."""

    routes: dict[str, int]
    login: tuple[str, str] | None = None
    refuses: bool = False
    broken: bytes | None = None  # sent in place of any response
    port: int = 0
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.readexactly(1)
            if self.broken is not None:
                writer.write(self.broken)
                return
            accept = self._socks if first[0] == _VERSION else self._connect
            target = await accept(first, reader, writer)
            if target is not None:
                await self._tunnel(target, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _port_of(self, host: str, port: int) -> int | None:
        self.asked.append(f"{host}:{port}")
        return None if self.refuses else self.routes.get(host)

    async def _connect(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int | None:
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
        method, authority, _version = head.split("\r\n", 1)[0].split(" ")
        assert method == "CONNECT", head
        if self.login is not None:
            wanted = base64.b64encode(":".join(self.login).encode()).decode()
            if f"proxy-authorization: basic {wanted}".lower() not in head.lower():
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
                return None
        host, _, port = authority.rpartition(":")
        target = self._port_of(host, int(port))
        status = "200 OK" if target is not None else "403 Forbidden"
        writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
        return target

    async def _socks(self, _first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int | None:
        (count,) = await reader.readexactly(1)
        methods = await reader.readexactly(count)
        method = _NO_LOGIN if self.login is None else _LOGIN
        writer.write(bytes([_VERSION, method if method in methods else _NONE_ACCEPTABLE]))
        if method not in methods:
            return None
        if self.login is not None:
            await reader.readexactly(1)
            given = [(await reader.readexactly((await reader.readexactly(1))[0])).decode() for _ in range(2)]
            writer.write(bytes([1, tuple(given) != self.login]))
            if tuple(given) != self.login:
                return None
        _version, _command, _reserved, kind = await reader.readexactly(4)
        assert kind == _NAME, "expected a name, which the proxy resolves"
        host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        port = int.from_bytes(await reader.readexactly(2), "big")
        target = self._port_of(host, port)
        not_allowed = 2
        writer.write(bytes([_VERSION, not_allowed if target is None else 0, 0, _IPV4, 127, 0, 0, 1, 0, 0]))
        return target

    @staticmethod
    async def _tunnel(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()

        ways = [asyncio.create_task(copy(reader, far_writer)), asyncio.create_task(copy(far_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.close()


@asynccontextmanager
async def running_proxy(
    routes: dict[str, int], *, login: tuple[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ProxyServer]:
    """A proxy on a free port."""
    proxy = ProxyServer(routes, login)
    serving: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
