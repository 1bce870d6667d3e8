"""Downloads the klines of a plan from the exchange."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from batch.klines.history import History
from batch.klines.plan import Span
from batch.progress import write_progress
from exchanges.binance.endpoints import INVALID_SYMBOL
from exchanges.binance.kline_client import KlineClient
from exchanges.binance.klines import Kline
from marketdata.errors import FatalSourceError, StorageError
from marketdata.vocabulary import SourceStatus

_CONCURRENT_REQUESTS = 2  # at most one more request is in flight when the exchange sends 429; more could cause a ban
_log = logging.getLogger(__name__)


def download_klines(client: KlineClient, spans: Sequence[Span], stopped: Callable[[], bool]) -> History:
    """Request all spans. A market that the exchange does not list is skipped with a warning.

    Rows that are not valid are left out; the client logs them.

    Raises:
        RetryableSourceError: no usable response despite retries, or a ban or pause of more than two minutes.
        FatalSourceError: any refusal but an unknown symbol (firewall, location, …), or all symbols are unknown.
        StorageError: `stopped` returned True.
    """
    found: dict[tuple[str, str], dict[int, Kline]] = {}
    symbols = client.symbols
    missing = {span.market for span in spans if not symbols.is_listed(span.market)}
    refused = {market.symbol: str(symbols.problem(market)) for market in missing}

    def fetch(span: Span) -> list[Kline]:
        if stopped():
            msg = "backfill: stopped; nothing of this run was stored"
            raise StorageError(msg)
        if span.market.symbol in refused:
            return []
        try:
            return client.fetch(client.symbols.name(span.market), span.interval, span.from_ms, span.to_ms)
        except FatalSourceError as error:
            if error.code != INVALID_SYMBOL:
                raise
            if span.market.symbol not in refused:
                _log.warning("%s: no klines, market skipped: %s", span.market.symbol, error)
            refused[span.market.symbol] = str(error)
            return []

    with ThreadPoolExecutor(_CONCURRENT_REQUESTS, thread_name_prefix="klines") as pool:
        try:
            for done, (span, klines) in enumerate(zip(spans, pool.map(fetch, spans), strict=True), start=1):
                found.setdefault((span.market.symbol, span.interval), {}).update({k.open_ms: k for k in klines})
                write_progress("backfill klines", done, len(spans))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if refused and len(refused) == len({span.market.symbol for span in spans}):
        msg = "backfill: " + "; ".join(f"{symbol}: {why}" for symbol, why in sorted(refused.items()))
        raise FatalSourceError(msg, SourceStatus.UNKNOWN_SYMBOL)
    return History.of(found, refused, n_refused=client.n_refused)
