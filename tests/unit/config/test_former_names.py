"""Former names of settings are read with a warning."""

import re
from pathlib import Path

import pytest

from config.settings import PROFILES, RENAMED, load_settings
from marketdata.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("BDI_PROFILE", "BDI_CONFIG"):
        monkeypatch.delenv(key, raising=False)


FORMER = [*RENAMED.items()]


@pytest.mark.parametrize(("old", "new"), FORMER)
def test_a_former_name_is_read_from_a_file_with_a_warning(
    old: tuple[str, str], new: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(f"[{old[0]}]\n{old[1]} = 7.5\n")
    monkeypatch.setenv("BDI_CONFIG", str(mine))
    with pytest.warns(FutureWarning) as caught:
        settings = load_settings()
    assert getattr(getattr(settings, new[0]), new[1]) == 7.5
    assert [str(one.message) for one in caught] == [f"{mine}: {'.'.join(old)} is deprecated; use {'.'.join(new)}"]


@pytest.mark.parametrize(("old", "new"), FORMER)
def test_a_former_name_in_the_environment_overrides_the_present_one_in_a_file(
    old: tuple[str, str], new: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(f"[{new[0]}]\n{new[1]} = 7.5\n")
    monkeypatch.setenv("BDI_CONFIG", str(mine))
    monkeypatch.setenv(f"BDI_{old[0]}__{old[1]}".upper(), "8.5")
    with pytest.warns(FutureWarning, match=f"environment: {old[0]}.{old[1]} is deprecated"):
        settings = load_settings()
    assert getattr(getattr(settings, new[0]), new[1]) == 8.5


@pytest.mark.parametrize(("old", "new"), FORMER)
@pytest.mark.parametrize("given", ["7.5", "7.50", "8.5"])
def test_both_names_in_one_source_must_agree(
    old: tuple[str, str], new: tuple[str, str], given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"BDI_{old[0]}__{old[1]}".upper(), "7.5")
    monkeypatch.setenv(f"BDI_{new[0]}__{new[1]}".upper(), given)
    if float(given) == 7.5:
        with pytest.warns(FutureWarning):
            assert getattr(getattr(load_settings(), new[0]), new[1]) == 7.5
    else:
        expected = f"environment: {'.'.join(old)}: '7.5': expected only {'.'.join(new)}, which is '8.5'"
        with pytest.raises(ConfigurationError, match=re.escape(expected)):
            load_settings()


def test_profiles_and_defaults_use_no_former_name(recwarn: pytest.WarningsRecorder) -> None:
    for path in PROFILES.glob("*.toml"):
        load_settings(path.stem)
    assert [one for one in recwarn if issubclass(one.category, FutureWarning)] == []
