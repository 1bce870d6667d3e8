"""The clocks that programs are handed: this machine's, or the exchange's own, which a replay runs faster.

Nothing else in the project reads the time of day.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol

import httpx

from config.settings import Settings
from exchanges.binance import endpoints
from marketdata.errors import RetryableSourceError


class Clock(Protocol):
    """Event time now."""

    def now_ms(self) -> int:
        """UTC, ms since the epoch."""
        ...

    def real_seconds(self, event_s: float) -> float:
        """How long, on this machine, `event_s` seconds of event time take."""
        ...


class SystemClock:
    """This machine's UTC clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def real_seconds(self, event_s: float) -> float:
        return event_s


class ExchangeClock:
    """Binance's server time (`GET /api/v3/time`), carried on between two looks by the monotonic clock times `speed`.

    It looks again at the first call that comes `resync_s` of real time after the last look; while the exchange does
    not answer it goes on from what it knows. It never runs backwards. A program with an event loop gives `resync_s`
    None, so that `now_ms` never waits for the network, and calls `synchronise` from a thread.
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
        self._anchor = self._looked = 0.0
        self.synchronise()

    def synchronise(self) -> None:
        """Take the server's time; may block for the time of one request.

        Raises:
            RetryableSourceError: the exchange does not answer.
        """
        before = self._monotonic()
        server_ms = self._fetch_ms()
        after = self._monotonic()
        with self._lock:
            # The answer was true somewhere between the two: half the round trip is the usual guess (RFC 5905).
            self._anchor_ms = server_ms + round((after - before) / 2 * 1000 * self._speed)
            self._anchor = self._looked = after

    def now_ms(self) -> int:
        if self._resync_s is not None and self._monotonic() - self._looked >= self._resync_s:
            try:
                self.synchronise()
            except RetryableSourceError:
                self._looked = self._monotonic()
        with self._lock:
            elapsed_ms = (self._monotonic() - self._anchor) * 1000 * self._speed
            self._last_ms = max(self._last_ms, self._anchor_ms + int(elapsed_ms))
            return self._last_ms

    def real_seconds(self, event_s: float) -> float:
        return event_s / self._speed


def clock_speed(settings: Settings) -> float:
    """Event seconds a real second on the clock that the settings choose; nothing is asked."""
    return settings.clock.speed if settings.clock.source == "exchange" else 1.0


def build_clock(settings: Settings, *, resync_s: float | None = 30.0) -> Clock:
    """The clock that the settings choose; `resync_s` is that of `ExchangeClock`.

    Raises:
        RetryableSourceError: `exchange` is chosen and its time cannot be had.
    """
    if settings.clock.source == "system":
        return SystemClock()
    url = settings.binance.base_url + endpoints.TIME

    def fetch_ms() -> int:
        try:
            response = httpx.get(url, timeout=settings.binance.timeout_s, trust_env=False)
            return int(response.raise_for_status().json()["serverTime"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            msg = f'{url}: no exchange time: {error!r}; expected {{"serverTime": ms}}'
            raise RetryableSourceError(msg, "clock") from error

    return ExchangeClock(fetch_ms, settings.clock.speed, resync_s=resync_s)
