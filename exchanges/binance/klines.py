"""Klines of Binance: the request, the rows, and which candles are closed. Pure.

REST responses, archive files and the WebSocket share `parse_row`. A row is

    [open time, open, high, low, close, volume, close time, quote volume, trades, taker buy volume,
     taker buy quote volume, unused]

and is valid when all of this holds:

- It has at least 11 values. Binance may append values; everything after the first 11 is ignored.
- Times are integers, ms or µs. A value of 10^14 or more is µs: as ms it would be the year 5138.
- The open time is on the grid of the interval, and the close time is the last ms of the interval. Binance closed
  candles early when trading halted (https://github.com/binance/binance-public-data/issues/77); such a candle does not
  cover its interval.
- Prices and volumes are decimal strings; the number of trades is an integer.
- The rules of `marketdata.candle_rules` hold: positive prices, low <= open and close <= high, no negative volume.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exchanges.binance.endpoints import KLINES_PER_REQUEST, NAME
from exchanges.fields import decimal, integer
from exchanges.interface import OnRefused
from marketdata.candle_rules import RULES, STEP_MS, numbers_hold
from marketdata.errors import InvalidValueError
from marketdata.records import Candle
from marketdata.times import from_http_date, to_rfc3339

_MIN_VALUES = 11
_MICROSECONDS_FROM = 10**14
_RULES = tuple(rule for rule in RULES if rule.field != "symbol")
_INTEGER_COLUMNS = (0, 6, 8)  # open time, close time, trades
_INTEGER = re.compile(r"(-?[0-9]{1,19})(\.0{1,9})?")  # programs that edit archives write whole numbers as 10.0


@dataclass(frozen=True, slots=True)
class Kline:
    """One candle; the fields are those of `marketdata.records.Candle`, times in ms."""

    open_ms: int
    close_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    n_trades: int
    taker_buy_volume: float
    taker_buy_quote_volume: float

    def minute_candle(self, symbol: str) -> Candle:
        """The record of a one-minute candle of the market `symbol`."""
        return Candle(
            symbol=symbol,
            open_time=to_rfc3339(self.open_ms),
            open=self.open,
            high=self.high,
            low=self.low,
            close=self.close,
            volume=self.volume,
            quote_volume=self.quote_volume,
            n_trades=self.n_trades,
            taker_buy_volume=self.taker_buy_volume,
            taker_buy_quote_volume=self.taker_buy_quote_volume,
            source=NAME,
        )


def klines_query(symbol: str, interval: str, start_ms: int, end_ms: int | None = None) -> dict[str, str]:
    """Query of a request for the oldest candles whose open time is in [start_ms, end_ms].

    Args:
        symbol: Binance's name of the market, such as BTCUSDT.
        interval: `1m` or `1h`.
        start_ms: first open time.
        end_ms: last open time; None for no end.
    """
    query = {"symbol": symbol, "interval": interval, "startTime": str(start_ms)}
    if end_ms is not None:
        query["endTime"] = str(end_ms)
    return query | {"limit": str(KLINES_PER_REQUEST)}


def parse_row(row: Any, interval: str, prefix: str = "") -> Kline:
    """A row as a candle.

    Args:
        row: decoded JSON, or `csv_row`.
        interval: `1m` or `1h`.
        prefix: of the field names in errors, such as `klines[3].`.

    Raises:
        InvalidValueError: the row is not valid; `field` names the value, or the row for a wrong number of values.
    """
    if not isinstance(row, list | tuple) or len(row) < _MIN_VALUES:
        raise InvalidValueError(f"{prefix}row", row, f"an array of at least {_MIN_VALUES} values")
    step_ms = STEP_MS[interval]
    open_ms = milliseconds(integer(row[0], f"{prefix}open_time"))
    close_ms = milliseconds(integer(row[6], f"{prefix}close_time"))
    if open_ms % step_ms:
        raise InvalidValueError(f"{prefix}open_time", row[0], f"the start of an interval of {interval}")
    if close_ms != open_ms + step_ms - 1:
        expected = f"the last millisecond of the interval of {interval} from open_time {row[0]}"
        raise InvalidValueError(f"{prefix}close_time", row[6], expected)
    kline = Kline(
        open_ms,
        close_ms,
        decimal(row[1], f"{prefix}open"),
        decimal(row[2], f"{prefix}high"),
        decimal(row[3], f"{prefix}low"),
        decimal(row[4], f"{prefix}close"),
        decimal(row[5], f"{prefix}volume"),
        decimal(row[7], f"{prefix}quote_volume"),
        integer(row[8], f"{prefix}n_trades"),
        decimal(row[9], f"{prefix}taker_buy_volume"),
        decimal(row[10], f"{prefix}taker_buy_quote_volume"),
    )
    if not numbers_hold(kline):
        broken = next(rule for rule in _RULES if not rule.holds(kline))  # type: ignore[arg-type]  # has the attributes
        raise InvalidValueError(f"{prefix}{broken.field}", row, broken.expected)
    return kline


def csv_row(values: Sequence[str]) -> list[str | int]:
    """A line of an archive as the row that REST would return: times and number of trades as integers."""
    row: list[str | int] = [*values]
    for index in _INTEGER_COLUMNS:
        if index < len(values) and (whole := _INTEGER.fullmatch(values[index])):
            row[index] = int(whole[1])
    return row


def closed_klines(payload: Any, interval: str, as_of_ms: int, on_refused: OnRefused | None = None) -> list[Kline]:
    """The candles of a response that ended before `as_of_ms`.

    Args:
        payload: decoded JSON.
        interval: `1m` or `1h`.
        as_of_ms: Unix time.
        on_refused: called with each row that is not valid, unless it is of a later time; None to raise its error.

    Raises:
        InvalidValueError: the payload is not an array; or, without `on_refused`, not one of valid rows.
    """
    if not isinstance(payload, list):
        raise InvalidValueError("klines", payload, "an array of arrays")
    klines: list[Kline] = []
    for index, row in enumerate(payload):
        try:
            kline = parse_row(row, interval, f"klines[{index}].")
        except InvalidValueError as error:
            if on_refused is None:
                raise
            if not _is_after(row, as_of_ms):
                on_refused(row, error)
            continue
        if kline.close_ms < as_of_ms:
            klines.append(kline)
    return klines


def closed_minute_candles(
    symbol: str, payload: Any, as_of_ms: int, on_refused: OnRefused | None = None
) -> list[Candle]:
    """`closed_klines` of one minute as records of the market `symbol`."""
    return [kline.minute_candle(symbol) for kline in closed_klines(payload, "1m", as_of_ms, on_refused)]


def _is_after(row: Any, as_of_ms: int) -> bool:
    """Whether a row, valid or not, is of a candle that has not ended yet."""
    try:
        return milliseconds(integer(row[6], "close_time")) >= as_of_ms
    except (InvalidValueError, LookupError, TypeError):
        return False


def milliseconds(time: int) -> int:
    """A time of Binance, in ms or µs, in ms."""
    return time // 1000 if time >= _MICROSECONDS_FROM else time


def as_of_ms(now_ms: int, headers: Mapping[str, str]) -> int:
    """The time by which a candle of a response must have ended to be closed.

    It is the exchange's time (the Date header) unless `now_ms` is earlier: our clock may be ahead of the exchange.
    """
    date_ms = from_http_date(headers.get("date"))
    return now_ms if date_ms is None else min(now_ms, date_ms)
