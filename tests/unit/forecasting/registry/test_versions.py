"""Names of versions, and the JSON of their files."""

import numpy as np
import pytest

from forecasting.registry.versions import canonical_json, model_of, version_name


def test_version_names_come_from_content_alone() -> None:
    name = version_name("lstm-quantile", "2024-08-05T00:00:00.000Z", b"content")
    assert name.startswith("lstm-quantile-20240805T00-")
    assert name == version_name("lstm-quantile", "2024-08-05T00:00:00.000Z", b"content")
    assert name != version_name("lstm-quantile", "2024-08-05T00:00:00.000Z", b"other")


def test_a_version_name_contains_its_model() -> None:
    assert model_of(version_name("lstm-plain", "2024-08-05T00:00:00.000Z", b"")) == "lstm-plain"
    assert model_of("last-price") == "last-price"


def test_equal_content_has_equal_json_and_what_is_not_finite_is_null() -> None:
    first = canonical_json({"b": [1, np.float64(0.5)], "a": float("nan"), "c": {}})
    assert first == canonical_json({"c": {}, "a": float("-inf"), "b": [1, 0.5]})
    assert first == b'{\n "a": null,\n "b": [\n  1,\n  0.5\n ],\n "c": {}\n}'


@pytest.mark.parametrize("value", [np.int64(3), np.bool_(1), object()])
def test_what_has_no_json_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=f"{type(value).__name__}: expected plain data or a numpy float"):
        canonical_json({"a": value})
