"""WebSocket clients, through the proxy of `clients.proxies` where there is one."""

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from aiohttp_socks import ProxyConnectionError, ProxyConnector, ProxyError, ProxyTimeoutError

from clients.proxies import Proxy, logged_proxy, trusted_certificates
from config import Settings


class _Tunnels(ProxyConnector):
    """Connections through a proxy."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(host=proxy.host, port=proxy.port, ssl=trusted_certificates(), **proxy.options())
        self._proxy = proxy

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  the signature is given by aiohttp
    ) -> Connection:
        with self._proxy.failures(ProxyError, ProxyConnectionError, ProxyTimeoutError):
            return await super().connect(req, traces, timeout)


def open_session(settings: Settings, url: str) -> aiohttp.ClientSession:
    """Return a client for the host of a URL; the caller closes it. Call it in an event loop.

    Raises:
        ConfigurationError: see `clients.proxies.find_proxy`.
    """
    proxy = logged_proxy(settings, url)
    return aiohttp.ClientSession(trust_env=False, connector=None if proxy is None else _Tunnels(proxy))
