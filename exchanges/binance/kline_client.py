"""Fetch klines with threads: retries, pauses that the exchange asks for, and its limit of request weight."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import httpx
import stamina

from config.sections import BinanceSettings
from exchanges.binance.endpoints import (
    EXCHANGE_INFO,
    EXCHANGE_INFO_QUERIES,
    KLINES,
    MAX_EXCHANGE_INFO_BYTES,
    NAME,
    used_weight,
)
from exchanges.binance.klines import Kline, as_of_ms, closed_klines, klines_query
from exchanges.binance.symbols import ExchangeInfo, Symbols, parse_exchange_info
from exchanges.http import BlockingJsonClient
from exchanges.refused_rows import log_refused
from marketdata.errors import FatalSourceError, InvalidValueError, RetryableSourceError, SourceError
from marketdata.markets import Market
from marketdata.vocabulary import SourceStatus

T = TypeVar("T")

_log = logging.getLogger(__name__)

_WEIGHT_SHARE = 0.8  # the rest is for the streams, which may share this machine's address
_WEIGHT_WINDOW_S = 60.0  # of exchange time
_ATTEMPTS = 8
_INFO_ATTEMPTS = 3  # without the list, base and quote are concatenated
_INFO_TIMEOUT_S = 30.0  # real seconds, of the list of symbols
_BUDGET_S = 120.0  # real seconds: for all attempts of a request, and the longest pause to wait for


class KlineClient:
    """Client of one exchange; threads may share it."""

    def __init__(
        self,
        http: httpx.Client,
        settings: BinanceSettings,
        *,
        real_seconds: Callable[[float], float] = lambda exchange_s: exchange_s,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Send no request.

        Args:
            http: client without a base URL.
            settings: address, timeout and weight limit.
            real_seconds: converts seconds of exchange time, in which the exchange counts pauses and weight.
            monotonic: real seconds.
            sleep: waits real seconds; may return early when `stopped` returns True.
            stopped: whether the program ends: there is no further attempt and no further wait.
        """
        self.symbols = Symbols(())
        self._http = BlockingJsonClient(NAME, settings.base_url, http, on_headers=self._check_weight)
        self._settings = settings
        self._real_seconds = real_seconds
        self._monotonic = monotonic
        self._sleep = sleep
        self._stopped = stopped
        self._lock = threading.Lock()
        self._pause_reason: RetryableSourceError | None = None
        self._pause_end = 0.0
        self.n_refused = 0

    def resolve(self, markets: Sequence[Market]) -> None:
        """Read the exchange's symbols of some markets into `symbols`; without an answer, base and quote are used."""
        self.symbols = Symbols(markets)
        try:
            self.symbols.update(self._retried(self._exchange_info, _INFO_ATTEMPTS))
        except SourceError as error:
            self.symbols.log_unavailable(error)

    def _exchange_info(self) -> ExchangeInfo:
        for query in EXCHANGE_INFO_QUERIES:
            self._wait_for_pause()
            try:
                found, _headers = self._http.get(
                    EXCHANGE_INFO, query, _INFO_TIMEOUT_S, MAX_EXCHANGE_INFO_BYTES, parse_exchange_info
                )
            except RetryableSourceError as error:
                self._start_pause(error)
                raise
            except FatalSourceError as error:
                if error.kind != SourceStatus.BAD_REQUEST or query is EXCHANGE_INFO_QUERIES[-1]:
                    raise
                continue
            return found  # type: ignore[no-any-return]  # of parse_exchange_info
        raise AssertionError("the last query ends with a result or an error")

    def fetch(self, symbol: str, interval: str, from_ms: int, to_ms: int) -> list[Kline]:
        """The closed candles with an open time in [from_ms, to_ms), at most 1,000, ascending.

        Rows that are not valid are left out, logged, and counted in `n_refused`.

        Raises:
            FatalSourceError: the exchange refuses; `code` is -1121 when it does not have the symbol.
            RetryableSourceError: no usable response after retries, or a pause of more than two minutes.
        """
        return self._retried(lambda: self._fetch(symbol, interval, from_ms, to_ms))

    def _retried(self, request: Callable[[], T], attempts: int = _ATTEMPTS) -> T:
        for attempt in stamina.retry_context(
            on=self._backoff, attempts=attempts, timeout=_BUDGET_S, wait_initial=0.2, wait_max=10.0
        ):
            with attempt:
                return request()
        raise AssertionError("stamina ends with a result or an error")

    def _backoff(self, error: Exception) -> bool | float:
        """True for a backoff, 0 where `_wait_for_pause` waits, False for no retry."""
        if not isinstance(error, RetryableSourceError) or self._stopped():
            return False
        if error.retry_after_s is None:
            return True
        return 0.0 if self._real_seconds(error.retry_after_s) <= _BUDGET_S else False

    def _fetch(self, symbol: str, interval: str, from_ms: int, to_ms: int) -> list[Kline]:
        self._wait_for_pause()
        try:
            payload, headers = self._http.get(
                KLINES, klines_query(symbol, interval, from_ms, to_ms - 1), self._settings.timeout_s
            )
        except RetryableSourceError as error:
            self._start_pause(error)
            raise
        try:
            refused: list[str] = []
            klines = closed_klines(
                payload, interval, as_of_ms(to_ms, headers), lambda _row, error: refused.append(str(error))
            )
        except InvalidValueError as error:
            raise RetryableSourceError(f"{NAME}: {symbol} {interval}: {error}", SourceStatus.BAD_PAYLOAD) from error
        if refused:
            with self._lock:
                self.n_refused += len(refused)
            where = f"{self._settings.base_url}{KLINES}?symbol={symbol}&interval={interval}&startTime={from_ms}"
            log_refused(_log, where, refused)
        return [kline for kline in klines if from_ms <= kline.open_ms < to_ms]

    def _wait_for_pause(self) -> None:
        """Wait until the pause is over: requests during it bring a ban.

        Raises:
            RetryableSourceError: the pause takes too long, or the program ends.
        """
        while True:
            with self._lock:
                reason, wait_s = self._pause_reason, self._pause_end - self._monotonic()
            if reason is None or wait_s <= 0:
                return
            if wait_s > _BUDGET_S or self._stopped():
                raise RetryableSourceError(str(reason), reason.kind, reason.retry_after_s)
            self._sleep(wait_s)  # meanwhile another thread may prolong the pause

    def _check_weight(self, headers: Mapping[str, str]) -> None:
        own = self.symbols.weight_per_minute
        limit = self._settings.weight_per_minute if own is None else min(own, self._settings.weight_per_minute)
        used = used_weight(headers)
        if used is not None and used >= _WEIGHT_SHARE * limit:
            # Binance resets the count with each minute of its clock.
            message = f"{NAME}: {used} of {limit} weight per minute used"
            self._start_pause(RetryableSourceError(message, SourceStatus.RATE_LIMITED, _WEIGHT_WINDOW_S))

    def _start_pause(self, reason: RetryableSourceError) -> None:
        """Let the requests of all threads wait for `reason.retry_after_s`, if any."""
        if reason.retry_after_s is None:
            return
        wait_s = self._real_seconds(reason.retry_after_s)
        with self._lock:
            end = self._monotonic() + wait_s
            if end > self._pause_end:
                self._pause_reason, self._pause_end = reason, end
        if wait_s <= _BUDGET_S:
            _log.warning("%s; the next request waits %.3g s", reason, wait_s)
