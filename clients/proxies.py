"""Proxies of the exchanges: which one the settings or the environment name for a URL, and REST clients that use it.

Every connection is a tunnel, for REST and WebSocket alike: CONNECT of an HTTP(S) proxy (RFC 9110, section 9.3.6), or
SOCKS 5 (RFC 1928, RFC 1929). The proxy resolves the exchange's name. Loopback hosts are always connected to directly.
"""

import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import httpx
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType

from config import Settings
from exchanges.classification import ProxyFailedError
from marketdata.errors import ConfigurationError
from marketdata.hosts import is_loopback

log = logging.getLogger(__name__)

_SETTING = "exchanges.proxy"
_NO_PROXY = "none"
_ERRORS = (ProxyError, ProxyConnectionError, ProxyTimeoutError)
_LIBRARIES = {"python_socks", "aiohttp_socks"}
_DEFAULT_LIMITS = httpx.Limits()
_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080, "socks": 1080}
_WEB_SCHEMES = {"ws": "http", "wss": "https"}


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy. Its text has no credentials.

    origin: the setting or variable that names it.
    scheme: to the proxy: `http`, `https` or `socks5`.
    target: HOST:PORT that is connected to.
    """

    origin: str
    scheme: str
    host: str
    port: int
    target: str
    username: str = field(repr=False)
    password: str = field(repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.origin}: {self.scheme}://{host}:{self.port}"

    def options(self) -> dict[str, Any]:
        """Return keyword arguments that httpx-socks and aiohttp-socks share."""
        return {
            "proxy_type": ProxyType.SOCKS5 if self.scheme == "socks5" else ProxyType.HTTP,
            "username": self.username or None,
            "password": self.password or None,
            "proxy_ssl": trusted_certificates() if self.scheme == "https" else None,
            "rdns": True,
        }

    @contextmanager
    def failures(self, *kinds: type[Exception]) -> Iterator[None]:
        """Raise OSError, EOFError and `kinds` as `ProxyFailedError`, which names the proxy and its setting."""
        failures: tuple[type[Exception], ...] = (OSError, EOFError, *kinds)
        try:
            yield
        except failures as error:
            hint = "" if self.origin == _SETTING else f"; {_SETTING} overrides {self.origin}"
            raise ProxyFailedError(
                f"{self}: {_cause(error)}; expected a proxy that connects to {self.target}{hint}"
            ) from error


def _cause(error: BaseException) -> str:
    """Return the message of the error that the libraries of proxies wrap; theirs lack parts of it."""
    message = str(error)
    while type(error).__module__.partition(".")[0] in _LIBRARIES and (inner := error.__cause__ or error.__context__):
        error = inner
        message = str(error) or message
    return message or repr(error)


def find_proxy(settings: Settings, url: str) -> Proxy | None:
    """Return the proxy for a URL; None for a direct connection.

    `exchanges.proxy` applies to every host, except those in NO_PROXY. Without it, the environment does: HTTPS_PROXY for
    https and wss, HTTP_PROXY for http and ws, else ALL_PROXY. Lower-case names win, as in curl.

    Raises:
        ConfigurationError: the proxy of the environment has no valid address.
    """
    try:
        parts = urlsplit(url)
        scheme, host = _WEB_SCHEMES.get(parts.scheme, parts.scheme), parts.hostname or ""
        port = parts.port or _DEFAULT_PORTS[scheme]
    except ValueError:
        return None  # the request reports the malformed URL
    environment = getproxies_environment()
    if is_loopback(host) or proxy_bypass_environment(f"{host}:{port}", environment):
        return None
    setting = settings.exchanges.proxy
    if setting is not None:
        address = setting.get_secret_value()
        return None if address == _NO_PROXY else _parse(address, _SETTING, f"{host}:{port}")
    for name in (scheme, "all"):
        if name in environment:
            address = environment[name]
            variable = f"{name}_proxy"
            origin = variable if os.environ.get(variable) else variable.upper()
            return _parse(address, origin, f"{host}:{port}")
    return None


def _parse(address: str, origin: str, target: str) -> Proxy:
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        default = _DEFAULT_PORTS[parts.scheme]
        host, port = parts.hostname, parts.port or default
        if not host:
            raise ValueError  # noqa: TRY301  one place makes the error
    except (ValueError, KeyError):
        # The address is not shown, and the cause is suppressed: both can contain a password.
        expected = "http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"
        raise ConfigurationError(f"{origin}: ***: expected {expected}; {_SETTING} overrides it") from None
    scheme = "socks5" if parts.scheme.startswith("socks") else parts.scheme  # desktops set socks://, curl socks5h://
    return Proxy(origin, scheme, host, port, target, unquote(parts.username or ""), unquote(parts.password or ""))


def trusted_certificates() -> ssl.SSLContext:
    """Certificates of certifi or SSL_CERT_FILE, and the system's, to which companies add those of their proxies."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    return context


class _Tunnels(httpx.BaseTransport):
    """Connections through a proxy, for threads."""

    def __init__(self, proxy: Proxy, limits: httpx.Limits) -> None:
        from httpx_socks import SyncProxyTransport

        self._proxy = proxy
        self._inner = SyncProxyTransport(
            proxy_host=proxy.host,
            proxy_port=proxy.port,
            verify=trusted_certificates(),
            limits=limits,
            **proxy.options(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._proxy.failures(*_ERRORS):
            return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


class _AsyncTunnels(httpx.AsyncBaseTransport):
    """Connections through a proxy, for event loops."""

    def __init__(self, proxy: Proxy, limits: httpx.Limits) -> None:
        from httpx_socks import AsyncProxyTransport

        self._proxy = proxy
        self._inner = AsyncProxyTransport(
            proxy_host=proxy.host,
            proxy_port=proxy.port,
            verify=trusted_certificates(),
            limits=limits,
            **proxy.options(),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with self._proxy.failures(*_ERRORS):
            return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


def open_client(
    settings: Settings, url: str, timeout_s: float, limits: httpx.Limits = _DEFAULT_LIMITS
) -> httpx.AsyncClient:
    """Return a REST client for the host of a URL, for event loops; the caller closes it.

    Raises:
        ConfigurationError: see `find_proxy`.
    """
    proxy = logged_proxy(settings, url)
    transport = None if proxy is None else _AsyncTunnels(proxy, limits)
    return httpx.AsyncClient(timeout=timeout_s, trust_env=False, limits=limits, transport=transport)


def open_blocking_client(settings: Settings, url: str) -> httpx.Client:
    """Return a REST client for the host of a URL, for threads; the caller closes it.

    Raises:
        ConfigurationError: see `find_proxy`.
    """
    proxy = logged_proxy(settings, url)
    return httpx.Client(trust_env=False, transport=None if proxy is None else _Tunnels(proxy, _DEFAULT_LIMITS))


def logged_proxy(settings: Settings, url: str) -> Proxy | None:
    """Return the proxy for a URL as `find_proxy` does, and log each one once."""
    proxy = find_proxy(settings, url)
    if proxy is not None:
        _log(proxy)
    return proxy


@cache
def _log(proxy: Proxy) -> None:
    """Log a proxy once: the clock opens a client for each request."""
    log.info("%s: connect through a proxy, %s", proxy.target, proxy)
