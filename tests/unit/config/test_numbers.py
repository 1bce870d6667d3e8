"""Every number of the settings is finite, has a lowest and a highest value, and both are in docs/settings.md."""

import math
from collections.abc import Iterator
from typing import Any, get_origin

import pytest
from annotated_types import Ge, Le
from pydantic import BaseModel, ValidationError

from config.refused import numeric_types
from config.settings import Settings
from tests.support.paths import ROOT


def numbers() -> Iterator[tuple[str, type[BaseModel], str, tuple[Any, ...], bool]]:
    """Yield each numeric setting: name, section, field, limits, and whether it is the item of a list or table."""
    for section, outer in Settings.model_fields.items():
        inner = outer.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            assert numeric_types(outer) == [], section
            continue
        for name, field in inner.model_fields.items():
            for _, limits in numeric_types(field):
                yield f"{section}.{name}", inner, name, limits, get_origin(field.annotation) in (tuple, dict)


@pytest.mark.parametrize("number", [*numbers()], ids=lambda one: one[0])
def test_every_number_is_finite_and_has_a_lowest_and_a_highest_value(
    number: tuple[str, type[BaseModel], str, tuple[Any, ...], bool],
) -> None:
    name, section, field, limits, is_item = number
    lowest = max(one.ge for one in limits if isinstance(one, Ge))
    highest = min(one.le for one in limits if isinstance(one, Le))
    assert math.isfinite(lowest)
    assert math.isfinite(highest)
    for hostile in (math.inf, -math.inf, math.nan, "inf", "1e999", 10**400, lowest - 1, highest * 1.01 + 1):
        value: Any = hostile
        if is_item:
            value = {"ticks": hostile} if "dict" in str(section.model_fields[field].annotation) else [hostile]
        with pytest.raises(ValidationError) as caught:
            section.model_validate({field: value})
        assert any(str(one["loc"][0]) == field for one in caught.value.errors()), (name, hostile)
    assert f"| {lowest:.15g} to {highest:.15g} |" in (ROOT / "docs/settings.md").read_text()
