"""Which symbol of the exchange each market is, from its exchangeInfo. Pure.

Wire format: /api/v3/exchangeInfo returns {"rateLimits", "symbols"}. A symbol has `symbol`, `baseAsset`, `quoteAsset`
and `status`; everything else is ignored, and so are entries of another form. Names are never cut into base and quote:
AFDUSD could be A-FDUSD or AFD-USD.

A market is the pair of its base and its quote. For the quote USD there are two candidates: the pair with USD, then the
pair with `Market.usd_asset` (USDT). The first that trades is used, else the first that is listed. Until the list is
known, a market is named by concatenation (`Market.binance`).
"""

import difflib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Raw, Struct

from exchanges.binance.endpoints import NAME
from marketdata.errors import InvalidValueError, SourceError
from marketdata.markets import QUOTES, Market

log = logging.getLogger(__name__)

TRADING = "TRADING"
"""Status of a pair that trades; others are BREAK, HALT, AUCTION_MATCH, PRE_TRADING, …"""

_NAME = re.compile(r"[A-Z0-9._-]{1,40}")  # what a URL and a stream's name can hold
_STATUS = re.compile(r"[A-Z_]{1,40}")
_MAX_LOGGED = 20  # markets; each searches close matches
_MAX_MATCHES = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair that the exchange lists."""

    symbol: str
    base: str
    quote: str
    status: str


@dataclass(frozen=True, slots=True)
class ExchangeInfo:
    """The pairs by base and quote, and the limit of request weight per minute; None if there is none."""

    pairs: Mapping[tuple[str, str], Pair]
    weight_per_minute: int | None

    def pair(self, market: Market) -> Pair | None:
        """The pair of a market; None if it is not listed."""
        listed = [pair for asset in _quote_assets(market) if (pair := self.pairs.get((market.base, asset))) is not None]
        trading = [pair for pair in listed if pair.status == TRADING]
        return next(iter((*trading, *listed)), None)

    def matches(self, market: Market) -> str:
        """The end of an error message about a market that is not listed: a similar base, or another quote."""
        assets = _quote_assets(market)
        known = dict.fromkeys(base for base, quote in self.pairs if quote in assets)
        bases = difflib.get_close_matches(market.base, known, n=_MAX_MATCHES)
        others = [quote for quote in QUOTES if (market.base, quote) in self.pairs]
        found = [f"{base}-{market.quote}" for base in bases] + [f"{market.base}-{quote}" for quote in others]
        return f"; close matches: {', '.join(found[:_MAX_MATCHES])}" if found else ""


def _quote_assets(market: Market) -> tuple[str, ...]:
    """Return the exchange's assets for the quote of a market, in order of preference."""
    return ("USD", market.usd_asset) if market.quote == "USD" else (market.quote,)


class _Symbol(Struct):
    symbol: str
    status: str
    baseAsset: str  # noqa: N815  names of the wire format
    quoteAsset: str  # noqa: N815


class _Limit(Struct):
    rateLimitType: str  # noqa: N815
    interval: str
    intervalNum: int  # noqa: N815
    limit: int


class _Info(Struct):
    symbols: list[Raw]
    rateLimits: list[Raw] = []  # noqa: N815


_info = msgspec.json.Decoder(_Info)
_symbol = msgspec.json.Decoder(_Symbol)
_limit = msgspec.json.Decoder(_Limit)


def parse_exchange_info(body: bytes) -> ExchangeInfo:
    """The content of a response.

    Raises:
        InvalidValueError: the body is not JSON of this form, or has no valid pair.
    """
    try:
        info = _info.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidValueError("exchangeInfo", body[:40], f"an object with symbols ({error})") from error
    pairs = {
        (one.baseAsset, one.quoteAsset): Pair(one.symbol, one.baseAsset, one.quoteAsset, one.status)
        for one in _valid(_symbol, info.symbols)
        if _NAME.fullmatch(one.symbol) and _STATUS.fullmatch(one.status)
    }
    if not pairs:
        raise InvalidValueError("symbols", len(info.symbols), "pairs with symbol, status, baseAsset and quoteAsset")
    weights = [
        one.limit
        for one in _valid(_limit, info.rateLimits)
        if (one.rateLimitType, one.interval, one.intervalNum) == ("REQUEST_WEIGHT", "MINUTE", 1) and one.limit > 0
    ]
    return ExchangeInfo(MappingProxyType(pairs), min(weights, default=None))


def _valid(decoder: msgspec.json.Decoder[Any], rows: Iterable[Raw]) -> Iterable[Any]:
    for row in rows:
        try:
            yield decoder.decode(row)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue


class Symbols:
    """The symbols of the configured markets: by concatenation, and from the exchange's list once it is known.

    Attributes:
        markets: the configured markets.
        version: increases when a market gets another symbol, or is listed or delisted.
        weight_per_minute: the exchange's limit; None while unknown.
    """

    def __init__(self, markets: Sequence[Market]) -> None:
        self.markets = tuple(markets)
        self._info: ExchangeInfo | None = None
        self._pairs: dict[Market, Pair | None] = {}
        self.version = 0
        self.weight_per_minute: int | None = None

    @property
    def is_known(self) -> bool:
        """Whether the exchange's list is known."""
        return self._info is not None

    def name(self, market: Market) -> str:
        """The exchange's symbol of a market."""
        pair = self._pairs.get(market)
        return market.binance if pair is None else pair.symbol

    def is_listed(self, market: Market) -> bool:
        """Whether the exchange lists a market, as far as known."""
        return market not in self._pairs or self._pairs[market] is not None

    def status(self, market: Market) -> str | None:
        """The trading status of a market; None while unknown, and if it is not listed."""
        pair = self._pairs.get(market)
        return None if pair is None else pair.status

    def is_suspended(self, market: Market) -> bool:
        """Whether the status of a market is known and not `TRADING`."""
        return self.status(market) not in (None, TRADING)

    def problem(self, market: Market) -> str | None:
        """Why a market has no quotes; None if it is listed and trades, or if the list is not known."""
        if self._info is not None and not self.is_listed(market):
            return f"{NAME} does not list {market.symbol}{self._info.matches(market)}"
        if self.is_suspended(market):
            return f"{NAME}: {market.symbol} ({self.name(market)}) does not trade: its status is {self.status(market)}"
        return None

    def update(self, info: ExchangeInfo) -> list[Market]:
        """Use a newer list, and log what it changes; return the markets whose symbol, listing or status changed."""
        before, was_known = self._names(), self.is_known
        pairs = {market: info.pair(market) for market in self.markets}
        changed = [market for market in self.markets if not was_known or self._pairs[market] != pairs[market]]
        self._info, self._pairs, self.weight_per_minute = info, pairs, info.weight_per_minute
        names = self._names()
        self.version += names != before
        for market in changed[:_MAX_LOGGED]:
            if (problem := self.problem(market)) is not None:
                log.error("%s; the other markets continue", problem)
            elif was_known or names[market] != before[market]:
                log.info("%s: %s is %s, which trades", NAME, market.symbol, names[market])
        return changed

    def log_unavailable(self, error: SourceError) -> None:
        """Log that the list cannot be read, and what is used instead."""
        used = (
            "the last list is used" if self.is_known else "base and quote are concatenated, as in BTCUSDT for BTC-USD,"
        )
        log.warning("%s; %s until the list of symbols can be read", error, used)

    def _names(self) -> dict[Market, str | None]:
        return {market: self.name(market) if self.is_listed(market) else None for market in self.markets}
