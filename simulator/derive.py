"""Rules for data that the candles lack: quotes, trades, supplies. Pure functions of seed and past data.

Every random draw is a hash of (seed, symbol, time, purpose). Results are the same in every process, on every machine
and in any order of calls, and never depend on data later than the requested time.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from marketdata.times import MINUTE_MS, floor_to
from simulator.candles import Candles

Floats = npt.NDArray[np.float64]

CIRCULATING_SUPPLY = {"BTC": 19_740_000.0, "ETH": 120_250_000.0, "XRP": 55_900_000_000.0}
"""Coins in circulation (about August 2024, constant); market_cap = price x supply."""
DEFAULT_SUPPLY = 1_000_000_000.0

SPREAD_FLOOR_BPS = 0.5
SPREAD_CEILING_BPS = 25.0
SPREAD_PER_RANGE = 0.02  # share of the last hour's high-low range: about 1 bps in a quiet hour of BTC, 6 in a crash
MEAN_QUOTE_NOTIONAL = 60_000.0  # mean size of each side of the best quote, in quote currency
COINGECKO_DEVIATION_BPS = 3.0  # maximum deviation of CoinGecko's price from the mid
COINGECKO_PERIOD_MS = MINUTE_MS
MIN_TRADES = 4  # one trade each for open, high, low and close
TRADES_SPREAD = 36
TRADE_ID_STEP = 64  # first trade id of a minute = minutes since the epoch x this
MAX_DECIMALS = 8

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_TO_UNIT = 1.0 / (1 << 53)


@dataclass(frozen=True, slots=True)
class Quote:
    """Best bid and ask: prices in quote currency, quantities in coins."""

    bid_price: float
    bid_qty: float
    ask_price: float
    ask_qty: float

    @property
    def mid(self) -> float:
        """Return the mid price."""
        return (self.bid_price + self.ask_price) / 2


@dataclass(frozen=True, slots=True)
class Trades:
    """Trades of one minute, ascending in time; one array element per trade.

    `time_ms` is int64, Unix ms; `price` and `qty` are float64; `buyer_is_maker` is bool (True: the taker sold);
    `first_id` is the id of the first trade.
    """

    time_ms: npt.NDArray[np.int64]
    price: Floats
    qty: Floats
    buyer_is_maker: npt.NDArray[np.bool_]
    first_id: int

    def __iter__(self) -> Iterator[tuple[int, int, float, float, bool]]:
        """Yield id, time, price, quantity and buyer-is-maker of each trade."""
        columns = zip(
            self.time_ms.tolist(), self.price.tolist(), self.qty.tolist(), self.buyer_is_maker.tolist(), strict=True
        )
        for number, (time_ms, price, qty, maker) in enumerate(columns):
            yield self.first_id + number, time_ms, price, qty, maker


def _mix(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


@lru_cache(maxsize=1024)
def stream_key(seed: int, symbol: str, purpose: str) -> int:
    """Return the 64-bit key of a stream of draws."""
    return _mix((_mix(seed & _MASK) + zlib.crc32(f"{symbol}/{purpose}".encode()) * _GOLDEN) & _MASK)


def uniform(key: int, position: int) -> float:
    """Return the draw in [0, 1) at a position (a time or an index) of a stream."""
    return (_mix((key + (position & _MASK) * _GOLDEN) & _MASK) >> 11) * _TO_UNIT


def uniforms(key: int, positions: npt.NDArray[np.int64]) -> Floats:
    """Return `uniform` for many positions, vectorised."""
    with np.errstate(over="ignore"):
        value = np.uint64(key) + positions.astype(np.uint64) * np.uint64(_GOLDEN)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(31)
    return (value >> np.uint64(11)).astype(np.float64) * _TO_UNIT


def price_decimals(price: float) -> int:
    """Return the number of decimals of a price on the exchange (BTC and ETH 2, XRP 4, below 0.001 8)."""
    if price >= 100:  # noqa: PLR2004  the thresholds define the rule
        return 2
    if price >= 0.1:  # noqa: PLR2004
        return 4
    return 6 if price >= 0.001 else 8  # noqa: PLR2004


def qty_decimals(price: float) -> int:
    """Return the number of decimals of a quantity, by the coin's price (BTC 5, ETH 4, XRP 1)."""
    if price >= 10_000:  # noqa: PLR2004
        return 5
    return 4 if price >= 100 else 1  # noqa: PLR2004


