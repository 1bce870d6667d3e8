"""Access control of the worker's web server: open on loopback, otherwise with a token.

With a token, every request except `/health/…` needs it: as `Authorization: Bearer TOKEN`, or in a browser as the cookie
that is set by opening any page once with `?token=TOKEN`. Live events send the cookie, too. `/health/…` is open because
an orchestrator's probes have no secrets, and it contains no market data. Without a token, the Host header must name
this server, so that a web page from elsewhere cannot read the API by pointing its own name at this address (DNS
rebinding); `web_open` additionally accepts any IP address and this machine's host name. Responses never contain the
token.
"""

import hmac
import socket
from collections.abc import Awaitable, Callable
from hashlib import sha256

from aiohttp import web
from aiohttp.typedefs import Middleware
from yarl import URL

from config.sections import StreamsSettings
from marketdata.errors import ConfigurationError
from marketdata.hosts import host_name, is_address, is_loopback

COOKIE = "bitcoin_data_access"
PARAMETER = "token"
UNGUARDED = frozenset({"/health/live", "/health/ready"})

_BEARER = "bearer "
_COOKIE_DAYS = 30
_MISDIRECTED = 421
_NAMES = "a name or address of this server; a name of a proxy is set by streams.web_url"
_HOW = "the worker's token: Authorization: Bearer …, or open /?token=… once in a browser"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Refuse = Callable[[str, str | None, str, int], web.Response]
"""Builds the response from field, value, expectation and status."""


def require_guarded(streams: StreamsSettings, address: str) -> None:
    """Check that the web server is on loopback, has a token, or is explicitly open.

    Args:
        streams: the worker's settings.
        address: the address to listen on: `web_host`, or Faust's `--web-bind` if given.

    Raises:
        ConfigurationError: none of them is the case.
    """
    if streams.web_token is None and not streams.web_open and not is_loopback(address):
        raise ConfigurationError(
            f"streams.web_host: {address!r}: expected a loopback address; to listen on another one, set "
            "streams.web_token (BDI_STREAMS__WEB_TOKEN), or streams.web_open = true to allow access without a token"
        )


def guard(streams: StreamsSettings, refuse: Refuse) -> Middleware:
    """Return the middleware that passes requests on or responds with `refuse`."""
    token = None if streams.web_token is None else streams.web_token.get_secret_value()
    public = URL(streams.web_url or "")
    names = {streams.web_host.lower(), public.host or ""} | (
        {socket.gethostname().lower()} if streams.web_open else set()
    )
    names.discard("")

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in UNGUARDED:
            return await handler(request)
        if token is not None:
            return await _with_token(request, handler, token, refuse, is_https=public.scheme == "https")
        if (header := request.headers.get("Host")) is not None:  # browsers always send one
            name = host_name(header)
            if not (is_loopback(name) or name in names or (streams.web_open and is_address(name))):
                return refuse("Host", name, _NAMES, _MISDIRECTED)
        return await handler(request)

    return check


async def _with_token(
    request: web.Request, handler: Handler, token: str, refuse: Refuse, *, is_https: bool
) -> web.StreamResponse:
    given = request.query.get(PARAMETER)
    if given is not None and _equal(given, token):
        # Redirect to the address without the secret, to keep it out of the history. Two leading slashes would name
        # another server; browsers treat a backslash as a slash.
        location = "/" + str(request.rel_url.without_query_params(PARAMETER)).lstrip("/\\")
        redirect = web.Response(status=303, headers={"Location": location})
        redirect.set_cookie(
            COOKIE,
            _cookie(token),
            max_age=_COOKIE_DAYS * 86_400,
            httponly=True,
            samesite="Lax",  # not Strict: the page can be opened from a link, and the API is read-only
            secure=request.secure or is_https,  # headers of a proxy are not trusted: any client can send them
        )
        return redirect
    header = request.headers.get("Authorization", "")
    if given is None and (
        (header[: len(_BEARER)].lower() == _BEARER and _equal(header[len(_BEARER) :].strip(), token))
        or _equal(request.cookies.get(COOKIE, ""), _cookie(token))
    ):
        return await handler(request)
    refused = refuse(PARAMETER, None, _HOW, 401)
    refused.headers["WWW-Authenticate"] = 'Bearer realm="bitcoin-data-ia"'
    return refused


def _cookie(token: str) -> str:
    """Return the cookie's value: an HMAC of the token, the same on every worker."""
    return hmac.new(token.encode(), COOKIE.encode(), sha256).hexdigest()


def _equal(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode(errors="surrogateescape"), expected.encode())
