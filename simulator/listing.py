"""Which pairs the exchange lists, and how the candles of a pair follow from stored ones. Pure.

1. A stored symbol is listed unchanged. Its name is that of a file, BASE followed by one of `PER_USD`; the longest match
   is the quote.
2. A pair with another quote has the prices of the coin's stored pair with USDT x `PER_USD[quote]`, and its volumes in
   coins.
3. A pair of a coin that is not stored has the candles of a stored pair with USDT, which is drawn by (seed, base),
   scaled so that the first close is `price`, or in dollars 10^u with u drawn from [-8, 8) by (seed, base). The volume
   in quote currency is that of the stored pair x `PER_USD[quote]`. So is a pair of a stored coin with a `price`.

Prices are rounded to their decimals (`derive.price_decimals`), and are at least one step of 1e-8.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from marketdata.errors import InvalidValueError
from marketdata.markets import Market
from simulator.candles import Candles
from simulator.derive import MAX_DECIMALS, round_prices, stream_key, uniform

DOLLAR = "USDT"
PER_USD: Mapping[str, float] = MappingProxyType(
    dict.fromkeys(("USD", DOLLAR, "USDC", "FDUSD"), 1.0)
    | {"EUR": 0.92, "GBP": 0.78, "TRY": 33.5, "BRL": 5.7, "JPY": 145.0}
    | {"BTC": 1 / 58_000, "ETH": 1 / 2_500, "BNB": 1 / 480}
)
"""Units of each quote per US dollar, constant (about August 2024)."""
MIN_PRICE, MAX_PRICE = 1e-8, 1e8
"""Range of the price of a further pair; the lower one is the exchange's smallest step."""

_SPEC = re.compile(r"([^@]+)(?:@(.+))?")
_MAGNITUDES = 16.0


@dataclass(frozen=True, slots=True)
class Host:
    """What the exchange lists besides stored and further pairs, and how it counts.

    quotes: of each stored coin.
    weight_limit: request weight per minute.
    weight_divisor: documented weights are divided by it; at least 1 is left.
    has_stored: whether stored symbols are listed.
    knows_permission_sets: whether exchangeInfo accepts the parameter showPermissionSets.
    """

    quotes: tuple[str, ...]
    weight_limit: int
    weight_divisor: int
    has_stored: bool
    knows_permission_sets: bool


HOSTS: Mapping[str, Host] = MappingProxyType(
    {
        "com": Host(("EUR",), 6000, 1, has_stored=True, knows_permission_sets=True),
        "us": Host(("USD",), 1200, 2, has_stored=False, knows_permission_sets=False),
    }
)
"""`com`: stored pairs and euros. `us`, as api.binance.us: the stored coins against USD only."""


@dataclass(frozen=True, slots=True)
class Further:
    """A further pair; `price` is its first close, None for the rule."""

    base: str
    quote: str
    price: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Further":
        """Parse BASE-QUOTE or BASE-QUOTE@PRICE.

        Raises:
            InvalidValueError: the text has another form, or the price is out of range.
        """
        match = _SPEC.fullmatch(text)
        market = Market.parse(match[1] if match else text)
        if match is None or match[2] is None:
            return cls(market.base, market.quote)
        try:
            price = float(match[2])
        except ValueError:
            price = 0.0
        if not MIN_PRICE <= price <= MAX_PRICE:
            raise InvalidValueError(
                "markets", text, f"BASE-QUOTE@PRICE with a price from {MIN_PRICE:g} to {MAX_PRICE:g}"
            )
        return cls(market.base, market.quote, price)


@dataclass(frozen=True, slots=True)
class Listed:
    """A listed pair: the stored symbol that its candles come from, and how they are scaled.

    factor: of prices. volume_factor: of volumes in coins.
    """

    symbol: str
    base: str
    quote: str
    source: str
    factor: float = 1.0
    volume_factor: float = 1.0

    def scaled(self, candles: Candles) -> Candles:
        """The candles of this pair from those of `source`."""
        if self.symbol == self.source:
            return candles
        open_, high, low, close = (
            np.maximum(round_prices(column * self.factor), MIN_PRICE) for column in candles.prices()
        )
        quote_volume = candles.quote_volume * (self.factor * self.volume_factor)
        volume = candles.volume
        if self.volume_factor != 1.0:
            volume = np.round(volume * self.volume_factor, MAX_DECIMALS)
            # Where a price step is large, rounded prices are far from scaled ones; the mean price stays in the range.
            quote_volume = np.clip(quote_volume, volume * low, volume * high)
        return Candles(candles.time_ms, open_, high, low, close, volume, np.round(quote_volume, MAX_DECIMALS))


def split_name(symbol: str) -> tuple[str, str]:
    """Base and quote of a stored symbol; a name with another ending is taken as BASE + three letters."""
    quotes = [quote for quote in PER_USD if symbol.endswith(quote) and symbol != quote]
    quote = max(quotes, key=len, default=symbol[-3:])
    return symbol.removesuffix(quote), quote


def listed_pairs(
    first_closes: Mapping[str, float], seed: int, further: Iterable[Further] = (), host: Host = HOSTS["com"]
) -> dict[str, Listed]:
    """All pairs by symbol, sorted.

    Args:
        first_closes: first close of each stored symbol.
        seed: of the exchange.
        further: pairs to list besides.
        host: rules of the host.
    """
    stored = {symbol: split_name(symbol) for symbol in sorted(first_closes)}
    dollars = {base: symbol for symbol, (base, quote) in stored.items() if quote == DOLLAR}
    pairs = {s: Listed(s, base, quote, s) for s, (base, quote) in stored.items() if host.has_stored}
    for base, source in dollars.items():
        for quote in host.quotes:
            pairs.setdefault(base + quote, Listed(base + quote, base, quote, source, PER_USD[quote]))
    for one in further:
        usual = "USDT" if one.quote == "USD" and "USD" not in host.quotes else one.quote
        if one.base == usual or (one.base + usual in pairs and one.price is None):
            continue
        pairs[one.base + usual] = _further(one.base, usual, one.price, dollars, first_closes, seed)
    return dict(sorted(pairs.items()))


def _further(
    base: str, quote: str, price: float | None, dollars: Mapping[str, str], first_closes: Mapping[str, float], seed: int
) -> Listed:
    source = dollars.get(base)
    if source is not None and price is None:
        return Listed(base + quote, base, quote, source, PER_USD[quote])
    key = stream_key(seed, base, "listing")
    if source is None:
        sources = [*dollars.values()] or [*first_closes]
        source = sources[int(uniform(key, 0) * len(sources))]
    if price is None:
        price = 10 ** (_MAGNITUDES * uniform(key, 1) - _MAGNITUDES / 2) * PER_USD[quote]
        price = min(max(price, MIN_PRICE), MAX_PRICE)
    factor = price / first_closes[source]
    return Listed(base + quote, base, quote, source, factor, PER_USD[quote] / factor)
