"""docs/asyncapi.yaml is up to date, and arbitrary records match its schemas."""

import json
import typing
from enum import EnumType
from functools import cache
from types import UnionType
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from marketdata.__main__ import asyncapi_yaml
from marketdata.asyncapi import REPUBLISHED
from marketdata.codec import decode, encode
from marketdata.dead_letters import RepublishRecord
from marketdata.errors import DecodeError
from marketdata.records import RECORDS, Record, SourceState
from marketdata.times import to_rfc3339
from marketdata.topics import TOPICS
from streams.kafka.topics import declared
from tests.support.paths import DOCS
from tests.support.stack import settings_with

COMMITTED = (DOCS / "asyncapi.yaml").read_text(encoding="utf-8")
DOCUMENT = yaml.safe_load(COMMITTED)
DECLARED = declared(settings_with({}))
TIMES = st.integers(0, 4_102_444_800_000).map(to_rfc3339)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    float: st.floats(allow_nan=False, allow_infinity=False),
    int: st.integers(-(2**63), 2**63 - 1),
    str: st.text(max_size=20),
    bool: st.booleans(),
    type(None): st.none(),
}


def bounded(hint: Any, meta: msgspec.Meta) -> st.SearchStrategy[Any]:
    """Numbers within their bounds; texts and lists are far shorter than their maximum."""
    if hint is int:
        return st.integers(meta.ge, meta.le)  # type: ignore[arg-type]
    return st.floats(meta.ge, meta.le) if hint is float else values(hint)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated or hint in PLAIN:
        return PLAIN[hint] if hint in PLAIN else bounded(*arguments)
    if origin in (UnionType, typing.Union):
        return st.one_of(*(values(one) for one in arguments))
    if isinstance(hint, EnumType) or origin is typing.Literal:
        return st.sampled_from(arguments or [*hint])
    if origin is dict:
        return st.dictionaries(st.text(max_size=5), values(arguments[1]), max_size=3)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    return structs(hint)


def structs(cls: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Records with arbitrary values and valid times."""
    times = {"observed_at", "received_at"} if cls is SourceState else set(getattr(cls, "TIMES", ()))
    fields = {
        name: (TIMES | st.none() if "None" in str(hint) else TIMES) if name in times else values(hint)
        for name, hint in typing.get_type_hints(cls, include_extras=True).items()
        if name in cls.__struct_fields__ and name != "schema_version"
    }
    return st.builds(cls, **fields)


@cache
def validator(record: str) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{record}", "components": DOCUMENT["components"]}
    return Draft202012Validator(schema, format_checker=FormatChecker())


def test_the_committed_document_is_up_to_date() -> None:
    assert asyncapi_yaml() == COMMITTED, "run: python -m marketdata --asyncapi > docs/asyncapi.yaml"


def test_every_topic_is_documented_as_it_is_created() -> None:
    assert set(DOCUMENT["channels"]) == {*(role.value for role in TOPICS), REPUBLISHED}
    for role, topic in TOPICS.items():
        kafka = DOCUMENT["channels"][role.value]["bindings"]["kafka"]
        config = {key: ",".join(v) if isinstance(v, list) else str(v) for key, v in kafka["topicConfiguration"].items()}
        assert (kafka["topic"], kafka["partitions"], config) == (topic.name, topic.partitions, topic.config)
        assert DOCUMENT["channels"][role.value]["messages"].keys() == {topic.record}


@given(note=st.builds(RepublishRecord))
def test_the_topic_of_republish_records_is_documented(note: RepublishRecord) -> None:
    (policy,) = (one for one in DECLARED if one.name.startswith("dead-letters-"))
    kafka = DOCUMENT["channels"][REPUBLISHED]["bindings"]["kafka"]
    assert (kafka["topic"], kafka["partitions"]) == (policy.name, policy.partitions)
    assert kafka["topicConfiguration"] == {name: [value] for name, value in policy.config.items()}
    validator("RepublishRecord").validate(json.loads(msgspec.json.encode(note)))


@pytest.mark.parametrize("name", sorted({topic.record for topic in TOPICS.values()}))
@given(data=st.data())
def test_every_encoded_record_matches_its_schema(name: str, data: st.DataObject) -> None:
    record: Record = data.draw(structs(RECORDS[name]))
    validator(name).validate(json.loads(encode(record)))


BOUNDED = [
    (name, field, bound)
    for name in sorted({topic.record for topic in TOPICS.values()})
    for field, schema in DOCUMENT["components"]["schemas"][name]["properties"].items()
    for bound in ("minimum", "maximum")
    if bound in schema
]


@pytest.mark.parametrize(("name", "field", "bound"), BOUNDED)
@given(data=st.data())
def test_a_number_beyond_a_documented_bound_is_refused_by_the_codec(
    name: str, field: str, bound: str, data: st.DataObject
) -> None:
    record: Record = data.draw(structs(RECORDS[name]))
    limit = DOCUMENT["components"]["schemas"][name]["properties"][field][bound]
    for value, accepted in ((limit, True), (limit + (abs(limit) + 1) * (1 if bound == "maximum" else -1), False)):
        payload = json.dumps(json.loads(encode(record)) | {field: value}).encode()
        if accepted:
            validator(name).validate(json.loads(payload))
            assert getattr(decode(RECORDS[name], payload), field) == value
            continue
        with pytest.raises(DecodeError) as caught:
            decode(RECORDS[name], payload)
        assert (caught.value.reason, caught.value.field) == ("absurd", field)
        with pytest.raises(ValidationError):
            validator(name).validate(json.loads(payload))


def test_the_numbers_of_forecasts_are_bounded() -> None:
    for name in ("Prediction", "Score"):
        numbers = {
            field
            for field, schema in DOCUMENT["components"]["schemas"][name]["properties"].items()
            if schema.get("type") in ("number", "integer")
        }
        assert numbers == {field for record, field, _ in BOUNDED if record == name}


@pytest.mark.parametrize(
    "change",
    [{"price": "1"}, {"schema_version": 2}, {"timestamp": "yesterday"}, {"sources": {"binance": {}}}, {"x": 1}],
)
@given(tick=structs(RECORDS["Tick"]))
def test_an_invalid_tick_does_not_match(tick: Record, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validator("Tick").validate(json.loads(encode(tick)) | change)


@given(tick=structs(RECORDS["Tick"]), field=st.sampled_from(RECORDS["Tick"].__struct_fields__))
def test_a_message_without_a_field_does_not_match(tick: Record, field: str) -> None:
    message = json.loads(encode(tick))
    del message[field]
    with pytest.raises(ValidationError):
        validator("Tick").validate(message)
