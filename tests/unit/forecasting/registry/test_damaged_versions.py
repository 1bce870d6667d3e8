"""Damaged files of the registry: a version is skipped with its reason, and the one before it serves."""

import logging
import random

import pytest

from forecasting.data.samples import Samples
from forecasting.evaluation.conformal import Calibrator
from forecasting.models.har import Har
from forecasting.registry.probe import make_probe
from forecasting.registry.versions import Registry, canonical_json, version_name
from marketdata.errors import ForecastError
from marketdata.times import to_rfc3339
from tests.support.damage import damaged
from tests.support.memory_storage import MemoryStorage

SYMBOL = "BTC-USD"
FOLDER = f"models/{SYMBOL}"
PROMOTION = f"{FOLDER}/champion/{{:06d}}.json"


@pytest.fixture(scope="module")
def published(samples: Samples) -> dict[str, bytes]:
    """The files of a registry with two promoted versions."""
    storage = MemoryStorage()
    registry = Registry(storage, "models", SYMBOL)  # type: ignore[arg-type]
    model = Har()
    anchors = samples.anchors[samples.learnable]
    model.fit(samples, anchors)
    saved = model.save()
    through = to_rfc3339(samples.hours.end_ms)
    probe_input, probe_output = make_probe(model, samples, anchors)
    for number in (1, 2):
        config = {
            "model": saved.config,
            "binaries": [],
            "recipe": "har",
            "trained_through": through,
            "sequence_h": samples.sequence_h,
            "horizon_h": samples.horizon_h,
        }
        files = {
            "config.json": canonical_json(config),
            "metrics.json": canonical_json({}),
            "calibration.json": canonical_json(Calibrator().state()),
            "probe_input.npz": probe_input,
            "probe_output.npz": probe_output,
        }
        name = version_name("har", through, b"%d" % number)
        registry.publish(name, files)
        registry.promote(name, {"why": "test", "provisional": False})
    return storage.contents


def registry_of(files: dict[str, bytes]) -> Registry:
    return Registry(MemoryStorage(files), "models", SYMBOL)  # type: ignore[arg-type]


def names(files: dict[str, bytes]) -> tuple[str, str]:
    """The versions of the first and second promotion."""
    older, newer = (entry["version"] for entry in reversed([*registry_of(files).promoted()]))
    return older, newer


def served(registry: Registry) -> str | None:
    found = registry.load_champion(set())
    return None if found is None else found[0].version.name


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"1", b"{}", b'{"version": 1}', b'{"version": ""}', b"\xff\xfe", b"[" * 100_000],
)
def test_a_damaged_promotion_is_skipped_and_logged_once(
    published: dict[str, bytes], content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    older, _ = names(published)
    registry = registry_of(published | {PROMOTION.format(2): content})
    with caplog.at_level(logging.ERROR):
        assert served(registry) == served(registry) == older
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{PROMOTION.format(2)}: damaged: ")


def test_without_a_readable_promotion_there_is_no_champion(published: dict[str, bytes]) -> None:
    registry = registry_of(published | {PROMOTION.format(number): b"" for number in (1, 2)})
    assert served(registry) is None
    assert registry.champion() is None


@pytest.mark.parametrize(
    "file", ["config.json", "metrics.json", "calibration.json", "probe_input.npz", "probe_output.npz"]
)
def test_a_missing_file_makes_the_version_before_it_serve(
    published: dict[str, bytes], file: str, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = names(published)
    files = {path: data for path, data in published.items() if path != f"{FOLDER}/versions/{newer}/{file}"}
    assert served(registry_of(files)) == older
    assert f"version={newer} cannot be used: {newer}: {file}: missing" in caplog.text


@pytest.mark.parametrize(
    "file", ["config.json", "metrics.json", "calibration.json", "probe_input.npz", "probe_output.npz"]
)
def test_a_damaged_file_raises_only_a_forecast_error_and_another_version_serves(
    published: dict[str, bytes], file: str
) -> None:
    older, newer = names(published)
    path = f"{FOLDER}/versions/{newer}/{file}"
    rng = random.Random(file)
    refused = 0
    for _ in range(60):
        registry = registry_of(published | {path: damaged(rng, published[path])})
        try:
            registry.load(newer)
        except ForecastError:
            refused += 1
            assert served(registry) == older
    assert refused > 10


def test_an_unusable_version_is_loaded_once(published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    older, newer = names(published)
    registry = registry_of(published | {f"{FOLDER}/versions/{newer}/config.json": b""})
    unusable: set[str] = set()
    found = registry.load_champion(unusable)
    assert found is not None
    assert unusable == {newer}
    loads: list[str] = []
    monkeypatch.setattr(registry, "load", loads.append)
    assert registry.load_champion(unusable, found[0]) == found
    assert found[0].version.name == older
    assert loads == []
