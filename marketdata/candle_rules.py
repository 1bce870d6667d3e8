"""What a candle must satisfy to be taken in: one table of rules, each with the field and the reason code.

Pure. Dead letters use the reason codes; a rule is added here and nowhere else. A rule compares a field with a number or
with another field, so that every reader can say it in its own language (Spark's: `batch.wire`).
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from marketdata.bounds import LEAST_PRICE, MOST_AMOUNT, MOST_PRICE
from marketdata.errors import DecodeError
from marketdata.records import Candle
from marketdata.times import HOUR_MS, MINUTE_MS

Comparison = Literal[">", ">=", "<="]
_COMPARE: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {">": operator.gt, ">=": operator.ge, "<=": operator.le}
)
STEP_MS: Mapping[str, int] = MappingProxyType({"1m": MINUTE_MS, "1h": HOUR_MS})
"""An interval's length, which is also the grid of its open times."""
FUTURE_REASON = "future"


@dataclass(frozen=True, slots=True)
class Rule:
    """A candle is refused with `reason` unless `field` is null or compares so with `bound`, a number or a field."""

    field: str
    reason: str
    comparison: Comparison
    bound: float | str

    @property
    def expected(self) -> str:
        """Completes "field: value: expected …"."""
        bound = self.bound if isinstance(self.bound, str) else f"{self.bound:g}"
        return f"a number {self.comparison} {bound}"

    def holds(self, candle: Candle) -> bool:
        value = getattr(candle, self.field)
        bound = getattr(candle, self.bound) if isinstance(self.bound, str) else self.bound
        return value is None or _COMPARE[self.comparison](value, bound)


def _price(field: str) -> tuple[Rule, ...]:
    return (
        Rule(field, "not_positive", ">", 0.0),
        Rule(field, "absurd", ">=", LEAST_PRICE),
        Rule(field, "absurd", "<=", MOST_PRICE),
    )


def _amount(field: str) -> tuple[Rule, ...]:
    return Rule(field, "negative", ">=", 0.0), Rule(field, "absurd", "<=", MOST_AMOUNT)


RULES: tuple[Rule, ...] = (
    *_price("open"),
    *_price("high"),
    *_price("low"),
    *_price("close"),
    Rule("low", "crossed_range", "<=", "open"),
    Rule("low", "crossed_range", "<=", "close"),
    Rule("open", "crossed_range", "<=", "high"),
    Rule("close", "crossed_range", "<=", "high"),
    *_amount("volume"),
    *_amount("quote_volume"),
    *_amount("n_trades"),
    *_amount("taker_buy_volume"),
    *_amount("taker_buy_quote_volume"),
)


def check(candle: Candle, latest_ms: int | None = None) -> None:
    """Hold a candle against the rules, the grid of its interval, and the clock.

    Args:
        candle: as the wire's reader gives it.
        latest_ms: the latest end that a closed candle may have: the clock and what it may be ahead; None for any.

    Raises:
        DecodeError: the first rule that does not hold, with its reason code.
    """
    for rule in RULES:
        if not rule.holds(candle):
            raise DecodeError(rule.reason, rule.field, getattr(candle, rule.field), rule.expected)
    step_ms = STEP_MS[candle.interval]
    if candle.open_time_ms % step_ms:
        raise DecodeError("grid", "open_time", candle.open_time, f"the start of an interval of {candle.interval}")
    if latest_ms is not None and candle.open_time_ms + step_ms > latest_ms:
        raise DecodeError(FUTURE_REASON, "open_time", candle.open_time, "a candle that is closed by the clock")
