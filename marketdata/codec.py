"""Encode records as bytes and decode them strictly; errors name field, value and expectation.

A message is one JSON object in UTF-8. Unknown fields, other schema versions, strings in place of numbers, naive times
and non-finite numbers are refused; nothing is coerced or filled in.
"""

import json
import logging
import math
import re
from enum import EnumType, StrEnum
from functools import lru_cache
from typing import TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

from marketdata.bounds import MAX_RECORD_BYTES
from marketdata.errors import DecodeError, InvalidValueError
from marketdata.records import SCHEMA_VERSION, Prediction, Record, Score, Tick
from marketdata.times import from_wire
from marketdata.vocabulary import Reason

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)

_encoder = msgspec.json.Encoder()
_AT = " - at `$"
_MISSING = re.compile(r"missing required field `([^`]+)`")
_NOT_ONE_OF = "Invalid enum value"
_BOUND = re.compile(r"Expected `(\w+)` (>=|<=|of length <=) (\S+)")
_ITEM = re.compile(r"\[[^\]]*\]")
_ITEMS = {"str": "characters", "array": "items", "object": "entries"}
_VALIDATED = (Prediction, Score)
_UNKNOWN = re.compile(r"unknown field `([^`]+)`")


@lru_cache
def _decoder(cls: type[R]) -> msgspec.json.Decoder[R]:
    return msgspec.json.Decoder(cls)


def encode(record: Record) -> bytes:
    """Encode a record as the value of a message.

    Raises:
        InvalidValueError: a number is not finite or implausible, or a time is not RFC 3339.
    """
    _check(record)
    payload = _encoder.encode(record)
    if isinstance(record, _VALIDATED):  # few an hour; the rules of ticks and candles are validated by their readers
        decode(type(record), payload)
    return payload


def encode_finite(record: Record) -> bytes:
    """Encode a record without validation, for records computed from validated numbers and times.

    For records of many numbers that are created thousands of times per second. A number that is not finite all the
    same, such as a sum that overflows, is written as null.
    """
    return _encoder.encode(record)


def decode(cls: type[R], payload: bytes | None) -> R:
    """Decode the value of a message.

    Raises:
        DecodeError: with reason `empty`, `json`, `schema_version`, `missing_field`, `unknown_field`, `type`, `value` or
            `absurd`; `unexpected` for a fault of this program. No other exception is raised.
    """
    try:
        return _decode(cls, payload)
    except DecodeError:
        raise
    except Exception as error:
        log.exception("unexpected error while decoding a %s", cls.__name__)
        raise DecodeError(Reason.UNEXPECTED, "payload", payload, f"a {cls.__name__} ({error!r})") from error


def _decode(cls: type[R], payload: bytes | None) -> R:
    if not payload:
        raise DecodeError(Reason.EMPTY, "payload", payload, f"a {cls.__name__} as a JSON object")
    if len(payload) > MAX_RECORD_BYTES:
        raise DecodeError(Reason.ABSURD, "payload", payload, f"at most {MAX_RECORD_BYTES} bytes")
    try:
        record: R = _decoder(cls).decode(payload)
    except msgspec.ValidationError as error:
        raise _to_decode_error(cls, payload, str(error)) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise DecodeError(Reason.JSON, "payload", payload, f"JSON ({error})") from error
    except UnicodeDecodeError as error:
        raise DecodeError(Reason.JSON, "payload", payload, "UTF-8") from error
    if record.schema_version != SCHEMA_VERSION:
        raise DecodeError(Reason.SCHEMA_VERSION, "schema_version", record.schema_version, str(SCHEMA_VERSION))
    try:
        _check_times(record)  # JSON numbers are always finite
    except InvalidValueError as error:
        raise DecodeError(Reason.VALUE, error.field, _lookup(payload, error.field), error.expected) from error
    return record


def _check(record: Record) -> None:
    _check_times(record)
    flat, nested = _float_fields(type(record))
    for name in flat:
        value = getattr(record, name)
        if value is not None and not math.isfinite(value):
            raise InvalidValueError(name, value, "a finite number or null")
    for name in nested:
        _check_finite(getattr(record, name), name)


def _check_times(record: Record) -> None:
    for name in record.TIMES:
        value = getattr(record, name)
        if value is not None:
            from_wire(value, name)
    if isinstance(record, Tick):
        for source, state in record.sources.items():
            if state.observed_at is not None:
                from_wire(state.observed_at, f"sources.{source}.observed_at")
            if state.received_at is not None:
                from_wire(state.received_at, f"sources.{source}.received_at")


@lru_cache
def _float_fields(cls: type[Record]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the fields that are floats, and the mappings whose values may contain floats."""
    hints = get_type_hints(cls)
    flat = tuple(name for name in cls.__struct_fields__ if hints[name] is float or float in get_args(hints[name]))
    nested = tuple(name for name in cls.__struct_fields__ if get_origin(hints[name]) is dict and name != "sources")
    return tuple(name for name in flat if name not in nested), nested


def _check_finite(value: object, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValueError(path, value, "a finite number or null")
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _check_finite(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_finite(item, f"{path}.{name}")


class _Digits(str):
    """A number of the payload as it is written there; shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _lookup(payload: bytes, field: str) -> object:
    try:
        # Numbers stay text: msgspec refuses those beyond a double, and Python integers of over 4,300 digits.
        value = json.loads(payload, parse_int=_Digits, parse_float=_Digits)
        for part in _ITEM.sub("", field).split("."):
            value = value[part]
    except (ValueError, RecursionError, KeyError, TypeError):  # ValueError: also bytes that are not UTF-8
        return payload
    return value


def _to_decode_error(cls: type[Record], payload: bytes, text: str) -> DecodeError:
    """Convert msgspec's message (`Expected `float`, got `str` - at `$.price``) into field, value and expectation."""
    message, at, path = text.rpartition(_AT)
    if not at:
        message, path = text, ""
    path = path.removesuffix("`").removeprefix(".")
    if match := _MISSING.search(message):
        return DecodeError(Reason.MISSING_FIELD, match.group(1), None, "the field to be present (null if unknown)")
    if match := _UNKNOWN.search(message):
        field = f"{path}.{match.group(1)}" if path else match.group(1)
        return DecodeError(Reason.UNKNOWN_FIELD, field, _lookup(payload, field), f"only fields of {cls.__name__}")
    expected = message.removeprefix("Expected ").split(", got ")[0].replace("`", "")
    if "out of range" in message:
        expected = "a finite number"
    if match := _BOUND.match(message):
        kind, comparison, bound = match.groups()
        expected = f"a number {comparison} {float(bound):g}"
        if kind in _ITEMS:
            expected = f"at most {bound} {_ITEMS[kind]}"
        return DecodeError(Reason.ABSURD, path, _lookup(payload, path), expected)
    if message.startswith(_NOT_ONE_OF) and (choices := _choices(get_type_hints(cls).get(path))):
        expected = f"one of {', '.join(choices)}"
    if not path:
        return DecodeError(Reason.TYPE, "payload", payload, f"a {cls.__name__} as a JSON object")
    return DecodeError(Reason.TYPE, path, _lookup(payload, path), expected)


def _choices(hint: object) -> list[str]:
    """Return the strings that an enum or a Literal allows, alone or in a union."""
    if isinstance(hint, EnumType):
        return [str(member) for member in cast("type[StrEnum]", hint)]
    return [text for one in get_args(hint) for text in ([one] if isinstance(one, str) else _choices(one))]
