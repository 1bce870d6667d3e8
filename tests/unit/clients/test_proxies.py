"""Every client of an exchange uses the proxy of the settings or the environment, on real loopback proxies."""

import asyncio
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import stamina
from aiohttp import WSMsgType, web

from clients.clock import build_clock
from clients.proxies import find_proxy, open_blocking_client, open_client
from clients.websocket_session import open_session
from config import Settings
from exchanges.binance.kline_client import KlineClient
from marketdata.errors import ConfigurationError, RetryableSourceError
from marketdata.markets import Market
from marketdata.times import HOUR_MS
from streams.application import app_from_environment
from streams.metrics import Metrics
from streams.sources.registry import build_exchanges
from tests.support.exchange_server import NOON, running_exchange
from tests.support.fake_clock import FakeClock
from tests.support.proxy_server import ProxyServer, running_proxy
from tests.support.recorded_feed import Fed
from tests.support.stack import settings_with

BTC = Market("BTC", "USD")
HOST = "exchange.test"  # resolved by the proxy alone
LOGIN = ("trader", "p@ss:word/")
USERINFO = "trader:p%40ss%3Aword%2F@"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

Use = Callable[[Settings], Awaitable[object]]


@pytest.fixture(autouse=True)
def _no_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def settings_of(port: int, proxy: str = "") -> Settings:
    address = f"http://{HOST}:{port}"
    return settings_with(
        {
            "BDI_EXCHANGES__PROXY": proxy,
            "BDI_CLOCK__SOURCE": "exchange",
            "BDI_CLOCK__SPEED": "1",
            "BDI_BINANCE__BASE_URL": f"{address}/binance",
            "BDI_BINANCE__STREAM_URL": f"ws://{HOST}:{port}/binance",
            "BDI_COINGECKO__BASE_URL": f"{address}/coingecko/api/v3",
        }
    )


async def poll(settings: Settings) -> object:
    exchanges = build_exchanges(settings, Metrics(), lambda seconds: seconds)
    try:
        found = [await source.poll([BTC], 5.0) for source in exchanges.sources]
    finally:
        await exchanges.close()
    assert len(found) == 2
    return found


async def stream(settings: Settings) -> object:
    url = settings.binance.stream_url
    return await Fed(url, FakeClock(), [BTC], open_session=lambda: open_session(settings, url)).feed.probe()


async def backfill(settings: Settings) -> object:
    def fetch() -> object:
        with (
            stamina.set_testing(testing=True, attempts=1),
            open_blocking_client(settings, settings.binance.base_url) as http,
        ):
            client = KlineClient(http, settings.binance, sleep=lambda _seconds: None)
            return client.fetch("BTCUSDT", "1h", NOON - 2 * HOUR_MS, NOON)

    return await asyncio.to_thread(fetch)


async def read_clock(settings: Settings) -> object:
    return (await asyncio.to_thread(build_clock, settings)).now_ms()


USES: tuple[Use, ...] = (poll, stream, backfill, read_clock)


@pytest.mark.parametrize("login", [None, LOGIN], ids=["open", "with login"])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_every_client_uses_the_proxy_of_the_setting(scheme: str, login: tuple[str, str] | None) -> None:
    async with running_exchange(host=HOST) as exchange:
        port = int(exchange.address.rpartition(":")[2])
        async with running_proxy({HOST: port}, login=login) as proxy:
            userinfo = "" if login is None else USERINFO
            for use in USES:
                assert await use(settings_of(port, f"{scheme}://{userinfo}127.0.0.1:{proxy.port}"))
                assert set(proxy.asked) == {f"{HOST}:{port}"}
                proxy.asked.clear()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "all_proxy"])
