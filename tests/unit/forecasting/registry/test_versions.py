"""Names of versions."""

from forecasting.registry.versions import model_of, version_name


def test_version_names_come_from_content_alone() -> None:
    name = version_name("lstm-quantile", "2024-08-05T00:00:00.000Z", b"content")
    assert name.startswith("lstm-quantile-20240805T00-")
    assert name == version_name("lstm-quantile", "2024-08-05T00:00:00.000Z", b"content")
    assert name != version_name("lstm-quantile", "2024-08-05T00:00:00.000Z", b"other")


def test_a_version_tells_its_model() -> None:
    assert model_of(version_name("lstm-plain", "2024-08-05T00:00:00.000Z", b"")) == "lstm-plain"
    assert model_of("last-price") == "last-price"
