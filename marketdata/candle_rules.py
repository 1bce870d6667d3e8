"""The rules of a valid candle: a table, the grid of its interval, and the clock.

To add a rule, add it to `RULES`; the other implementations are derived from the table.
"""

from collections.abc import Mapping
from types import MappingProxyType

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


def check(candle: Candle, latest_ms: int | None = None) -> None:
    """Check a candle against the rules, the grid of its interval, and the clock.

    Args:
        candle: a decoded candle.
        latest_ms: the latest end of a closed candle: the clock plus the allowed advance; None: not checked.

    Raises:
        DecodeError: the first rule that the candle violates, with its reason code.
    """
    validate(candle, RULES)
    step_ms = STEP_MS[candle.interval]
    if candle.open_time_ms % step_ms:
        raise DecodeError(Reason.GRID, "open_time", candle.open_time, f"the start of an interval of {candle.interval}")
    if latest_ms is not None and candle.open_time_ms + step_ms > latest_ms:
        raise DecodeError(Reason.FUTURE, "open_time", candle.open_time, "a candle that is closed by the clock")
