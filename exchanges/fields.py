"""Reading fields of an exchange's JSON strictly: what is wrong is named by field, value and expected. Pure."""

import math
import re
from collections.abc import Mapping
from typing import Any

from marketdata.errors import InvalidValueError

_BEYOND_64_BITS = 1 << 63
_DECIMAL = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")


def nullable_number(row: Mapping[str, Any], field: str) -> float | None:
    """A JSON number or null. The field must be there.

    Raises:
        InvalidValueError: it is absent, or something else.
    """
    if field not in row:
        raise InvalidValueError(field, None, "the field to be present (a number or null)")
    value = row[field]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValueError(field, value, "a finite number or null")
    try:
        number = float(value)
    except OverflowError as error:  # JSON's integers are of any length
        raise InvalidValueError(field, value, "a finite number or null") from error
    if not math.isfinite(number):
        raise InvalidValueError(field, value, "a finite number or null")
    return number


def decimal(value: Any, field: str) -> float:
    """A number written as a JSON string, as Binance writes prices and quantities.

    Raises:
        InvalidValueError: it is something else.
    """
    if not isinstance(value, str) or _DECIMAL.fullmatch(value) is None or not math.isfinite(float(value)):
        raise InvalidValueError(field, value, "a decimal number as a string")
    return float(value)


def integer(value: Any, field: str) -> int:
    """A JSON integer of 64 bits.

    Raises:
        InvalidValueError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not -_BEYOND_64_BITS <= value < _BEYOND_64_BITS:
        raise InvalidValueError(field, value, "an integer of 64 bits")
    return value


def array_of_objects(payload: Any, where: str) -> list[Mapping[str, Any]]:
    """A JSON array of objects.

    Raises:
        InvalidValueError: it is something else.
    """
    if not isinstance(payload, list) or not all(isinstance(row, dict) for row in payload):
        raise InvalidValueError(where, payload, "an array of objects")
    return payload


def index_by(rows: list[Mapping[str, Any]], field: str) -> dict[str, Mapping[str, Any]]:
    """Rows by the text in `field`; a row without such a text names nothing that was asked for."""
    return {row[field]: row for row in rows if isinstance(row.get(field), str)}
