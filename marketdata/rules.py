"""What a record must satisfy to be taken in: rules that are data, each with the field and the reason code.

Pure. The tables are `marketdata.tick_rules` and `marketdata.candle_rules`; dead letters and docs use the reason codes.
A rule is one of a few forms, so that every reader can say it in its own language (Spark's: `batch.wire`).
"""

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from marketdata.bounds import LEAST_PRICE, MOST_AMOUNT, MOST_PRICE
from marketdata.errors import DecodeError
from marketdata.records import Record

Comparison = Literal[">", ">=", "<="]
_COMPARE: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {">": operator.gt, ">=": operator.ge, "<=": operator.le}
)
FUTURE_REASON = "future"


@dataclass(frozen=True, slots=True)
class Rule(ABC):
    """A record is refused with `reason` unless the rule holds; `expected` completes "field: value: expected …"."""

    field: str
    reason: str
    expected: str

    @abstractmethod
    def holds(self, record: Record) -> bool:
        """Whether a record, of a kind that has the fields, satisfies the rule."""


@dataclass(frozen=True, slots=True)
class Compares(Rule):
    """`field` compares so with `bound`, a number or a field; one that is null passes."""

    comparison: Comparison
    bound: float | str

    def holds(self, record: Record) -> bool:
        value = getattr(record, self.field)
        bound = getattr(record, self.bound) if isinstance(self.bound, str) else self.bound
        return value is None or bound is None or _COMPARE[self.comparison](value, bound)


@dataclass(frozen=True, slots=True)
class Matches(Rule):
    r"""The texts of `fields`, joined by a space, match `pattern` from end to end.

    A group and its `\1` say that one field repeats a part of another. Python and Java read the pattern alike: it is
    made of classes of characters that are listed, groups, counts and `\1`.
    """

    fields: tuple[str, ...]
    pattern: str

    def holds(self, record: Record) -> bool:
        return re.fullmatch(self.pattern, " ".join(getattr(record, name) for name in self.fields)) is not None


@dataclass(frozen=True, slots=True)
class Repeats(Rule):
    """`field` is what `original` is (null too) where the field `where` is the text `value`, and null elsewhere."""

    original: str
    where: str
    value: str

    def holds(self, record: Record) -> bool:
        original = getattr(record, self.original) if getattr(record, self.where) == self.value else None
        return bool(getattr(record, self.field) == original)


@dataclass(frozen=True, slots=True)
class Known(Rule):
    """`field` or else `other` is not null."""

    other: str

    def holds(self, record: Record) -> bool:
        return getattr(record, self.field) is not None or getattr(record, self.other) is not None


def compared(field: str, reason: str, comparison: Comparison, bound: float | str) -> Compares:
    """A comparison, whose `expected` is made of it."""
    shown = bound if isinstance(bound, str) else f"{bound:g}"
    return Compares(field, reason, f"a number {comparison} {shown}", comparison, bound)


def price_rules(field: str) -> tuple[Rule, ...]:
    """What each price must satisfy."""
    return (
        compared(field, "not_positive", ">", 0.0),
        compared(field, "absurd", ">=", LEAST_PRICE),
        compared(field, "absurd", "<=", MOST_PRICE),
    )


def amount_rules(field: str) -> tuple[Rule, ...]:
    """What each quantity, volume and count must satisfy."""
    return compared(field, "negative", ">=", 0.0), compared(field, "absurd", "<=", MOST_AMOUNT)


def hold(record: Record, rules: Iterable[Rule]) -> None:
    """Hold a record against a table.

    Raises:
        DecodeError: the first rule that does not hold, with its reason code.
    """
    for rule in rules:
        if not rule.holds(record):
            raise DecodeError(rule.reason, rule.field, getattr(record, rule.field), rule.expected)
