"""Values on the wire have one definition: product modules use the enums of `marketdata.vocabulary`."""

import ast
from enum import StrEnum

import pytest

from marketdata import vocabulary
from tests.support.paths import ROOT

PACKAGES = ("marketdata", "config", "exchanges", "clients", "streams", "batch", "forecasting")
# Words with another meaning elsewhere: JSON keys, field and column names, states of health, commands, topics.
OTHER_MEANINGS = {
    "ok", "missing", "disabled", "timeout", "connection", "refused", "unexpected",
    "poll", "stream", "both",
    "empty", "json", "schema_version", "type", "value", "key", "symbol", "quote", "tick_id", "future",
    "ticks", "live", "backfill", "lost",
    "raw", "hourly", "waiting",
}  # fmt: skip

VALUES = {
    str(member)
    for enum in vars(vocabulary).values()
    if isinstance(enum, type) and issubclass(enum, StrEnum) and enum is not StrEnum
    for member in enum
}


def retyped(source: str) -> list[tuple[int, str]]:
    """Lines and texts of string literals that equal a value of the vocabulary."""
    return [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in VALUES - OTHER_MEANINGS
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_retypes_a_value(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text!r}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if path != ROOT / "marketdata" / "vocabulary.py"
        for line, text in retyped(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_retyped_value_is_found() -> None:
    assert retyped('def f(role):\n    """champion"""\n    return role == "challenger"') == [
        (2, "champion"),
        (3, "challenger"),
    ]


def test_every_exception_is_a_value() -> None:
    assert OTHER_MEANINGS < VALUES
