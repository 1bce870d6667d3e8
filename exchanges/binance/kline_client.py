"""Klines over HTTP: one request for at most 1,000 candles, retried where that can help, within the exchange's weight.

Wire format: Binance spot REST, GET /api/v3/klines. Rows are [open time, open, high, low, close, volume, close time,
quote volume, trades, taker buy base, taker buy quote, unused]; times are ms, prices and volumes JSON strings.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import stamina

from config.sections import BinanceSettings
from marketdata.errors import FatalSourceError, RetryableSourceError, SourceError
from marketdata.times import HOUR_MS, MINUTE_MS, from_http_date

_log = logging.getLogger(__name__)

STEP_MS = {"1m": MINUTE_MS, "1h": HOUR_MS}
ROWS_A_REQUEST = 1000
INVALID_SYMBOL, BAD_REQUEST = "invalid_symbol", "bad_request"
_WEIGHT_HEADER = "x-mbx-used-weight-1m"
_WEIGHT_SHARE = 0.8  # the rest is left to the streams, which share this machine's address
_COLUMNS = 11
_FATAL = {401, 403, 418, 451}
_TRIES, _TRY_S = 8, 120.0


@dataclass(frozen=True, slots=True)
class Kline:
    """One closed candle as the exchange told it; the fields are those of `marketdata.records.Candle`."""

    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    n_trades: int
    taker_buy_volume: float
    taker_buy_quote_volume: float


def parse_row(row: Sequence[Any], step_ms: int) -> tuple[Kline, int]:
    """One row of an answer as a candle, and its close time in ms.

    Raises:
        ValueError: it is not such a row, or what it says cannot be: which, is in the message.
    """
    if not isinstance(row, list | tuple) or len(row) < _COLUMNS:
        msg = f"kline {row!r}: expected a list of at least {_COLUMNS} values"
        raise ValueError(msg)
    open_ms, close_ms = int(row[0]), int(row[6])
    o, h, low, c, volume, quote_volume, taker, taker_quote = (float(row[i]) for i in (1, 2, 3, 4, 5, 7, 9, 10))
    if open_ms % step_ms or not open_ms < close_ms <= open_ms + step_ms:
        msg = f"kline {row!r}: expected an open time on the interval's grid and a close time before the next"
        raise ValueError(msg)
    if not all(map(math.isfinite, (o, h, low, c, volume, quote_volume, taker, taker_quote))):
        msg = f"kline {row!r}: expected finite numbers"
        raise ValueError(msg)
    if not 0 < low <= min(o, c) <= max(o, c) <= h or volume < 0:
        msg = f"kline {row!r}: expected 0 < low <= open, close <= high and a volume of 0 or more"
        raise ValueError(msg)
    return Kline(open_ms, o, h, low, c, volume, quote_volume, int(row[8]), taker, taker_quote), close_ms


class KlineClient:
    """Asks one exchange for klines; may be shared by a few threads.

    Args:
        http: a client without a base URL. settings: where, and how much weight a minute.
        real_seconds: how long seconds of the exchange's time, in which it tells waits and counts weight, take here.
        monotonic, sleep: the machine's, but for tests.
    """

    def __init__(
        self,
        http: httpx.Client,
        settings: BinanceSettings,
        *,
        real_seconds: Callable[[float], float] = lambda exchange_s: exchange_s,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = http
        self._settings = settings
        self._real_seconds = real_seconds
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._not_before = 0.0

    def fetch(self, symbol: str, interval: str, from_ms: int, to_ms: int) -> list[Kline]:
        """The closed candles with an open time in [from_ms, to_ms), at most 1,000 of them, ascending.

        Raises:
            FatalSourceError: the exchange refuses (kind `invalid_symbol`: it does not know the symbol).
            RetryableSourceError: it did not answer well after several tries.
        """
        attempts = stamina.retry_context(
            on=self._backoff, attempts=_TRIES, timeout=_TRY_S, wait_initial=0.2, wait_max=10.0
        )
        for attempt in attempts:
            with attempt:
                return self._fetch(symbol, interval, from_ms, to_ms)
        raise AssertionError  # the loop returns or raises

    def _backoff(self, error: Exception) -> bool | float:
        if not isinstance(error, RetryableSourceError):
            return False
        return True if error.retry_after_s is None else self._real_seconds(error.retry_after_s)

    def _fetch(self, symbol: str, interval: str, from_ms: int, to_ms: int) -> list[Kline]:
        step_ms = STEP_MS[interval]
        self._pace()
        url = f"{self._settings.base_url}/api/v3/klines"
        asked: dict[str, str | int] = {
            "symbol": symbol,
            "interval": interval,
            "startTime": from_ms,
            "endTime": to_ms - 1,
            "limit": ROWS_A_REQUEST,
        }
        what = f"klines {symbol} {interval}"
        try:
            response = self._http.get(url, params=asked, timeout=self._settings.timeout_s)
        except httpx.TimeoutException as error:
            msg = f"{what}: no answer within {self._settings.timeout_s:g} s"
            raise RetryableSourceError(msg, "timeout") from error
        except httpx.HTTPError as error:
            msg = f"{what}: {type(error).__name__}: {error}"
            raise RetryableSourceError(msg, "connection") from error
        self._note_weight(response)
        if response.status_code != httpx.codes.OK:
            refusal = _refusal(what, response)
            if isinstance(refusal, RetryableSourceError) and refusal.retry_after_s is not None:
                # All of us: who goes on asking is banned.
                self._hold_back(refusal.retry_after_s, str(refusal))
            raise refusal
        try:
            rows = [parse_row(row, step_ms) for row in response.json()]
        except (ValueError, TypeError) as error:
            msg = f"{what}: {error}"
            raise RetryableSourceError(msg, "garbage") from error
        # A candle that ends after the exchange's own time is not closed, whatever our clock says.
        date_ms = from_http_date(response.headers.get("date"))
        closed_ms = to_ms if date_ms is None else min(to_ms, date_ms)
        return [kline for kline, close_ms in rows if from_ms <= kline.open_ms < to_ms and close_ms < closed_ms]

    def _pace(self) -> None:
        with self._lock:
            wait_s = self._not_before - self._monotonic()
        if wait_s > 0:
            self._sleep(wait_s)

    def _note_weight(self, response: httpx.Response) -> None:
        used = response.headers.get(_WEIGHT_HEADER, "0")
        if used.isdigit() and int(used) >= _WEIGHT_SHARE * self._settings.weight_per_minute:
            # The count starts anew with each minute of the exchange's clock: a minute from now it surely has.
            self._hold_back(60.0, f"{used} of {self._settings.weight_per_minute} weight a minute are used")

    def _hold_back(self, exchange_s: float, why: str) -> None:
        wait_s = self._real_seconds(exchange_s)
        with self._lock:
            self._not_before = max(self._not_before, self._monotonic() + wait_s)
        _log.warning("%s; the next request waits %.3g s (%g s of exchange time)", why, wait_s, exchange_s)


def _refusal(what: str, response: httpx.Response) -> SourceError:
    status = response.status_code
    code, said = None, response.text[:200]
    try:
        body = response.json()
        code, said = body["code"], body["msg"]
    except (ValueError, KeyError, TypeError):
        pass
    msg = f"{what}: HTTP {status}: {said}"
    if status == httpx.codes.TOO_MANY_REQUESTS:
        retry_after = response.headers.get("retry-after", "")
        return RetryableSourceError(msg, "rate_limited", float(retry_after) if retry_after.isdigit() else None)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return RetryableSourceError(msg, "server_error")
    if code == -1121:  # noqa: PLR2004  Binance's own number
        return FatalSourceError(msg, INVALID_SYMBOL)
    return FatalSourceError(msg, "refused" if status in _FATAL else BAD_REQUEST)
