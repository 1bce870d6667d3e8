"""Random ticks and candles with few errors each, from few values, so that equal and crossed prices occur."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from marketdata.records import Candle, Tick

T = TypeVar("T")
TIMESTAMP = "2024-08-05T00:00:00.000Z"
_NUMBERS = (1.0, 2.0, 1.0, 2.0, 0.0, -1.0, 1e-18, 9e-19, 1e18, 1.1e18, 1e24, 1.1e24)
_COUNTS = (None, 0, 1, -1, 10**15, 10**15 + 1)
_PRICES = ("price", "price_usd", "bid_price", "ask_price", "high_24h", "low_24h", "vwap")
_OTHERS = ("bid_qty", "ask_qty", "volume_24h", "market_cap", "traded_volume")
_NO_PRICE = ("price", "price_usd")
_MISSING = ((),) * 9 + (_NO_PRICE, (*_NO_PRICE, "bid_price"), (*_NO_PRICE, "ask_price"))
_SYMBOLS = ("BTC-USD",) * 12 + ("btc-USD", "BTC-EUR", "BTC", "BTC USD", "ÄÖ-USD", "BTC-USD\n", "BTC-USDUSD", "")
_CANDLE_PRICES = ("open", "high", "low", "close")
_CANDLE_VOLUMES = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")


class Choose(Protocol):
    """Chooses one element: `random.Random.choice` or a draw of hypothesis."""

    def __call__(self, some: Sequence[T], /) -> T: ...


def odd_tick(choose: Choose) -> Tick:
    fields: dict[str, Any] = {"price": 1.0, "price_usd": 1.0, "bid_price": 1.0, "ask_price": 2.0}
    fields |= {"low_24h": 1.0, "high_24h": 2.0}
    changed: dict[str, Any] = dict.fromkeys(choose(_MISSING))
    for _ in range(choose((0, 1, 1, 2, 3))):
        name = choose((*_PRICES, *_OTHERS, "n_updates", "n_trades"))
        changed[name] = choose(_COUNTS if name.startswith("n_") else (None, *_NUMBERS))
    symbol = choose(_SYMBOLS)
    quote = choose(("USD",) * 12 + ("EUR", "SD", "TC-USD", "USD\n", "USD ", ""))
    timestamp = choose((TIMESTAMP, TIMESTAMP, "2024-08-05T02:00:00+02:00"))
    named = f"{symbol}|{timestamp}"
    tick_id = choose((named,) * 12 + ("BTC-USD", f"{named} ", f"{named} {named}", f"{symbol}|{TIMESTAMP}"))
    if choose((True, True, False)):
        changed.setdefault("price_usd", changed.get("price", 1.0) if quote == "USD" else None)
    return Tick(symbol=symbol, tick_id=tick_id, timestamp=timestamp, quote=quote, **(fields | changed))


def odd_candle(choose: Choose) -> Candle:
    fields: dict[str, Any] = {"open": 1.0, "high": 2.0, "low": 1.0, "close": 2.0, "volume": 0.0}
    for _ in range(choose((0, 1, 1, 2))):
        name = choose((*_CANDLE_PRICES, *_CANDLE_VOLUMES, "n_trades"))
        fields[name] = choose(_COUNTS if name == "n_trades" else _NUMBERS)
    return Candle(symbol=choose(_SYMBOLS), open_time=TIMESTAMP, **fields)
