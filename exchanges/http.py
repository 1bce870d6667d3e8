"""One GET, and what its outcome means: JSON, or an error that says whether trying again makes sense.

Kinds: timeout, connection, rate_limited, banned, forbidden, unauthorised, geo_blocked, server_error, bad_request,
bad_payload. The client is handed in.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import msgspec

from marketdata.errors import FatalSourceError, RetryableSourceError, SourceError

DEFAULT_RATE_LIMIT_S = 5.0  # a 429 that names no time
DEFAULT_BAN_S = 120.0  # Binance bans for 2 minutes at least

_RATE_LIMITED = 429
_BANNED = 418
_FATAL = {401: "unauthorised", 403: "forbidden", 451: "geo_blocked"}
_PASSING = (408, 425)
_SHOWN = 120


class JsonClient:
    """GETs JSON of one source."""

    def __init__(
        self,
        source: str,
        base_url: str,
        client: httpx.AsyncClient,
        *,
        headers: Mapping[str, str] | None = None,
        on_request: Callable[[], None] = lambda: None,
    ) -> None:
        self._source = source
        self._base_url = base_url.rstrip("/")
        self._client = client
        self._headers = dict(headers or {})
        self._on_request = on_request

    async def get(self, path: str, params: Mapping[str, str], timeout_s: float) -> tuple[Any, httpx.Headers]:
        """The decoded body and the headers of one GET; `timeout_s` bounds all of it, in real seconds.

        Raises:
            RetryableSourceError: no answer, a refusal that passes, or a body that is not JSON.
            FatalSourceError: a refusal that does not pass.
        """
        where = f"{self._source}: GET {path}"
        self._on_request()
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.get(self._base_url + path, params=params, headers=self._headers)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise RetryableSourceError(f"{where}: no answer within {timeout_s:.3g} s", "timeout") from error
        except httpx.TransportError as error:
            raise RetryableSourceError(f"{where}: {error!r}", "connection") from error
        except httpx.DecodingError as error:
            raise RetryableSourceError(f"{where}: {error!r}", "bad_payload") from error
        if not response.is_success:
            raise refusal(where, response)
        try:
            return msgspec.json.decode(response.content), response.headers
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            shown = response.content[:_SHOWN]
            raise RetryableSourceError(f"{where}: body {shown!r}: expected JSON ({error})", "bad_payload") from error


def refusal(where: str, response: httpx.Response) -> SourceError:
    """The error that an answer other than 2xx is."""
    said = f"{where}: HTTP {response.status_code}: {_flat(response.text)}"
    return judged(said, response.status_code, response.headers.get("retry-after", ""), _code(response.content))


def judged(said: str, status: int, retry_after: str, code: int | None = None) -> SourceError:
    """What an HTTP status other than success means for who asked.

    Args:
        said: the message of the error.
        status: the answer's.
        retry_after: its header Retry-After, empty where there is none.
        code: the exchange's own code of it.
    """
    if status == _RATE_LIMITED:
        return RetryableSourceError(said, "rate_limited", _seconds(retry_after, DEFAULT_RATE_LIMIT_S))
    if status == _BANNED:
        # A ban ends. Going on during it makes it longer, so it opens the circuit until then.
        return RetryableSourceError(said, "banned", _seconds(retry_after, DEFAULT_BAN_S))
    if status in _FATAL:
        return FatalSourceError(said, _FATAL[status])
    # A proxy or a maintenance page in between is not about our request.
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status in _PASSING or status < httpx.codes.BAD_REQUEST:
        return RetryableSourceError(said, "server_error", _seconds(retry_after, None))
    return FatalSourceError(said, "bad_request", code)


def _seconds(text: str, default: float | None) -> float | None:
    """A Retry-After's seconds; its other form, an HTTP date, is taken as `default`."""
    try:
        seconds = float(text)
    except ValueError:
        return default
    return seconds if 0 <= seconds < float("inf") else default


def _code(body: bytes) -> int | None:
    """The `code` of a refusal like Binance's {"code": -1121, "msg": …}."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    code = told.get("code") if isinstance(told, dict) else None
    return code if isinstance(code, int) else None


def _flat(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN else flat[:_SHOWN] + "…"
