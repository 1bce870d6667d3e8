"""Read the exchange's list of symbols for an event loop: at the first request, then once an hour.

The first poll waits for the first answer. If the list is refused or does not arrive, base and quote are concatenated,
which is logged once, and it is requested again: after 30 s, or after a refusal with pauses that grow up to an hour.
Collection continues meanwhile.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from exchanges.binance.endpoints import EXCHANGE_INFO, EXCHANGE_INFO_QUERIES, MAX_EXCHANGE_INFO_BYTES, NAME
from exchanges.binance.symbols import ExchangeInfo, Symbols, parse_exchange_info
from exchanges.http import JsonClient
from exchanges.refusals import refusal_pause_s
from marketdata.errors import FatalSourceError, RetryableSourceError, SourceError
from marketdata.markets import Market
from marketdata.vocabulary import SourceStatus

REFRESH_S = 3600.0
"""Real seconds after which the list is read again: markets come, go, and stop trading."""

_RETRY_S = 30.0  # of exchange time, after an error that may pass
_TIMEOUT_S = 10.0  # real seconds of one request


class SymbolResolver:
    """Keeps `symbols` up to date."""

    def __init__(
        self,
        http: JsonClient,
        markets: Sequence[Market],
        *,
        on_unknown: Callable[[str], None] = lambda _symbol: None,
        real_seconds: Callable[[float], float] = lambda exchange_s: exchange_s,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Send no request.

        Args:
            http: client of the REST API.
            markets: all configured markets.
            on_unknown: called with each market that the exchange does not list, once until it does.
            real_seconds: converts seconds of exchange time, in which the exchange counts pauses.
            monotonic: real seconds.
        """
        self.symbols = Symbols(markets)
        self._http = http
        self._on_unknown = on_unknown
        self._real_seconds = real_seconds
        self._monotonic = monotonic
        self._task: asyncio.Task[None] | None = None
        self._attempted = False
        self._failures = 0
        self._limit: RetryableSourceError | None = None
        self._due_at = float("-inf")
        self._unknown: set[Market] = set()

    @property
    def is_reading(self) -> bool:
        """Whether a request for the list is running."""
        return self._task is not None

    async def ensure(self, timeout_s: float = _TIMEOUT_S) -> None:
        """Wait until the first request for the list has ended; later, only start a request that is due.

        Raises:
            RetryableSourceError: it has not ended within `timeout_s` real seconds, or the exchange asks for a pause,
                which holds for all requests.
        """
        if self._task is None and self._monotonic() >= self._due_at:
            self._task = asyncio.create_task(self._refresh())
        if not self._attempted and self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout_s)
        if not self._attempted:
            message = f"{NAME}: {EXCHANGE_INFO}: no list of symbols within {timeout_s:.3g} s"
            raise RetryableSourceError(message, SourceStatus.TIMEOUT)
        limit, self._limit = self._limit, None
        if limit is not None:
            raise limit

    async def close(self) -> None:
        """Cancel a request that is running."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _refresh(self) -> None:
        pause_s = REFRESH_S
        try:
            info = await self._request()
        except SourceError as error:
            self._failures += 1
            exchange_s = refusal_pause_s(self._failures)
            if isinstance(error, RetryableSourceError):
                exchange_s = error.retry_after_s or _RETRY_S
                self._limit = error if error.retry_after_s is not None else None
            pause_s = self._real_seconds(exchange_s)
            if self._failures == 1:
                self.symbols.log_unavailable(error)
        else:
            self._failures = 0
            for market in self.symbols.update(info):
                if self.symbols.is_listed(market):
                    self._unknown.discard(market)
                elif market not in self._unknown:
                    self._unknown.add(market)
                    self._on_unknown(market.symbol)
        finally:
            self._due_at = self._monotonic() + pause_s
            self._attempted = True
            self._task = None

    async def _request(self) -> ExchangeInfo:
        for query in EXCHANGE_INFO_QUERIES:
            try:
                info, _headers = await self._http.get(
                    EXCHANGE_INFO, query, _TIMEOUT_S, MAX_EXCHANGE_INFO_BYTES, parse_exchange_info
                )
            except FatalSourceError as error:
                if error.kind != SourceStatus.BAD_REQUEST or query == EXCHANGE_INFO_QUERIES[-1]:
                    raise
                continue
            return info  # type: ignore[no-any-return]  # of parse_exchange_info
        raise AssertionError("the last query ends with a result or an error")
