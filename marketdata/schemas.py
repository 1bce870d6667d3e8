"""JSON Schemas (draft 2020-12) of the records, for the AsyncAPI and OpenAPI documents.

Derived from the types. The meaning of each field is in the records' docstrings and in docs/topics.md.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import msgspec

from marketdata.records import SCHEMA_VERSION, Record, SourceState

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/{name}"
_SOURCE_TIMES = ("observed_at", "received_at")


def schemas(types: Sequence[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """Return the schema of each type, and the named components that they reference by `REFERENCE`.

    Types are records, msgspec structs or typed dicts. All fields of a record are required, because the encoder omits
    none; its times have the format `date-time`.
    """
    found, parts = msgspec.json.schema_components(types, ref_template=REFERENCE)
    records = {cls.__name__: cls for one in types for cls in _all_subclasses(Record)}
    named = {name: _part(part, records.get(name)) for name, part in sorted(parts.items())}
    return [_plain(schema) for schema in found], named


def _all_subclasses(cls: type[Record]) -> list[type[Record]]:
    return [one for child in cls.__subclasses__() for one in (child, *_all_subclasses(child))]


def _part(part: Schema, record: type[Record] | None) -> Schema:
    plain: Schema = _plain(part)
    if "description" in plain:
        plain["description"] = inspect.cleandoc(plain["description"])
    if record is None and plain.get("title") != SourceState.__name__:
        return plain
    plain["required"] = list(plain["properties"])
    for name in _SOURCE_TIMES if record is None else record.TIMES:
        plain["properties"][name]["format"] = "date-time"
    if record is not None:
        plain["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    return plain


def _plain(schema: Any) -> Any:
    """Return the schema without defaults; an `anyOf` of plain types becomes a `type` list such as `[number, null]`."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items() if key != "default"}
    choice = plain.get("anyOf", ())
    if choice and all(one.keys() == {"type"} for one in choice):
        return {key: value for key, value in plain.items() if key != "anyOf"} | {"type": [c["type"] for c in choice]}
    return plain
