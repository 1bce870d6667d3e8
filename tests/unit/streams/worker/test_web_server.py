"""Limits of the worker's web server, on real sockets."""

import asyncio
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import httpx
import pytest
from aiohttp import web

from streams.worker.web_server import BACKLOG, IDLE_S, MAX_CONNECTIONS, BoundedSite, bounded_runner, connection_limit
from tests.support.stack import eventually, eventually_async

IDLE_CONNECTIONS = 1_000
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

# Event processing, in short: each round needs descriptors, as a reconnect to Kafka or a new file of a table does.
SERVER = """
import asyncio, json, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
from aiohttp import web
from streams.worker.web_server import BoundedSite, bounded_runner

async def fine(request):
    return web.Response(text="fine")

async def main():
    app = web.Application()
    app.router.add_get("/", fine)
    runner = bounded_runner(app)
    await runner.setup()
    await BoundedSite(runner, "127.0.0.1", 0).start()
    other = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    while True:
        opened = [open("/dev/null") for _ in range(50)]
        _reader, writer = await asyncio.open_connection(*other.sockets[0].getsockname())
        writer.close()
        for file in opened:
            file.close()
        print(json.dumps({"connections": len(runner.server.connections)}), flush=True)
        await asyncio.sleep(0.02)

asyncio.run(main())
"""


@contextmanager
def more_open_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_answered(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).text == "fine"
    except httpx.TransportError:
        return False


def test_a_thousand_idle_connections_stop_neither_events_nor_other_requests() -> None:
    with (
        more_open_files(4_096),
        subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server,
        ExitStack() as idle,
    ):
        try:
            assert server.stdout is not None
            port = json.loads(server.stdout.readline())["port"]
            for _ in range(IDLE_CONNECTIONS):
                one = idle.enter_context(socket.socket())
                one.settimeout(0)
                one.connect_ex(("127.0.0.1", port))
            # A request that arrives among them may lose its connection too; this is well before any has idled too long.
            eventually(lambda: is_answered(port), IDLE_S / 2, "an answer beside the idle connections")
            rounds = [json.loads(server.stdout.readline())["connections"] for _ in range(50)]  # empty if it failed
            assert server.poll() is None
            assert max(rounds) <= 1024 // 4 + BACKLOG
        finally:
            server.kill()


@asynccontextmanager
async def served(handler: object, limit: int = 8, idle_s: float = 30.0) -> AsyncIterator[int]:
    """The port of a server with these limits; the handler answers every path."""
    app = web.Application()
    app.router.add_get("/", handler)  # type: ignore[arg-type]
    runner = bounded_runner(app, idle_s)
    await runner.setup()
    await BoundedSite(runner, "127.0.0.1", 0, limit=limit).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def fine(_request: web.Request) -> web.Response:
    return web.Response(text="fine")


async def test_headers_that_are_sent_slowly_end_with_the_idle_time() -> None:
    async with served(fine, idle_s=0.3) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        writer.write(REQUEST[:-2])

        async def drip() -> bool:
            if not reader.at_eof() and not writer.is_closing():
                writer.write(b"X: y\r\n")
            return reader.at_eof()

        asyncio.get_running_loop().create_task(reader.read())
        await eventually_async(drip, 5, "the end of the connection")
        assert time.monotonic() - began < 3
        writer.close()


async def test_an_idle_connection_is_closed_after_its_answer() -> None:
    async with served(fine, idle_s=0.2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"fine")
        writer.close()


async def test_busy_connections_are_kept_and_further_ones_refused() -> None:
    release = asyncio.Event()
    begun = asyncio.Queue[None]()

    async def slow(_request: web.Request) -> web.Response:
        begun.put_nowait(None)
        await release.wait()
        return web.Response(text="fine")

    async with served(slow, limit=8) as port:
        busy = []
        for _ in range(8):
            busy.append(await asyncio.open_connection("127.0.0.1", port))
            busy[-1][1].write(REQUEST)
            await asyncio.wait_for(begun.get(), 5)
        further, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(further.read(), 5) == b""
        writer.close()
        release.set()
        for reader, writer in busy:
            assert (await asyncio.wait_for(reader.readuntil(b"fine"), 5)).startswith(b"HTTP/1.1 200")
            writer.close()

        async def answered() -> bool:
            return await asyncio.to_thread(is_answered, port)

        await eventually_async(answered, 5, "an answer after the busy connections ended")


async def test_a_body_that_nobody_reads_ends_with_the_connection() -> None:
    async with served(fine) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 405")
        await asyncio.wait_for(reader.read(), 5)  # returns at the end of the connection only
        writer.close()


@pytest.mark.parametrize("sent", [b"GET /" + b"a" * 5_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 9_000])
async def test_long_lines_are_refused(sent: bytes) -> None:
    async with served(fine) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent + b" HTTP/1.1\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)).endswith(b" 400 Bad Request\r\n")
        writer.close()


def test_connections_take_at_most_a_quarter_of_the_open_files() -> None:
    assert connection_limit(1_024) == 256
    assert connection_limit(256) == 64
    assert connection_limit(1 << 20) == connection_limit(resource.RLIM_INFINITY) == MAX_CONNECTIONS
    assert connection_limit(16) == 8