async def test_every_client_uses_the_proxy_of_the_environment(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_exchange(host=HOST) as exchange:
        port = int(exchange.address.rpartition(":")[2])
        async with running_proxy({HOST: port}) as proxy:
            monkeypatch.setenv(variable, f"socks5://127.0.0.1:{proxy.port}")
            for use in USES:
                assert await use(settings_of(port))
                assert set(proxy.asked) == {f"{HOST}:{port}"}
                proxy.asked.clear()


async def refuse(proxy: ProxyServer) -> None:
    proxy.refuses = True


async def want_login(proxy: ProxyServer) -> None:
    proxy.login = LOGIN


async def close_at_once(proxy: ProxyServer) -> None:
    proxy.broken = b""


async def speak_nonsense(proxy: ProxyServer) -> None:
    proxy.broken = b"\x00nonsense\r\n\r\n"


@pytest.mark.parametrize("fail", [refuse, want_login, close_at_once, speak_nonsense])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_does_not_connect_is_named_with_its_setting(
    scheme: str, fail: Callable[[ProxyServer], Awaitable[None]]
) -> None:
    async with running_proxy({}) as proxy:
        await fail(proxy)
        for use in USES:
            with pytest.raises(RetryableSourceError) as caught:
                await use(settings_of(80, f"{scheme}://me:secret@127.0.0.1:{proxy.port}"))
            message = str(caught.value)
            assert f"exchanges.proxy: {scheme}://127.0.0.1:{proxy.port}: " in message
            assert f"expected a proxy that connects to {HOST}:80" in message
            assert "secret" not in message


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_a_proxy_that_is_not_there_is_named_with_its_variable(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_proxy({}) as proxy:
        pass  # its port is free again
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:{proxy.port}")
    for use in USES:
        with pytest.raises(RetryableSourceError) as caught:
            await use(settings_of(80))
        message = str(caught.value)
        assert f"ALL_PROXY: {scheme}://127.0.0.1:{proxy.port}: " in message
        assert "exchanges.proxy overrides ALL_PROXY" in message
        assert re.search("Connection refused|Connect call failed|All connection attempts failed", message)
        assert "None" not in message


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_silent_proxy_does_not_block_a_thread(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = settings_of(80, f"{scheme}://127.0.0.1:{silent.getsockname()[1]}")
        impatient = settings.binance.model_copy(update={"timeout_s": 0.1})
        with pytest.raises(RetryableSourceError, match=r"exchanges\.proxy: .*: timed out"):
            build_clock(settings.model_copy(update={"binance": impatient}))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of the exchange and the proxy, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = f"subjectAltName=DNS:{HOST},IP:127.0.0.1"
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={HOST}"
    files = ["-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), "-addext", names, *files], check=True, capture_output=True)
    return certificate, key


@asynccontextmanager
async def running_secure_site(tls: ssl.SSLContext) -> AsyncIterator[int]:
    """A server with TLS that answers GET with JSON and WebSockets with what they send; its port."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("upgrade", "").lower() != "websocket":
            return web.json_response({"host": request.host})
        answering = web.WebSocketResponse()
        await answering.prepare(request)
        async for message in answering:
            if message.type is WSMsgType.TEXT:
                await answering.send_str(message.data)
        return answering

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_tls_to_the_exchange_runs_inside_the_tunnel(
    scheme: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    async with (
        running_secure_site(tls) as port,
        running_proxy({HOST: port}, tls=tls if scheme == "https" else None) as proxy,
    ):
        settings = settings_of(port, f"{scheme}://127.0.0.1:{proxy.port}")
        url = f"https://{HOST}:{port}/path"
        expected = {"host": f"{HOST}:{port}"}

        def blocking() -> object:
            with open_blocking_client(settings, url) as client:
                return client.get(url).json()

        async with open_client(settings, url, 5.0) as client:
            assert (await client.get(url)).json() == expected
        assert await asyncio.to_thread(blocking) == expected
        address = f"wss://{HOST}:{port}/ws"
        async with open_session(settings, address) as session, session.ws_connect(address) as opened:
            await opened.send_str("hello")
            assert await opened.receive_str(timeout=5.0) == "hello"
    assert proxy.asked == [f"{HOST}:{port}"] * 3


async def test_a_certificate_that_is_not_trusted_names_the_proxy(certificate: tuple[Path, Path]) -> None:
    """Companies' proxies replace certificates."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    async with running_secure_site(tls) as port, running_proxy({HOST: port}) as proxy:
        settings = settings_of(port, f"http://127.0.0.1:{proxy.port}")
        secure = {
            "binance": {"base_url": f"https://{HOST}:{port}", "stream_url": f"wss://{HOST}:{port}"},
            "coingecko": {"base_url": f"https://{HOST}:{port}"},
        }
        changed = {name: getattr(settings, name).model_copy(update=update) for name, update in secure.items()}
        for use in USES:
            with pytest.raises(RetryableSourceError, match=r"exchanges\.proxy: .*CERTIFICATE_VERIFY_FAILED"):
                await use(settings.model_copy(update=changed))


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://localhost", "ws://[::1]:9", "https://127.1.2.3"])
@pytest.mark.parametrize("proxy", ["", "http://10.0.0.1:3128"])
def test_loopback_is_connected_to_directly(url: str, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://10.0.0.1:3128")
    assert find_proxy(settings_of(80, proxy), url) is None


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://api.binance.com", "HTTPS_PROXY"),
        ("wss://stream.binance.com:9443", "HTTPS_PROXY"),
        ("http://api.binance.com", "http_proxy"),
        ("ws://stream.binance.com", "http_proxy"),
        ("https://api.internal.example", None),
        ("wss://internal.example:443", None),
        ("https://other.example:8443", None),
        ("https://other.example", "HTTPS_PROXY"),
    ],
)
def test_the_scheme_chooses_the_variable_and_no_proxy_exempts_hosts(
    url: str, origin: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("ALL_PROXY", "socks://proxy.example")
    monkeypatch.setenv("NO_PROXY", "internal.example, other.example:8443")
    found = find_proxy(settings_of(80), url)
    assert (None if found is None else found.origin) == origin
    found = find_proxy(settings_of(80, "http://own.example:1"), url)  # the setting overrides the proxies, not NO_PROXY
    assert (None if found is None else found.origin) == (None if origin is None else "exchanges.proxy")
    assert find_proxy(settings_of(80, "none"), url) is None


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("socks://user:secret@proxy.example", "ALL_PROXY: socks5://proxy.example:1080"),
        ("socks5h://proxy.example:9050", "ALL_PROXY: socks5://proxy.example:9050"),
        ("proxy.example:3128", "ALL_PROXY: http://proxy.example:3128"),
        ("https://[2001:db8::1]", "ALL_PROXY: https://[2001:db8::1]:443"),
    ],
)
def test_the_environments_forms_of_an_address(address: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", address)
    found = find_proxy(settings_of(80), "https://api.binance.com")
    assert str(found) == shown
    assert "secret" not in repr(found)


@pytest.mark.parametrize("address", ["ftp://u:secret@h:1", "http://", "http://h:secret", "socks4://h:1", "http://[x:1"])
def test_an_unusable_proxy_of_the_environment_is_refused_at_start(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", address)
    settings = settings_of(80)
    exchange = settings.binance.model_copy(update={"base_url": "https://exchange.test"})
    with pytest.raises(ConfigurationError) as caught:
        build_exchanges(settings.model_copy(update={"binance": exchange}), Metrics(), lambda seconds: seconds)
    assert str(caught.value).startswith("https_proxy: ***: expected http://HOST:PORT")
    assert "secret" not in str(caught.value)


def test_a_worker_with_an_unusable_proxy_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("https_proxy", "ftp://u:secret@h:1")
    monkeypatch.setenv("BDI_PROFILE", "live")
    with pytest.raises(SystemExit) as ended:
        app_from_environment()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("streams: https_proxy: ***: expected http://HOST:PORT")


@pytest.mark.parametrize("url", ["http://h:99999", "https://[x"])
def test_a_malformed_url_needs_no_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://10.0.0.1:3128")
    assert find_proxy(settings_of(80), url) is None
