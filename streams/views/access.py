"""Who may read the worker's pages: everybody on loopback, elsewhere who shows the token.

With a token every request but `/health/…` needs it: `Authorization: Bearer TOKEN`, or in a browser the cookie that
opening any page once with `?token=TOKEN` sets, which live events carry too. The probes of an orchestrator hold no
secrets, and `/health/…` tells of no market. Without a token the Host header must name this machine, so that no page of
elsewhere can read through a name of its own that it points here (DNS rebinding). It must never tell the token.
"""

import hmac
from collections.abc import Awaitable, Callable
from hashlib import sha256
from ipaddress import ip_address

from aiohttp import web
from aiohttp.typedefs import Middleware
from yarl import URL

from config.sections import StreamsSettings
from marketdata.errors import ConfigurationError

COOKIE = "bitcoin_data_access"
PARAMETER = "token"
UNGUARDED = frozenset({"/health/live", "/health/ready"})

_BEARER = "bearer "
_COOKIE_DAYS = 30
_MISDIRECTED = 421
_HOW = "the worker's token: Authorization: Bearer …, or open /?token=… once in a browser"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Refuse = Callable[[str, str | None, str, int], web.Response]
"""Makes the answer out of field, value, what was expected, and the status."""


def require_guarded(streams: StreamsSettings, address: str) -> None:
    """Refuse to listen where strangers may read.

    Args:
        streams: the worker's settings.
        address: what it will listen at: `web_host`, or what Faust's `--web-bind` says in its place.

    Raises:
        ConfigurationError: it is not loopback, and neither a token nor the opt-out is set.
    """
    if streams.web_token is None and not streams.web_open and not is_loopback(address):
        raise ConfigurationError(
            f"streams.web_host: {address!r}: expected a loopback address; to listen elsewhere set "
            "streams.web_token (BDI_STREAMS__WEB_TOKEN), or streams.web_open = true to let anybody read"
        )


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own; names are not looked up."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def guard(streams: StreamsSettings, refuse: Refuse) -> Middleware:
    """The middleware that lets requests through or answers them with `refuse`."""
    token = None if streams.web_token is None else streams.web_token.get_secret_value()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in UNGUARDED:
            return await handler(request)
        if token is not None:
            return await _with_token(request, handler, token, refuse)
        if not streams.web_open and (name := _host(request)) is not None:
            known = is_loopback(name) or name == streams.web_host.lower()
            if not known:
                return refuse("Host", name, "this machine's loopback name or address", _MISDIRECTED)
        return await handler(request)

    return check


async def _with_token(request: web.Request, handler: Handler, token: str, refuse: Refuse) -> web.StreamResponse:
    shown = request.query.get(PARAMETER)
    if shown is not None and _same(shown, token):
        # To the address without the secret, which must not stay in the history. Two slashes would name another server;
        # to a browser a backslash is a slash.
        location = "/" + str(request.rel_url.without_query_params(PARAMETER)).lstrip("/\\")
        answer = web.Response(status=303, headers={"Location": location})
        answer.set_cookie(
            COOKIE,
            _cookie(token),
            max_age=_COOKIE_DAYS * 86_400,
            httponly=True,
            samesite="Lax",  # not Strict: the first page may be opened from a link, and nothing can be written
            secure=request.secure,
        )
        return answer
    said = request.headers.get("Authorization", "")
    if shown is None and (
        (said[: len(_BEARER)].lower() == _BEARER and _same(said[len(_BEARER) :].strip(), token))
        or _same(request.cookies.get(COOKIE, ""), _cookie(token))
    ):
        return await handler(request)
    refused = refuse(PARAMETER, None, _HOW, 401)
    refused.headers["WWW-Authenticate"] = 'Bearer realm="bitcoin-data-ia"'
    return refused


def _cookie(token: str) -> str:
    """What the browser keeps: proof of the token, from which it cannot be read; the same on every worker."""
    return hmac.new(token.encode(), COOKIE.encode(), sha256).hexdigest()


def _same(shown: str, expected: str) -> bool:
    """Compared in a time that does not tell how much of it was right."""
    return hmac.compare_digest(shown.encode(errors="surrogateescape"), expected.encode())


def _host(request: web.Request) -> str | None:
    """The name in the Host header, lower case and without the port; None where there is none, as no browser does."""
    text = request.headers.get("Host")
    if text is None:
        return None
    try:
        return (URL.build(scheme="http", authority=text).host or "").lower()
    except ValueError:
        return ""