def decimals_of(value: float) -> int:
    """Return the number of decimals needed to write a number exactly, at most 8."""
    text = repr(float(value))
    if "e" in text:
        text = f"{value:.{MAX_DECIMALS}f}".rstrip("0")
    return min(len(text.partition(".")[2].rstrip("0")), MAX_DECIMALS)


def round_prices(prices: Floats) -> Floats:
    """Round each price to its `price_decimals`. Rounding is monotone, so low <= high is preserved."""
    coarse = np.where(prices >= 100, np.round(prices, 2), np.round(prices, 4))  # noqa: PLR2004
    fine = np.where(prices >= 0.001, np.round(prices, 6), np.round(prices, 8))  # noqa: PLR2004
    rounded: Floats = np.where(prices >= 0.1, coarse, fine)  # noqa: PLR2004
    return rounded


def quote(seed: int, symbol: str, minute_open_price: float, recent_range: float, minute_ms: int) -> Quote:
    """Return the best quote of a minute, from data known at its start.

    The spread is `SPREAD_FLOOR_BPS` + `SPREAD_PER_RANGE` x the range in bps, multiplied by a draw in [0.5, 1.5),
    limited to floor and ceiling, and at least one price step. The open price is inside the spread, 30 to 70 % above the
    bid. Quantities are exponential draws with mean `MEAN_QUOTE_NOTIONAL` in quote currency.

    Args:
        seed: seed of the exchange.
        symbol: exchange symbol, such as BTCUSDT.
        minute_open_price: first price of the minute; for a minute without trades, the last price before it.
        recent_range: highest high minus lowest low of the previous 60 minutes, in quote currency; 0 if unknown.
        minute_ms: start of the minute, or any time within it.
    """
    start_ms = floor_to(minute_ms, MINUTE_MS)
    key = stream_key(seed, symbol, "quote")
    index = start_ms // MINUTE_MS * 4
    price = minute_open_price
    range_bps = recent_range / price * 10_000
    spread_bps = (SPREAD_FLOOR_BPS + SPREAD_PER_RANGE * range_bps) * (0.5 + uniform(key, index))
    spread_bps = min(max(spread_bps, SPREAD_FLOOR_BPS), SPREAD_CEILING_BPS)
    spread = price * spread_bps / 10_000
    below = 0.3 + 0.4 * uniform(key, index + 1)
    decimals = price_decimals(price)
    scale = 10**decimals
    bid = max(math.floor((price - below * spread) * scale), 1)
    ask = max(math.ceil((price + (1 - below) * spread) * scale), bid + 1)
    qty_scale = 10 ** qty_decimals(price)
    mean = MEAN_QUOTE_NOTIONAL / price
    sizes = [-math.log(1.0 - uniform(key, index + side)) * mean for side in (2, 3)]
    bid_qty, ask_qty = (max(math.ceil(size * qty_scale), 1) / qty_scale for size in sizes)
    return Quote(bid / scale, bid_qty, ask / scale, ask_qty)


def coingecko_update_ms(seed: int, coin_id: str, now_ms: int) -> int:
    """Return `last_updated` of a coin at `now_ms`: every 60 s on the coin's own grid, so 0 to 60 s before now."""
    phase_ms = int(uniform(stream_key(seed, coin_id, "coingecko-phase"), 0) * COINGECKO_PERIOD_MS)
    return floor_to(now_ms - phase_ms, COINGECKO_PERIOD_MS) + phase_ms


