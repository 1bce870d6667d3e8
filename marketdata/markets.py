"""A market: a coin against a quote currency, and its identifiers at each exchange."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from marketdata.errors import InvalidValueError

COINGECKO_IDS = {"BTC": "bitcoin", "ETH": "ethereum", "XRP": "ripple"}
BINANCE_QUOTES = {"USD": "USDT", "EUR": "EUR"}  # Binance lists no USD book: USDT replaces the dollar

_SYMBOL = re.compile(r"([A-Z0-9]{2,10})-([A-Z]{3})")


@dataclass(frozen=True, slots=True, order=True)
class Market:
    """A coin (`base`) priced in a currency (`quote`), both in upper case.

    coin_id: CoinGecko's id of the coin; None: the one in `COINGECKO_IDS`.
    """

    base: str
    quote: str
    coin_id: str | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, symbol: str, coin_ids: Mapping[str, str] | None = None) -> "Market":
        """Parse a symbol such as `BTC-USD`.

        Args:
            symbol: BASE-QUOTE in upper case.
            coin_ids: CoinGecko's ids of further coins, by base.

        Raises:
            InvalidValueError: the symbol is not BASE-QUOTE, or its coin or currency is not known.
        """
        match = _SYMBOL.fullmatch(symbol)
        if match is None:
            raise InvalidValueError("symbol", symbol, "BASE-QUOTE in upper case, such as BTC-USD")
        base, quote = match.groups()
        further = coin_ids or {}
        coin_id = COINGECKO_IDS.get(base) or further.get(base)
        if coin_id is None:
            known = ", ".join(sorted({*COINGECKO_IDS, *further}))
            raise InvalidValueError(
                "symbol", symbol, f"one of the coins {known}, or a coin listed in coingecko.coin_ids"
            )
        if quote not in BINANCE_QUOTES:
            raise InvalidValueError("symbol", symbol, f"one of the currencies {', '.join(sorted(BINANCE_QUOTES))}")
        return cls(base, quote, coin_id)

    @property
    def symbol(self) -> str:
        """The project's name of the market and the Kafka key of its records, `BTC-USD`."""
        return f"{self.base}-{self.quote}"

    @property
    def binance(self) -> str:
        """Binance spot's symbol, `BTCUSDT`."""
        return self.base + BINANCE_QUOTES[self.quote]

    @property
    def coingecko_id(self) -> str:
        """CoinGecko's coin id, `bitcoin`."""
        return self.coin_id or COINGECKO_IDS[self.base]

    @property
    def coingecko_currency(self) -> str:
        """CoinGecko's vs_currency, `usd`."""
        return self.quote.lower()
