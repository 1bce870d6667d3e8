"""Binance spot: paths, weights, limits, headers and error codes of the public market data. Pure.

Source: the Binance Spot API documentation (REST API, WebSocket streams). Weights count against one IP address.
"""

from collections.abc import Mapping
from typing import Final

from exchanges.interface import StreamLimits

NAME: Final = "binance"

TIME: Final = "/api/v3/time"
"""{"serverTime": ms}."""
BOOK_TICKER: Final = "/api/v3/ticker/bookTicker"
"""Best bid and ask, without a time."""
BOOK_TICKER_WEIGHT_ONE: Final = 2
BOOK_TICKER_WEIGHT_MANY: Final = 4
EXCHANGE_INFO: Final = "/api/v3/exchangeInfo"
"""{"rateLimits", "symbols"}: the limits, and all pairs."""
EXCHANGE_INFO_QUERIES: Final[tuple[dict[str, str], ...]] = ({"showPermissionSets": "false"}, {})
"""The first one halves the answer of binance.com; hosts that do not know the parameter refuse it."""
MAX_EXCHANGE_INFO_BYTES: Final = 32 << 20
KLINES: Final = "/api/v3/klines"
KLINES_WEIGHT: Final = 2
KLINES_PER_REQUEST: Final = 1000
FIRST_KLINE_MS: Final = 1_502_928_000_000
"""The first day of klines, 2017-08-17 (BTCUSDT). Source: https://data.binance.vision."""

INVALID_SYMBOL: Final = -1121
"""`code` of the HTTP 400 for a request that names a symbol which does not exist."""

STREAM: Final = "/stream"
"""Combined streams: each message is wrapped into {"stream", "data"}."""
STREAM_LIMITS: Final = StreamLimits(streams_per_connection=1024, messages_per_s=5, connects_per_5_min=300)

_USED_WEIGHT = "x-mbx-used-weight-1m"


def used_weight(headers: Mapping[str, str]) -> int | None:
    """Weight that this IP address has used in the current minute; None without a valid header.

    Args:
        headers: of a response; case-insensitive.
    """
    used = headers.get(_USED_WEIGHT, "")
    return int(used) if used.isdecimal() else None
