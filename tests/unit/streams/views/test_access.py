"""Access control: token in header or cookie, Host header, and the check of the listening address."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from config import load_settings
from marketdata.errors import ConfigurationError
from streams.views.access import COOKIE, require_guarded
from streams.views.pages import Views
from tests.support.builders import START_MS
from tests.support.fake_clock import FakeClock
from tests.support.stack import settings_with

TOKEN = "correct-horse-battery"
PROTECTED = ("/", "/api/markets", "/api/openapi.json", "/api/events", "/static/app.js", "/metrics", "/nothing")

Client = TestClient[web.Request, web.Application]


async def fine(_request: web.Request) -> web.Response:
    return web.Response(text="fine")


@asynccontextmanager
async def served(**environ: str) -> AsyncIterator[Client]:
    """Serve the views with these `streams` settings, and stand-ins for the routes of `streams.worker.health`."""
    settings = settings_with(
        {"BDI_KAFKA__BROKERS": "127.0.0.1:1"} | {f"BDI_STREAMS__{name}".upper(): text for name, text in environ.items()}
    )
    server = web.Application()
    Views(settings, FakeClock(START_MS + 1_000)).add_to(server)
    for path in ("/health/live", "/health/ready", "/metrics"):
        server.router.add_get(path, fine)
    async with TestClient(TestServer(server)) as client:
        yield client


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "worker.example", "", "127.0.0.1.example"])
def test_a_public_address_needs_a_token_or_the_opt_out(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"streams\.web_host: .*expected a loopback address.*web_token"):
        require_guarded(settings_with({}).streams, host)
    for key, value in (("BDI_STREAMS__WEB_TOKEN", TOKEN), ("BDI_STREAMS__WEB_OPEN", "true")):
        require_guarded(settings_with({key: value}).streams, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1", "LOCALHOST"])
def test_loopback_needs_neither(host: str) -> None:
    require_guarded(settings_with({}).streams, host)


@pytest.mark.parametrize("profile", ["demo", "local", "live", "compose", "cluster"])
def test_every_profile_may_start(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BDI_CONFIG", raising=False)
    streams = load_settings(profile).streams
    require_guarded(streams, streams.web_host)


@pytest.mark.parametrize("token", ["short", "fifteen-letters", "with a blank in the middle", "prix-en-€-seize-lettres"])
def test_a_short_or_unsendable_token_is_refused_and_not_printed(token: str) -> None:
    with pytest.raises(ConfigurationError, match=r"streams\.web_token: .*16 or more") as caught:
        settings_with({"BDI_STREAMS__WEB_TOKEN": token})
    assert token not in str(caught.value)


def test_an_empty_token_is_none() -> None:
    assert settings_with({"BDI_STREAMS__WEB_TOKEN": ""}).streams.web_token is None


@pytest.mark.parametrize("path", PROTECTED)
async def test_without_the_token_every_path_is_refused(path: str) -> None:
    async with served(web_token=TOKEN) as client:
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = await client.get(path, headers=headers)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            text = await answer.text()
            assert (await answer.json())["error"]["field"] == "token"
            assert TOKEN not in text
        wrong = await client.get(path, params={"token": TOKEN + "x"}, allow_redirects=False)
        assert (wrong.status, "Set-Cookie" in wrong.headers) == (401, False)
        forged = await client.get(path, headers={"Cookie": f"{COOKIE}={TOKEN}"})
        assert forged.status == 401  # the cookie is not the token itself


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_the_token_in_the_header_allows_every_path(scheme: str) -> None:
    async with served(web_token=TOKEN) as client:
        headers = {"Authorization": f"{scheme} {TOKEN}"}
        for path in ("/", "/api/markets", "/api/openapi.json", "/static/app.js", "/metrics"):
            assert (await client.get(path, headers=headers)).status == 200


async def test_a_browser_needs_the_token_once_also_for_live_events() -> None:
    async with served(web_token=TOKEN) as client:
        first = await client.get("/", params={"token": TOKEN}, allow_redirects=False)
        assert (first.status, first.headers["Location"]) == (303, "/")
        cookie = first.headers["Set-Cookie"]
        assert TOKEN not in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert (await client.get("/")).status == 200  # the client keeps cookies as a browser does
        events = await client.get("/api/events")
        assert (events.status, events.content_type) == (200, "text/event-stream")
        events.close()


async def test_the_redirect_keeps_the_rest_of_the_address() -> None:
    async with served(web_token=TOKEN) as client:
        answer = await client.get("/api/scores", params={"token": TOKEN, "limit": "3"}, allow_redirects=False)
        assert answer.headers["Location"] == "/api/scores?limit=3"


async def test_two_slashes_do_not_redirect_to_another_server() -> None:
    async with served(web_token=TOKEN) as client:
        address = URL(f"http://127.0.0.1:{client.port}//elsewhere.example/x?token={TOKEN}", encoded=True)
        answer = await client.session.get(address, allow_redirects=False)
        assert (answer.status, answer.headers["Location"]) == (303, "/elsewhere.example/x")


@pytest.mark.parametrize("slashes", ["/\\", "/\\/"])
async def test_backslashes_do_not_redirect_to_another_server(slashes: str) -> None:
    async with served(web_token=TOKEN) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(f"GET {slashes}elsewhere.example/?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        writer.close()
    assert "HTTP/1.1 303" in head
    assert "Location: /elsewhere.example/\r\n" in head


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_probes_need_neither_token_nor_host(path: str) -> None:
    async with served(web_token=TOKEN) as client:
        assert (await client.get(path)).status == 200
    async with served() as client:
        assert (await client.get(path, headers={"Host": "10.1.2.3:6066"})).status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:6066", "127.0.0.1.evil.example", "10.0.0.1", "a b"])
async def test_on_loopback_a_foreign_host_is_refused(host: str) -> None:
    async with served() as client:
        answer = await client.get("/api/markets", headers={"Host": host})
        assert (answer.status, (await answer.json())["error"]["field"]) == (421, "Host")


@pytest.mark.parametrize("host", ["localhost:6066", "127.0.0.1", "[::1]:6066", "LOCALHOST"])
async def test_on_loopback_loopback_names_are_allowed(host: str) -> None:
    async with served() as client:
        assert (await client.get("/api/markets", headers={"Host": host})).status == 200


async def test_an_open_worker_accepts_addresses_and_its_own_names_only() -> None:
    own = socket.gethostname()
    async with served(web_open="true", web_host="worker.example", web_url="https://public.example:8443") as client:
        for host in (
            "worker.example",
            "Worker.Example:80",
            own,
            "10.1.2.3:6066",
            "[fd00::1]",
            "localhost",
            "public.example",
        ):
            assert (await client.get("/api/markets", headers={"Host": host})).status == 200, host
        for host in ("page.example", "10.1.2.3.example", "a b", "\xe9.example", "https"):
            answer = await client.get("/api/markets", headers={"Host": host})
            assert (answer.status, (await answer.json())["error"]["field"]) == (421, "Host"), host


async def test_without_web_open_the_public_name_is_accepted_and_addresses_are_not() -> None:
    async with served(web_url="http://public.example") as client:
        for host, status in (("public.example", 200), ("10.1.2.3", 421), (socket.gethostname() + ".example", 421)):
            assert (await client.get("/api/markets", headers={"Host": host})).status == status


@pytest.mark.parametrize(("url", "is_secure"), [("https://public.example", True), ("http://public.example", False)])
async def test_the_cookie_is_secure_behind_tls_whatever_a_client_claims(url: str, *, is_secure: bool) -> None:
    async with served(web_token=TOKEN, web_url=url) as client:
        claimed = {"X-Forwarded-Proto": "https", "Forwarded": "proto=https"}
        first = await client.get("/", params={"token": TOKEN}, headers=claimed, allow_redirects=False)
        assert ("Secure" in first.headers["Set-Cookie"]) is is_secure


async def test_every_response_has_the_security_headers() -> None:
    async with served() as client:
        for path in ("/", "/api/markets", "/api/nope", "/metrics", "/health/live", "/nothing"):
            answer = await client.get(path)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "Access-Control-Allow-Origin" not in answer.headers
