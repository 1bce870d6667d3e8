"""Validation rules as data: each has a field, a reason code and an expectation.

The tables are in `marketdata.tick_rules` and `marketdata.candle_rules`; dead letters and documents use the reason
codes. A rule has one of a few forms, so that each reader can translate it (to Spark SQL: `batch.sql.parse`).
"""

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from marketdata.bounds import MAX_AMOUNT, MAX_COUNT, MAX_PRICE, MIN_PRICE
from marketdata.errors import DecodeError
from marketdata.markets import SYMBOL_PATTERN
from marketdata.records import Record
from marketdata.vocabulary import Reason

Comparison = Literal[">", ">=", "<="]
_COMPARE: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {">": operator.gt, ">=": operator.ge, "<=": operator.le}
)


def check_key(key: bytes | None, symbol: str) -> None:
    """Check that a record's key is its symbol, by which records are partitioned.

    Raises:
        DecodeError: with reason `key`.
    """
    if key != symbol.encode():
        raise DecodeError(Reason.KEY, "key", key, f"the symbol {symbol!r} as UTF-8")


@dataclass(frozen=True, slots=True)
class Rule(ABC):
    """A record that violates the rule is refused with `reason`; `expected` completes "field: value: expected …"."""

    field: str
    reason: Reason
    expected: str

    @abstractmethod
    def holds(self, record: Record) -> bool:
        """Return whether a record satisfies the rule; its type must have the rule's fields."""


@dataclass(frozen=True, slots=True)
class Compares(Rule):
    """`field` compares to `bound`, a number or the name of a field; null passes."""

    comparison: Comparison
    bound: float | str

    def holds(self, record: Record) -> bool:
        value = getattr(record, self.field)
        bound = getattr(record, self.bound) if isinstance(self.bound, str) else self.bound
        return value is None or bound is None or _COMPARE[self.comparison](value, bound)


@dataclass(frozen=True, slots=True)
class Matches(Rule):
    """The whole string `field` matches `pattern`.

    The pattern has the same meaning in Python and Java: it consists of listed character classes and bounded counts.
    Repeated groups and open counts are not allowed, because a string of a megabyte must match in linear time.
    """

    pattern: str

    def holds(self, record: Record) -> bool:
        return re.fullmatch(self.pattern, getattr(record, self.field)) is not None


@dataclass(frozen=True, slots=True)
class Joins(Rule):
    """`field` equals the fields `first` and `second`, joined by `separator`."""

    first: str
    separator: str
    second: str

    def holds(self, record: Record) -> bool:
        joined = f"{getattr(record, self.first)}{self.separator}{getattr(record, self.second)}"
        return bool(getattr(record, self.field) == joined)


@dataclass(frozen=True, slots=True)
class Ends(Rule):
    """The field `whole` ends with `separator` followed by `field`."""

    whole: str
    separator: str

    def holds(self, record: Record) -> bool:
        return bool(getattr(record, self.whole).endswith(f"{self.separator}{getattr(record, self.field)}"))


@dataclass(frozen=True, slots=True)
class Repeats(Rule):
    """`field` equals `original`, including null, if the field `where` equals `value`; otherwise it is null."""

    original: str
    where: str
    value: str

    def holds(self, record: Record) -> bool:
        original = getattr(record, self.original) if getattr(record, self.where) == self.value else None
        return bool(getattr(record, self.field) == original)


@dataclass(frozen=True, slots=True)
class AnyPresent(Rule):
    """`field` or `other` is not null."""

    other: str

    def holds(self, record: Record) -> bool:
        return getattr(record, self.field) is not None or getattr(record, self.other) is not None


SYMBOL = Matches("symbol", Reason.SYMBOL, "BASE-QUOTE in upper case", SYMBOL_PATTERN)
"""The part after the hyphen is the quote currency."""


def compared(field: str, reason: Reason, comparison: Comparison, bound: float | str) -> Compares:
    """Return a comparison with its expectation, such as "a number > 0"."""
    shown = bound if isinstance(bound, str) else f"{bound:g}"
    return Compares(field, reason, f"a number {comparison} {shown}", comparison, bound)


def price_rules(field: str) -> tuple[Rule, ...]:
    """Return the rules of a price."""
    return (
        compared(field, Reason.NOT_POSITIVE, ">", 0.0),
        compared(field, Reason.ABSURD, ">=", MIN_PRICE),
        compared(field, Reason.ABSURD, "<=", MAX_PRICE),
    )


def amount_rules(field: str, most: float = MAX_AMOUNT) -> tuple[Rule, ...]:
    """Return the rules of a quantity or volume."""
    return compared(field, Reason.NEGATIVE, ">=", 0.0), compared(field, Reason.ABSURD, "<=", most)


def count_rules(field: str) -> tuple[Rule, ...]:
    """Return the rules of a count."""
    return amount_rules(field, MAX_COUNT)


def validate(record: Record, rules: Iterable[Rule]) -> None:
    """Check a record against a table of rules.

    Raises:
        DecodeError: the first rule that the record violates, with its reason code.
    """
    for rule in rules:
        if not rule.holds(record):
            raise DecodeError(rule.reason, rule.field, getattr(record, rule.field), rule.expected)
