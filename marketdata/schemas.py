"""The records as JSON Schema (draft 2020-12), for the documents of topics and of the API.

Derived from the types alone: what a field means stands in the records' own texts and in docs/topics.md. Pure.
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
    """The schema of each type, and the named parts that they point to by `REFERENCE`.

    Types are records, msgspec structs or typed dicts. Of a record all fields are required, for the encoder leaves none
    out; its times are `date-time`.
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
    """The same without defaults, and with `type: [x, null]` where a choice is only between a plain type and null."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items() if key != "default"}
    choice = plain.get("anyOf", ())
    if choice and all(one.keys() == {"type"} for one in choice):
        return {key: value for key, value in plain.items() if key != "anyOf"} | {"type": [c["type"] for c in choice]}
    return plain
