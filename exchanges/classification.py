"""Classify an exchange's response: usable, retryable or refused. Pure.

The REST clients (`exchanges.http`) and the WebSocket handshake (`exchanges.websocket`) use these rules, so that streams
and backfill treat a response alike.

| response                              | error     | kind         | retry_after_s          |
|---------------------------------------|-----------|--------------|------------------------|
| 2xx with a JSON body                  | none      |              |                        |
| 2xx with another body                 | retryable | bad_payload  | none                   |
| 418                                   | retryable | banned       | Retry-After, else 120  |
| 429                                   | retryable | rate_limited | Retry-After, else 5    |
| 408, 425, 1xx, 3xx, 5xx               | retryable | server_error | Retry-After, else none |
| 401                                   | refusal   | unauthorised |                        |
| 403                                   | refusal   | forbidden    |                        |
| 451                                   | refusal   | geo_blocked  |                        |
| other 4xx                             | refusal   | bad_request  |                        |
| none within the timeout               | retryable | timeout      | none                   |
| connection refused, reset or cut      | retryable | connection   | none                   |
| body too large, or does not decompress | retryable | bad_payload | none                   |

3xx is retryable because the APIs do not redirect: a proxy or a maintenance page between us and the exchange does.

A retryable error without `retry_after_s` is retried with backoff. One with `retry_after_s` must not be retried earlier;
callers wait for it where their time allows, else they give up. Retry-After counts if it is a positive, finite number
of seconds, up to `MAX_RETRY_AFTER_S`; an HTTP date, 0, a negative number, NaN and infinity are ignored. A refusal is
not repeated at once; a program that runs on requests the source again after a longer pause (`exchanges.refusals`). It
carries `code`, the `code` of a body such as Binance's {"code": -1121, "msg": "Invalid symbol."}.
"""

from collections.abc import Callable, Mapping
from typing import Any

from exchanges.fields import decode_json
from marketdata.errors import FatalSourceError, InvalidValueError, RetryableSourceError, SourceError
from marketdata.vocabulary import SourceStatus

DEFAULT_RATE_LIMIT_S = 5.0
"""Pause after a 429 without a usable Retry-After."""
DEFAULT_BAN_S = 120.0
"""Pause after a 418 without a usable Retry-After: Binance's shortest ban."""

MAX_RETRY_AFTER_S = 3600.0
"""A longer Retry-After is shortened to this: the source is then requested again, and may ask for another pause."""


class ProxyFailedError(Exception):
    """A proxy cannot be reached, or does not connect to the exchange; the message names its setting."""


_RATE_LIMITED, _BANNED = 429, 418
_RETRYABLE_4XX = frozenset({408, 425})
_REFUSAL_KINDS = {401: SourceStatus.UNAUTHORISED, 403: SourceStatus.FORBIDDEN, 451: SourceStatus.GEO_BLOCKED}
_HOST_REFUSES = frozenset({403, 451})
_SUCCESS, _REDIRECT, _CLIENT_ERROR, _SERVER_ERROR = 200, 300, 400, 500
_MAX_SHOWN = 120


def classify_status(
    where: str, status: int, headers: Mapping[str, str], body: bytes = b"", setting: str = ""
) -> SourceError:
    """The error of a response that cannot be used.

    Args:
        where: source and request; the message starts with it.
        status: HTTP status; 2xx only where a success was not expected, such as a WebSocket handshake.
        headers: case-insensitive mapping.
        body: as received; its text becomes part of the message.
        setting: name of the setting that holds the host; messages about a refusing host name it.
    """
    shown = _shown(body)
    message = f"{where}: HTTP {status}: {shown}" if shown else f"{where}: HTTP {status}"
    if status == _RATE_LIMITED:
        return _retryable(message, SourceStatus.RATE_LIMITED, _retry_after_s(headers, DEFAULT_RATE_LIMIT_S))
    if status == _BANNED:
        return _retryable(message, SourceStatus.BANNED, _retry_after_s(headers, DEFAULT_BAN_S))
    if not _CLIENT_ERROR <= status < _SERVER_ERROR or status in _RETRYABLE_4XX:
        return _retryable(message, SourceStatus.SERVER_ERROR, _retry_after_s(headers, None))
    if status in _HOST_REFUSES and setting:
        message += f"; if it lasts, set {setting} to a host that accepts requests from this network, or exchanges.proxy"
    return FatalSourceError(message, _REFUSAL_KINDS.get(status, SourceStatus.BAD_REQUEST), _code(body))


def unreachable(where: str, error: Exception, setting: str) -> RetryableSourceError:
    """The error of a host that cannot be resolved or connected to, or that ends the connection.

    Args:
        where: source and request; the message starts with it.
        error: of the HTTP library, or a `ProxyFailedError`.
        setting: name of the setting that holds the host.
    """
    if isinstance(error, ProxyFailedError):
        return RetryableSourceError(f"{where}: {error}", SourceStatus.CONNECTION)
    message = (
        f"{where}: {error!r}; if it lasts, check the network, or set {setting} to another host, or exchanges.proxy"
    )
    return RetryableSourceError(message, SourceStatus.CONNECTION)


def decode_response(
    where: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    setting: str = "",
    decode: Callable[[bytes], Any] = decode_json,
) -> Any:
    """Decoded body of a 2xx response; `decode` raises `InvalidValueError`.

    Raises:
        RetryableSourceError: a status that may pass, or a body that is not valid.
        FatalSourceError: any other status.
    """
    if not _SUCCESS <= status < _REDIRECT:
        raise classify_status(where, status, headers, body, setting)
    try:
        return decode(body)
    except InvalidValueError as error:
        raise RetryableSourceError(f"{where}: {error}", SourceStatus.BAD_PAYLOAD) from error


def _retryable(message: str, kind: SourceStatus, retry_after_s: float | None) -> RetryableSourceError:
    if retry_after_s is not None:
        message += f"; retry after {retry_after_s:g} s"
    return RetryableSourceError(message, kind, retry_after_s)


def _retry_after_s(headers: Mapping[str, str], default: float | None) -> float | None:
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return default
    return min(seconds, MAX_RETRY_AFTER_S) if 0 < seconds < float("inf") else default


def _code(body: bytes) -> int | None:
    try:
        decoded = decode_json(body)
    except InvalidValueError:
        return None
    code = decoded.get("code") if isinstance(decoded, dict) else None
    return code if isinstance(code, int) else None


def _shown(body: bytes) -> str:
    flat = " ".join(body.decode(errors="replace").split())
    return flat if len(flat) <= _MAX_SHOWN else flat[:_MAX_SHOWN] + "…"
