"""Read fields of an exchange's JSON strictly; errors name the field, the value and the expectation. Pure."""

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from marketdata.errors import InvalidValueError

_INT64_END = 1 << 63
_MAX_SHOWN = 120
_DECIMAL = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")


def decode_json(body: bytes | str) -> Any:
    """The decoded JSON of a message.

    Raises:
        InvalidValueError: it is not JSON, not UTF-8, or nested more deeply than the decoder allows.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidValueError("body", body[:_MAX_SHOWN], f"JSON ({error})") from error


def nullable_number(row: Mapping[str, Any], field: str) -> float | None:
    """A JSON number or null.

    Raises:
        InvalidValueError: the field is absent, or neither a finite number nor null.
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
    except OverflowError as error:  # JSON integers have no size limit
        raise InvalidValueError(field, value, "a finite number or null") from error
    if not math.isfinite(number):
        raise InvalidValueError(field, value, "a finite number or null")
    return number


def decimal(value: Any, field: str) -> float:
    """A finite number written as a JSON string, as Binance writes prices and quantities.

    Raises:
        InvalidValueError: the value is anything else.
    """
    if isinstance(value, str) and _DECIMAL.fullmatch(value) and math.isfinite(number := float(value)):
        return number
    raise InvalidValueError(field, value, "a decimal number as a string")


def integer(value: Any, field: str) -> int:
    """A JSON integer that fits into 64 bits.

    Raises:
        InvalidValueError: the value is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not -_INT64_END <= value < _INT64_END:
        raise InvalidValueError(field, value, "an integer of 64 bits")
    return value


def array_of_objects(payload: Any, where: str) -> list[Mapping[str, Any]]:
    """A JSON array of objects.

    Raises:
        InvalidValueError: the payload is anything else.
    """
    if not isinstance(payload, list) or not all(isinstance(row, dict) for row in payload):
        raise InvalidValueError(where, payload, "an array of objects")
    return payload


def index_by(rows: list[Mapping[str, Any]], field: str) -> dict[str, Mapping[str, Any]]:
    """Rows by the text in `field`; rows without a text in it are left out."""
    return {row[field]: row for row in rows if isinstance(row.get(field), str)}
