"""What a record must satisfy to be taken in: rules that are data, each with the field and the reason code.

Pure. The tables are `marketdata.tick_rules` and `marketdata.candle_rules`; dead letters and docs use the reason codes.
A rule is one of a few forms, so that every reader can say it in its own language (Spark's: `batch.sql.parse`).
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
from marketdata.records import Record
from marketdata.vocabulary import Reason

Comparison = Literal[">", ">=", "<="]
_COMPARE: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {">": operator.gt, ">=": operator.ge, "<=": operator.le}
)


@dataclass(frozen=True, slots=True)
class Rule(ABC):
    """A record is refused with `reason` unless the rule holds; `expected` completes "field: value: expected …"."""

    field: str
    reason: Reason
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
    """`field`, a text, matches `pattern` from end to end.

    Python and Java read the pattern alike: it is made of classes of characters that are listed, and counts that are
    bounded. No groups that are repeated and no open counts: a text may be a megabyte long, and is looked at in one go.
    """

    pattern: str

    def holds(self, record: Record) -> bool:
        return re.fullmatch(self.pattern, getattr(record, self.field)) is not None


@dataclass(frozen=True, slots=True)
class Joins(Rule):
    """`field` is the text of `first`, `separator` and that of `second`."""

    first: str
    separator: str
    second: str

    def holds(self, record: Record) -> bool:
        joined = f"{getattr(record, self.first)}{self.separator}{getattr(record, self.second)}"
        return bool(getattr(record, self.field) == joined)


@dataclass(frozen=True, slots=True)
class Ends(Rule):
    """The text of `whole` ends with `separator` and that of `field`."""

    whole: str
    separator: str

    def holds(self, record: Record) -> bool:
        return bool(getattr(record, self.whole).endswith(f"{self.separator}{getattr(record, self.field)}"))


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
class AnyPresent(Rule):
    """`field` or else `other` is not null."""

    other: str

    def holds(self, record: Record) -> bool:
        return getattr(record, self.field) is not None or getattr(record, self.other) is not None


SYMBOL = Matches("symbol", Reason.SYMBOL, "BASE-QUOTE in upper case", "[A-Z0-9]{2,12}-[A-Z]{3,5}")
"""One hyphen: what stands behind it is the quote currency."""


def compared(field: str, reason: Reason, comparison: Comparison, bound: float | str) -> Compares:
    """A comparison, whose `expected` is made of it."""
    shown = bound if isinstance(bound, str) else f"{bound:g}"
    return Compares(field, reason, f"a number {comparison} {shown}", comparison, bound)


def price_rules(field: str) -> tuple[Rule, ...]:
    """What each price must satisfy."""
    return (
        compared(field, Reason.NOT_POSITIVE, ">", 0.0),
        compared(field, Reason.ABSURD, ">=", MIN_PRICE),
        compared(field, Reason.ABSURD, "<=", MAX_PRICE),
    )


def amount_rules(field: str, most: float = MAX_AMOUNT) -> tuple[Rule, ...]:
    """What each quantity and volume must satisfy."""
    return compared(field, Reason.NEGATIVE, ">=", 0.0), compared(field, Reason.ABSURD, "<=", most)


def count_rules(field: str) -> tuple[Rule, ...]:
    """What each count must satisfy."""
    return amount_rules(field, MAX_COUNT)


def validate(record: Record, rules: Iterable[Rule]) -> None:
    """Hold a record against a table.

    Raises:
        DecodeError: the first rule that does not hold, with its reason code.
    """
    for rule in rules:
        if not rule.holds(record):
            raise DecodeError(rule.reason, rule.field, getattr(record, rule.field), rule.expected)
