"""A valid candle, and changes that each violate one rule: (changes, field, reason)."""

from typing import Any

from marketdata.bounds import MAX_AMOUNT, MAX_PRICE, MIN_PRICE
from marketdata.records import Candle

CANDLE = Candle(
    symbol="BTC-USD", open_time="2024-08-05T00:07:00.000Z", open=2.0, high=4.0, low=1.0, close=3.0, volume=0.0
)
BROKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"high": -1.0}, "high", "not_positive"),
    ({"open": 0.0}, "open", "not_positive"),
    ({"low": MIN_PRICE / 2}, "low", "absurd"),
    ({"close": MAX_PRICE * 2}, "close", "absurd"),
    ({"low": 2.5}, "low", "crossed_range"),
    ({"low": 3.5, "open": 3.7}, "low", "crossed_range"),
    ({"open": 5.0}, "open", "crossed_range"),
    ({"close": 5.0}, "close", "crossed_range"),
    ({"volume": -0.1}, "volume", "negative"),
    ({"volume": MAX_AMOUNT * 2}, "volume", "absurd"),
    ({"quote_volume": -0.1}, "quote_volume", "negative"),
    ({"quote_volume": MAX_AMOUNT * 2}, "quote_volume", "absurd"),
    ({"n_trades": -1}, "n_trades", "negative"),
    ({"n_trades": 10**20}, "n_trades", "absurd"),
    ({"symbol": "btc-usd"}, "symbol", "symbol"),
    ({"open_time": "2024-08-05T00:07:01.000Z"}, "open_time", "grid"),
    ({"interval": "1h"}, "open_time", "grid"),
]
