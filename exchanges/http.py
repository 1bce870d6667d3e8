"""HTTP clients of one source: GET JSON, or raise a retryable or a fatal error.

`JsonClient` serves event loops, `BlockingJsonClient` threads. Both classify responses by `exchanges.classification`.
Neither retries. The httpx client is passed in and stays the caller's.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from exchanges.classification import decode_response
from marketdata.errors import RetryableSourceError
from marketdata.vocabulary import SourceStatus

_MAX_QUERY = 120


class JsonClient:
    """GET JSON of one source with asyncio."""

    def __init__(
        self,
        source: str,
        base_url: str,
        client: httpx.AsyncClient,
        *,
        headers: Mapping[str, str] | None = None,
        on_request: Callable[[], None] = lambda: None,
        on_headers: Callable[[Mapping[str, str]], None] = lambda _headers: None,
    ) -> None:
        """Open no connection.

        Args:
            source: name of the source, for messages.
            base_url: prefix of each path.
            client: sends the requests.
            headers: sent with each request.
            on_request: called before each request.
            on_headers: called with the headers of each response, whatever its status.
        """
        self._source = source
        self._base_url = base_url.rstrip("/")
        self._client = client
        self._headers = dict(headers or {})
        self._on_request = on_request
        self._on_headers = on_headers

    async def get(self, path: str, params: Mapping[str, str], timeout_s: float) -> tuple[Any, httpx.Headers]:
        """Decoded body and headers of one GET. `timeout_s` limits the whole request, in real seconds.

        Raises:
            RetryableSourceError: no response, a refusal that may pass, or a body that is not JSON.
            FatalSourceError: a refusal that does not pass.
        """
        where = _request_name(self._source, path, params)
        self._on_request()
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.get(self._base_url + path, params=params, headers=self._headers)
        except (TimeoutError, httpx.RequestError) as error:
            raise _request_error(where, error, timeout_s) from error
        self._on_headers(response.headers)
        return decode_response(where, response.status_code, response.headers, response.content), response.headers


class BlockingJsonClient:
    """GET JSON of one source; threads may share it."""

    def __init__(
        self,
        source: str,
        base_url: str,
        client: httpx.Client,
        *,
        on_headers: Callable[[Mapping[str, str]], None] = lambda _headers: None,
    ) -> None:
        """Open no connection; arguments are those of `JsonClient`."""
        self._source = source
        self._base_url = base_url.rstrip("/")
        self._client = client
        self._on_headers = on_headers

    def get(self, path: str, params: Mapping[str, str], timeout_s: float) -> tuple[Any, httpx.Headers]:
        """Decoded body and headers of one GET.

        `timeout_s`, in real seconds, limits each wait for the network, and the time until the body is complete.

        Raises:
            RetryableSourceError: no response, a refusal that may pass, or a body that is not JSON.
            FatalSourceError: a refusal that does not pass.
        """
        where = _request_name(self._source, path, params)
        deadline = time.monotonic() + timeout_s
        try:
            with self._client.stream("GET", self._base_url + path, params=params, timeout=timeout_s) as response:
                body = _read(response, deadline)
        except (TimeoutError, httpx.RequestError) as error:
            raise _request_error(where, error, timeout_s) from error
        self._on_headers(response.headers)
        return decode_response(where, response.status_code, response.headers, body), response.headers


def _read(response: httpx.Response, deadline: float) -> bytes:
    """The whole body; httpx itself limits only the wait for each chunk."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


def _request_name(source: str, path: str, params: Mapping[str, str]) -> str:
    query = "&".join(f"{name}={value}" for name, value in params.items())
    if len(query) > _MAX_QUERY:
        query = query[:_MAX_QUERY] + "…"
    return f"{source}: GET {path}?{query}" if query else f"{source}: GET {path}"


def _request_error(where: str, error: TimeoutError | httpx.RequestError, timeout_s: float) -> RetryableSourceError:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return RetryableSourceError(f"{where}: no response within {timeout_s:.3g} s", SourceStatus.TIMEOUT)
    kind = SourceStatus.BAD_PAYLOAD if isinstance(error, httpx.DecodingError) else SourceStatus.CONNECTION
    return RetryableSourceError(f"{where}: {error!r}", kind)
