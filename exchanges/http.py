"""HTTP clients of one source: GET JSON, or raise a retryable or a fatal error.

`JsonClient` serves event loops, `BlockingJsonClient` threads. Both classify responses by `exchanges.classification`.
Neither retries. The httpx client is passed in and stays the caller's.

The size of a response is limited: a body is decompressed piece by piece (`exchanges.body`), and reading ends once it is
too large. URLs of requests for many markets are limited by `JsonClient.room`.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from exchanges.body import MAX_BODY_BYTES, Body
from exchanges.classification import ProxyFailedError, decode_response, unreachable
from exchanges.fields import decode_json
from marketdata.errors import InvalidValueError, RetryableSourceError
from marketdata.vocabulary import SourceStatus

MAX_URL_BYTES = 4_000
"""Longest URL that is sent: servers and proxies refuse longer ones, some from 4,096 bytes."""

_MAX_QUERY = 120
_ACCEPTED = {"accept-encoding": "gzip"}


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
            source: name of the source and of its section of the settings, for messages.
            base_url: prefix of each path.
            client: sends the requests.
            headers: sent with each request.
            on_request: called before each request.
            on_headers: called with the headers of each response, whatever its status.
        """
        self._source = source
        self._setting = f"{source}.base_url"
        self._base_url = base_url.rstrip("/")
        self._client = client
        self._headers = _ACCEPTED | dict(headers or {})
        self._on_request = on_request
        self._on_headers = on_headers

    def room(self, path: str, params: Mapping[str, str]) -> int:
        """Bytes that are left for more values in the URL of a request."""
        return MAX_URL_BYTES - len(str(httpx.URL(self._base_url + path, params=dict(params))))

    async def get(
        self,
        path: str,
        params: Mapping[str, str],
        timeout_s: float,
        max_bytes: int = MAX_BODY_BYTES,
        decode: Callable[[bytes], Any] = decode_json,
    ) -> tuple[Any, httpx.Headers]:
        """Decoded body and headers of one GET.

        Args:
            path: after the base URL.
            params: query.
            timeout_s: limits the whole request, in real seconds.
            max_bytes: limits the body, decompressed.
            decode: decodes the body; raises `InvalidValueError`.

        Raises:
            RetryableSourceError: no response, a status that may pass, or a body that is too large or not JSON.
            FatalSourceError: the source refuses the request.
        """
        where = _request_name(self._source, self._base_url + path, params)
        self._on_request()
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._client.stream("GET", self._base_url + path, params=params, headers=self._headers) as response,
            ):
                self._on_headers(response.headers)
                body = Body(response, max_bytes)
                async for chunk in response.aiter_raw():
                    if not body.add(chunk):
                        break
        except (TimeoutError, httpx.RequestError, InvalidValueError, ProxyFailedError) as error:
            raise _request_error(where, error, timeout_s, self._setting) from error
        content, headers = body.content(), response.headers
        return decode_response(where, response.status_code, headers, content, self._setting, decode), headers


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
        self._setting = f"{source}.base_url"
        self._base_url = base_url.rstrip("/")
        self._client = client
        self._on_headers = on_headers

    def get(
        self,
        path: str,
        params: Mapping[str, str],
        timeout_s: float,
        max_bytes: int = MAX_BODY_BYTES,
        decode: Callable[[bytes], Any] = decode_json,
    ) -> tuple[Any, httpx.Headers]:
        """Decoded body and headers of one GET; arguments are those of `JsonClient.get`.

        `timeout_s`, in real seconds, limits each wait for the network, and the time until the body is complete.

        Raises:
            RetryableSourceError: no response, a status that may pass, or a body that is too large or not JSON.
            FatalSourceError: the source refuses the request.
        """
        where = _request_name(self._source, self._base_url + path, params)
        deadline = time.monotonic() + timeout_s
        try:
            with self._client.stream(
                "GET", self._base_url + path, params=params, headers=_ACCEPTED, timeout=timeout_s
            ) as response:
                self._on_headers(response.headers)
                body = Body(response, max_bytes)
                for chunk in response.iter_raw():
                    if time.monotonic() > deadline:  # httpx limits only the wait for each chunk
                        raise TimeoutError  # noqa: TRY301  one place makes the error
                    if not body.add(chunk):
                        break
        except (TimeoutError, httpx.RequestError, InvalidValueError, ProxyFailedError) as error:
            raise _request_error(where, error, timeout_s, self._setting) from error
        content, headers = body.content(), response.headers
        return decode_response(where, response.status_code, headers, content, self._setting, decode), headers


def _request_name(source: str, url: str, params: Mapping[str, str]) -> str:
    query = "&".join(f"{name}={value}" for name, value in params.items())
    if len(query) > _MAX_QUERY:
        query = query[:_MAX_QUERY] + "…"
    return f"{source}: GET {url}?{query}" if query else f"{source}: GET {url}"


def _request_error(where: str, error: Exception, timeout_s: float, setting: str) -> RetryableSourceError:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return RetryableSourceError(f"{where}: no response within {timeout_s:.3g} s", SourceStatus.TIMEOUT)
    if isinstance(error, InvalidValueError):
        return RetryableSourceError(f"{where}: {error}", SourceStatus.BAD_PAYLOAD)
    return unreachable(where, error, setting)