def coingecko_price(seed: int, coin_id: str, mid: float, updated_ms: int) -> float:
    """Return CoinGecko's price: the mid at the update, off by at most `COINGECKO_DEVIATION_BPS`."""
    draw = 2 * uniform(stream_key(seed, coin_id, "coingecko-price"), updated_ms) - 1
    return round(mid * (1 + draw * COINGECKO_DEVIATION_BPS / 10_000), price_decimals(mid) + 2)


def volume_unit(volume: float, price: float) -> int:
    """Return the units per coin in which a volume is an integer: a power of ten."""
    return int(10 ** max(decimals_of(volume), qty_decimals(price)))


def trade_counts(seed: int, symbol: str, candles: Candles) -> npt.NDArray[np.int64]:
    """Return the number of trades of each minute candle: 4 to 39 by a draw, 0 without volume."""
    draws = uniforms(stream_key(seed, symbol, "trades"), candles.time_ms // MINUTE_MS)
    counts = MIN_TRADES + (draws * TRADES_SPREAD).astype(np.int64)
    return np.where(candles.volume > 0, counts, 0)


def taker_buy_volumes(seed: int, symbol: str, candles: Candles) -> Floats:
    """Return the taker buy volume of each candle in coins: 30 to 70 % by a draw, rounded to 8 decimals."""
    draws = uniforms(stream_key(seed, symbol, "taker"), candles.time_ms // MINUTE_MS)
    bought: Floats = np.round(candles.volume * (0.3 + 0.4 * draws), MAX_DECIMALS)
    return bought


def _split(total: int, weights: Floats) -> npt.NDArray[np.int64]:
    """Split an integer total by weights into integers that add up to it."""
    bounds = np.round(np.cumsum(weights) / weights.sum() * total).astype(np.int64)
    bounds[-1] = total
    shares: npt.NDArray[np.int64] = np.diff(bounds, prepend=np.int64(0))
    return shares


def minute_trades(seed: int, symbol: str, candle: Candles) -> Trades:
    """Return trades that aggregate to one minute candle.

    The first trade is at the open and the start of the minute, the last at the close. Two drawn positions trade at the
    high and the low, the other prices are drawn between them. Volumes add up to the candle's.

    Args:
        seed: seed of the exchange.
        symbol: exchange symbol.
        candle: one minute candle (arrays of length 1).
    """
    minute_ms = int(candle.time_ms[0])
    count = int(trade_counts(seed, symbol, candle)[0])
    minute = minute_ms // MINUTE_MS
    first_id = minute * TRADE_ID_STEP
    if count == 0:
        empty = np.empty(0)
        return Trades(np.empty(0, np.int64), empty, empty, np.empty(0, np.bool_), first_id)
    key = stream_key(seed, symbol, "trade")
    draws = uniforms(key, minute * 4096 + np.arange(4 * count + 2, dtype=np.int64))
    low, high = float(candle.low[0]), float(candle.high[0])
    offsets = np.sort((draws[:count] * (MINUTE_MS - 1)).astype(np.int64))
    offsets[0] = 0
    decimals = max(price_decimals(high), *(decimals_of(float(column[0])) for column in candle.prices()))
    prices = np.clip(np.round(low + draws[count : 2 * count] * (high - low), decimals), low, high)
    at_high = 1 + int(draws[-1] * (count - 2))
    at_low = 1 + (at_high + int(draws[-2] * (count - 3))) % (count - 2)
    prices[at_high] = high
    prices[at_low] = low
    prices[0] = candle.open[0]
    prices[-1] = candle.close[0]
    unit = volume_unit(float(candle.volume[0]), high)
    qty = _split(round(float(candle.volume[0]) * unit), 0.05 + draws[2 * count : 3 * count]) / unit
    return Trades(minute_ms + offsets, prices, qty, draws[3 * count : 4 * count] < 0.5, first_id)  # noqa: PLR2004
