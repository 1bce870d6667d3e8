"""Event time: from this machine's clock, or from the exchange's clock, which a replay may run faster."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

import httpx
import stamina

from clients.proxies import open_blocking_client
from config.settings import Settings
from exchanges.binance import endpoints
from exchanges.body import Body
from exchanges.classification import ProxyFailedError
from exchanges.fields import decode_json, integer
from marketdata.bounds import LATEST_MS
from marketdata.errors import InvalidValueError, RetryableSourceError

JUMP_S = 60.0
"""Seconds of this machine by which a server time may differ from the expected one before it counts as a jump."""

log = logging.getLogger(__name__)

_MAX_BODY_BYTES = 64 << 10  # {"serverTime": 1722816000000}


class Clock(Protocol):
    """A source of event time."""

    def now_ms(self) -> int:
        """Current event time: Unix time in ms, UTC."""
        ...

    def real_seconds(self, event_s: float) -> float:
        """How many seconds of this machine's time `event_s` seconds of event time take."""
        ...


class SystemClock:
    """This machine's UTC clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def real_seconds(self, event_s: float) -> float:
        return event_s


class ExchangeClock:
    """The exchange's server time, advanced between two requests by the monotonic clock times `speed`.

    It keeps advancing while the exchange does not answer, and does not run backwards when a server time is a little
    behind. A server time that jumps is followed, forwards or backwards, once a second request confirms it.

    Args:
        fetch_ms: requests the server time, in ms.
        speed: event seconds per second of this machine.
        monotonic: this machine's monotonic clock, in seconds.
        resync_s: the first `now_ms` that is called `resync_s` seconds or more after the last request makes the next
            one. None: never, so that `now_ms` does not block an event loop; call `synchronise` in a thread instead.

    Raises:
        RetryableSourceError: the exchange does not answer.
    """

    def __init__(
        self,
        fetch_ms: Callable[[], int],
        speed: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        resync_s: float | None = 30.0,
    ) -> None:
        self._fetch_ms = fetch_ms
        self._speed = speed
        self._monotonic = monotonic
        self._resync_s = resync_s
        self._lock = threading.Lock()
        self._last_ms = 0
        self._anchor_ms = 0
        self._anchor = self._requested = 0.0
        self.synchronise()

    def synchronise(self) -> None:
        """Request the server time. Blocks for one request, or two if the time has jumped.

        Raises:
            RetryableSourceError: the exchange does not answer.
        """
        found = self._request()
        jumped = self._anchor_ms > 0 and self._differ(found, (self._anchor_ms, self._anchor))
        if jumped:
            again = self._request()
            if self._differ(again, found):
                log.warning("exchange time %d ms is ignored: the next response was %d ms", found[0], again[0])
                if self._differ(again, (self._anchor_ms, self._anchor)):
                    self._requested = again[1]
                    return
                jumped = False
            else:
                by_s = self._apart_ms(again, (self._anchor_ms, self._anchor)) / 1000
                log.warning("exchange time jumped by %+.0f s, to %d ms", by_s, again[0])
            found = again
        with self._lock:
            self._anchor_ms, self._anchor = found
            self._requested = found[1]
            if jumped:
                self._last_ms = 0

    def _differ(self, one: tuple[int, float], other: tuple[int, float]) -> bool:
        """Whether two server times, each with its monotonic time, are further apart than delays explain."""
        return abs(self._apart_ms(one, other)) > JUMP_S * 1000 * self._speed

    def _apart_ms(self, one: tuple[int, float], other: tuple[int, float]) -> float:
        return one[0] - other[0] - (one[1] - other[1]) * 1000 * self._speed

    def _request(self) -> tuple[int, float]:
        """Request the server time; return it, and the time of the monotonic clock to which it belongs."""
        before = self._monotonic()
        server_ms = self._fetch_ms()
        after = self._monotonic()
        # The server read its clock at some time between the two; half the round trip is assumed (RFC 5905).
        return server_ms + round((after - before) / 2 * 1000 * self._speed), after

    def now_ms(self) -> int:
        if self._resync_s is not None and self._monotonic() - self._requested >= self._resync_s:
            try:
                self.synchronise()
            except RetryableSourceError:
                self._requested = self._monotonic()
        with self._lock:
            elapsed_ms = (self._monotonic() - self._anchor) * 1000 * self._speed
            self._last_ms = max(self._last_ms, self._anchor_ms + int(elapsed_ms))
            return self._last_ms

    def real_seconds(self, event_s: float) -> float:
        return event_s / self._speed


def clock_speed(settings: Settings) -> float:
    """Event seconds per second of this machine, by the settings; makes no request."""
    return settings.clock.speed if settings.clock.source == "exchange" else 1.0


def _get(settings: Settings, url: str, timeout_s: float) -> bytes:
    """The body of a GET; not `exchanges.http`, which imports asyncio.

    Raises:
        httpx.HTTPError: no response, or another status than 2xx.
        InvalidValueError: the body is too large, or does not decompress.
        OSError: not within `timeout_s`, or for example no more file descriptors.
        ProxyFailedError: the proxy does not connect.
    """
    deadline = time.monotonic() + timeout_s
    headers = {"accept-encoding": "gzip"}
    with (
        open_blocking_client(settings, url) as client,
        client.stream("GET", url, headers=headers, timeout=timeout_s) as response,
    ):
        body = Body(response.raise_for_status(), _MAX_BODY_BYTES)
        for chunk in response.iter_raw():
            if time.monotonic() > deadline:  # httpx limits only the wait for each chunk
                raise TimeoutError(f"no response within {timeout_s:g} s")
            if not body.add(chunk):
                break
    return body.content()


def build_clock(settings: Settings, *, resync_s: float | None = 30.0, wait_s: float = 0.0) -> Clock:
    """The clock that `clock.source` names.

    Args:
        settings: the whole tree.
        resync_s: of `ExchangeClock`.
        wait_s: how long to retry while the exchange does not answer, in seconds; 0: one attempt.

    Raises:
        RetryableSourceError: the exchange does not answer within `wait_s`.
    """
    if settings.clock.source == "system":
        return SystemClock()
    url = settings.binance.base_url + endpoints.TIME

    def fetch_ms() -> int:
        try:
            answer = decode_json(_get(settings, url, settings.binance.timeout_s))
            server_ms = integer(answer["serverTime"], "serverTime")
        except (httpx.HTTPError, ProxyFailedError, InvalidValueError, OSError, KeyError, TypeError) as error:
            msg = f'{url}: no exchange time: {error!r}; expected {{"serverTime": ms}}'
            raise RetryableSourceError(msg, "clock") from error
        if not 0 < server_ms <= LATEST_MS:
            msg = f"{url}: serverTime: {server_ms}: expected Unix time in ms"
            raise RetryableSourceError(msg, "clock")
        return server_ms

    for attempt in stamina.retry_context(
        on=RetryableSourceError,
        attempts=None if wait_s else 1,
        timeout=wait_s or None,
        wait_initial=0.2,
        wait_max=2.0,
    ):
        with attempt:
            return ExchangeClock(fetch_ms, settings.clock.speed, resync_s=resync_s)
    raise AssertionError  # the loop returns or raises
