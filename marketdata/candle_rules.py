"""The rules of a valid candle: a table, the grid of its interval, and the clock.

To add a rule, add it to `RULES` and to `numbers_hold`; the other implementations are derived from the table.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from marketdata.bounds import MAX_AMOUNT, MAX_COUNT, MAX_PRICE, MIN_PRICE
from marketdata.errors import DecodeError
from marketdata.records import Candle
from marketdata.rules import SYMBOL, Rule, amount_rules, compared, count_rules, price_rules, validate
from marketdata.times import HOUR_MS, MINUTE_MS
from marketdata.vocabulary import Reason

STEP_MS: Mapping[str, int] = MappingProxyType({"1m": MINUTE_MS, "1h": HOUR_MS})
"""The length of an interval in ms, which is also the grid of its open times."""

RULES: tuple[Rule, ...] = (
    SYMBOL,
    *price_rules("open"),
    *price_rules("high"),
    *price_rules("low"),
    *price_rules("close"),
    compared("low", Reason.CROSSED_RANGE, "<=", "open"),
    compared("low", Reason.CROSSED_RANGE, "<=", "close"),
    compared("open", Reason.CROSSED_RANGE, "<=", "high"),
    compared("close", Reason.CROSSED_RANGE, "<=", "high"),
    *amount_rules("volume"),
    *amount_rules("quote_volume"),
    *count_rules("n_trades"),
    *amount_rules("taker_buy_volume"),
    *amount_rules("taker_buy_quote_volume"),
)


class CandleNumbers(Protocol):
    """The numbers that the rules check; of a `Candle`, or of an exchange's kline."""

    @property
    def open(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def close(self) -> float: ...
    @property
    def volume(self) -> float: ...
    @property
    def quote_volume(self) -> float | None: ...
    @property
    def n_trades(self) -> int | None: ...
    @property
    def taker_buy_volume(self) -> float | None: ...
    @property
    def taker_buy_quote_volume(self) -> float | None: ...


def numbers_hold(candle: CandleNumbers) -> bool:
    """Whether every rule of the table holds, except the one of the symbol.

    Nearly all candles are valid, and a call per rule costs more than parsing a row. The table names what is wrong; a
    property test checks that both agree.
    """
    return (
        MIN_PRICE <= candle.low <= candle.open <= candle.high <= MAX_PRICE
        and candle.low <= candle.close <= candle.high
        and 0 <= candle.volume <= MAX_AMOUNT
        and (candle.quote_volume is None or 0 <= candle.quote_volume <= MAX_AMOUNT)
        and (candle.n_trades is None or 0 <= candle.n_trades <= MAX_COUNT)
        and (candle.taker_buy_volume is None or 0 <= candle.taker_buy_volume <= MAX_AMOUNT)
        and (candle.taker_buy_quote_volume is None or 0 <= candle.taker_buy_quote_volume <= MAX_AMOUNT)
    )


def check(candle: Candle, latest_ms: int | None = None) -> None:
    """Check a candle against the rules, the grid of its interval, and the clock.

    Args:
        candle: a decoded candle.
        latest_ms: the latest end of a closed candle: the clock plus the allowed advance; None: not checked.

    Raises:
        DecodeError: the first rule that the candle violates, with its reason code.
    """
    if not (numbers_hold(candle) and SYMBOL.holds(candle)):
        validate(candle, RULES)
    step_ms = STEP_MS[candle.interval]
    if candle.open_time_ms % step_ms:
        raise DecodeError(Reason.GRID, "open_time", candle.open_time, f"the start of an interval of {candle.interval}")
    if latest_ms is not None and candle.open_time_ms + step_ms > latest_ms:
        raise DecodeError(Reason.FUTURE, "open_time", candle.open_time, "a candle that is closed by the clock")
