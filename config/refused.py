"""Describes refused settings: one line each, `NAME: VALUE: expected …`, with secrets masked."""

import enum
import re
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from marketdata.errors import shorten

MASKED = "***"
_KINDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", Path: "a path"}
_LIMITS = ((Ge, "ge", "of at least"), (Gt, "gt", "above"), (Le, "le", "of at most"), (Lt, "lt", "below"))
_LENGTHS = ((MinLen, "min_length", "at least"), (MaxLen, "max_length", "at most"))
_CREDENTIALS = re.compile(r"//[^/@\s]*@")
_LONGEST_CHOICE = 12


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Return a heading, and one line for each setting that the model refuses."""
    return in_lines(_line(found, model) for found in error.errors())


def in_lines(reasons: Iterable[str]) -> str:
    """Return a heading, and one line for each reason."""
    return "settings refused:\n  " + "\n  ".join(" ".join(reason.split()) for reason in dict.fromkeys(reasons))


def _line(found: ErrorDetails, model: type[BaseModel]) -> str:
    place = [str(part) for part in found["loc"] if part != "[key]"]
    name, message = ".".join(place), found["msg"].removeprefix("Value error, ")  # pydantic's prefix of our messages
    if found["type"] == "extra_forbidden":
        return f"{name}: unknown setting; expected one of {', '.join(_names(model, place[:-1]))}"
    field, rest = _field(model, place)
    if field is None:  # a rule for several settings; its message begins with the name of one of them
        return (
            f"{name}.{message}" if name and found["type"] == "value_error" else f"{name}: {_rule(found)}".lstrip(": ")
        )
    value = _shown(field, found["input"])
    if found["type"] != "value_error":
        return f"{name}: {value}: expected {_expected(field, rest, is_key=found['loc'][-1:] == ('[key]',))}"
    return f"{name}: {value}: {message}" if message.startswith("expected") else f"{name}: {message}"


def _shown(field: FieldInfo, value: Any) -> str:
    """Return the value, masked if it is a secret, contains credentials, or can be a secret given to a wrong setting."""
    kinds = _types(field.annotation)
    text = repr(value)
    if SecretStr in kinds or (any(_choices(kind) for kind in kinds) and len(text) > _LONGEST_CHOICE):
        return MASKED
    return shorten(_CREDENTIALS.sub(f"//{MASKED}@", text))


def _rule(found: ErrorDetails) -> str:
    message = found["msg"].removeprefix("Value error, ")
    return message if found["type"] == "value_error" else "expected a table of settings"


def _field(model: type[BaseModel], place: list[str]) -> tuple[FieldInfo | None, int]:
    """Return the field at a place, None for a section or the whole tree, and the number of parts below the field."""
    for depth, part in enumerate(place, start=1):
        field = model.model_fields[part]
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return field, len(place) - depth
        model = field.annotation
    return None, 0


def _names(model: type[BaseModel], place: list[str]) -> list[str]:
    for part in place:
        inner = model.model_fields[part].annotation
        if not isinstance(inner, type) or not issubclass(inner, BaseModel):
            break
        model = inner
    return sorted(model.model_fields)


def _types(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type, without None and metadata."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _types(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return tuple(kind for one in get_args(annotation) for kind in _types(one) if kind is not NoneType)
    return (annotation,)


def _metadata(annotation: Any) -> tuple[Any, ...]:
    found = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return tuple(one for part in found for one in (part.metadata if isinstance(part, FieldInfo) else (part,)))


def _item(annotation: Any, *, is_key: bool = False) -> Any:
    """Return the type of the items of a list, or of the keys or values of a table."""
    (container,) = _types(annotation)
    arguments = get_args(container)
    return arguments[0] if is_key or get_origin(container) is tuple else arguments[-1]


def _bounds(metadata: Iterable[Any], limits: Iterable[tuple[Any, str, str]]) -> list[str]:
    # 15 digits: limits of millions are written in full
    return [
        f"{words} {getattr(one, name):.15g}" for one in metadata for cls, name, words in limits if isinstance(one, cls)
    ]


def numeric_types(field: FieldInfo) -> list[tuple[Any, tuple[Any, ...]]]:
    """Return each number of a setting, or of the items of a list or table, as its type and its limits."""
    found = []
    for kind in _types(field.annotation):
        if kind in (int, float):
            found.append((kind, tuple(field.metadata)))
        elif get_origin(kind) in (tuple, dict):
            item = _item(kind)
            found += [(one, _metadata(item)) for one in _types(item) if one in (int, float)]
    return found


def range_of(field: FieldInfo) -> str:
    """Return the range of a number as `LOWEST to HIGHEST`; empty for other settings."""
    limits = [_bounds(metadata, _LIMITS) for _, metadata in numeric_types(field)]
    return " to ".join(text.rsplit(" ", 1)[1] for texts in limits for text in texts)


def _expected(field: FieldInfo, below: int, *, is_key: bool) -> str:
    """Describe the values of a field, or of its items if the refused value is `below` it."""
    annotation, metadata = field.annotation, tuple(field.metadata)
    if below:
        annotation = _item(annotation, is_key=is_key)
        metadata = _metadata(annotation)
    (kind,) = _types(annotation)
    lengths = " and ".join(_bounds(metadata, _LENGTHS))
    text = _kind(kind).replace("a list", f"a list of {lengths} items", 1) if lengths else _kind(kind)
    return " ".join([text, " and ".join(_bounds(metadata, _LIMITS))]).strip()


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(one) for one in get_args(kind)]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [str(one.value) for one in kind]
    return []


def _kind(kind: Any) -> str:
    if choices := _choices(kind):
        return f"one of {', '.join(choices)}"
    origin = get_origin(kind)
    if origin is tuple:
        return "a list, in the environment separated by commas"
    if origin is dict:
        return "a table, in the environment a JSON object"
    return _KINDS.get(kind, "text")
