"""A market: a coin against a quote currency, and its names at the exchanges."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from marketdata.errors import InvalidValueError

COINGECKO_IDS = {
    "BTC": "bitcoin",
    "ETH": "ethereum",
    "XRP": "ripple",
    "BNB": "binancecoin",
    "SOL": "solana",
    "ADA": "cardano",
    "DOGE": "dogecoin",
    "LTC": "litecoin",
}
"""CoinGecko's ids of common coins; the setting `coingecko.coin_ids` adds others and overrides these."""
DOLLAR_TOKENS = ("USDT", "USDC", "FDUSD")
"""Quotes that CoinGecko does not have; its prices in US dollars are used for them."""
QUOTES = ("USD", *DOLLAR_TOKENS, "EUR", "GBP", "TRY", "BRL", "JPY", "BTC", "ETH", "BNB")
"""The quotes that a market can have."""
USD_ASSET = "USDT"
"""Default of `Market.usd_asset`: binance.com lists no pairs with USD."""
SYMBOL_PATTERN = "[A-Z0-9]{1,20}-[A-Z]{3,5}"
"""Form of a market's name, as a regular expression."""

_MARKET = re.compile(r"([A-Z0-9]{1,20})-([A-Z0-9]+)")
_NOT_IN_A_NAME = re.compile(r"[^A-Z0-9]")


_COMPARED_NAMES = 100


def close_matches(text: str, known: Iterable[str]) -> str:
    """Return `; close matches: A, B` for the end of an error message; empty without any.

    Args:
        text: what was given, in any case.
        known: valid values, in upper case.
    """
    given, names = text.strip().upper(), list(known)
    if len(names) > _COMPARED_NAMES:  # comparing takes about 20 µs a name
        names = [name for name in names if name[:1] == given[:1]]
    found = difflib.get_close_matches(given, names, n=3)
    return f"; close matches: {', '.join(found)}" if found else ""


@dataclass(frozen=True, slots=True, order=True)
class Market:
    """A coin (`base`) priced in a currency (`quote`), both in upper case.

    coin_id: CoinGecko's id of the coin; None: the one in `COINGECKO_IDS`.
    usd_asset: the asset that replaces the quote USD in the name at Binance.
    """

    base: str
    quote: str
    coin_id: str | None = field(default=None, compare=False)
    usd_asset: str = field(default=USD_ASSET, compare=False)

    @classmethod
    def parse(cls, symbol: str, coin_ids: Mapping[str, str] | None = None, usd_asset: str = USD_ASSET) -> "Market":
        """Parse a market's name such as `BTC-USD`. Whether an exchange lists the market is not checked.

        Args:
            symbol: BASE-QUOTE, in any case.
            coin_ids: CoinGecko's ids by base; they override `COINGECKO_IDS`.
            usd_asset: see the class.

        Raises:
            InvalidValueError: the symbol is not BASE-QUOTE, or its quote is not one of `QUOTES`.
        """
        match = _MARKET.fullmatch(symbol.upper()) if symbol.isascii() else None
        further = coin_ids or {}
        if match is None:
            expected = f"BASE-QUOTE, such as BTC-USD{_likely(symbol, further)}"
            raise InvalidValueError("symbol", symbol, expected)
        base, quote = match.groups()
        if quote not in QUOTES:
            matches = close_matches(symbol, (f"{base}-{one}" for one in QUOTES))
            raise InvalidValueError("symbol", symbol, f"one of the quotes {', '.join(QUOTES)}{matches}")
        if base == quote:
            raise InvalidValueError("symbol", symbol, "a base other than the quote")
        return cls(base, quote, further.get(base), usd_asset)

    @property
    def symbol(self) -> str:
        """The project's name of the market and the Kafka key of its records, `BTC-USD`."""
        return f"{self.base}-{self.quote}"

    @property
    def binance(self) -> str:
        """Binance's symbol by concatenation, `BTCUSDT`: `usd_asset` replaces USD.

        It is used while the exchange's own list is not available (`exchanges.binance.symbols`), and for archives.
        """
        return self.base + (self.usd_asset if self.quote == "USD" else self.quote)

    @property
    def coingecko_id(self) -> str | None:
        """CoinGecko's coin id, `bitcoin`; None if it is not known."""
        return self.coin_id or COINGECKO_IDS.get(self.base)

    @property
    def coingecko_currency(self) -> str:
        """CoinGecko's vs_currency, `usd`; it is also used for the tokens in `DOLLAR_TOKENS`."""
        return "usd" if self.quote in DOLLAR_TOKENS else self.quote.lower()


def _likely(text: str, coin_ids: Mapping[str, str]) -> str:
    """Return the close matches of a malformed name, such as BTCUSDT or BTC/USD."""
    letters = _NOT_IN_A_NAME.sub("", text.upper())
    exact = (f"{letters.removesuffix(quote)}-{quote}" for quote in QUOTES if letters.endswith(quote))
    if likely := [name for name in exact if not name.startswith("-")]:
        return f"; close matches: {', '.join(likely)}"
    return close_matches(text, (f"{base}-{quote}" for base in {**COINGECKO_IDS, **coin_ids} for quote in QUOTES))
