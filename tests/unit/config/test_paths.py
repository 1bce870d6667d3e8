"""Folders: private ones, and those that relative paths refer to."""

import os
from pathlib import Path

import pytest

from config import paths
from config.paths import ROOT, existing, private_dir, work_dir


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("before", [None, 0o755, 0o777, 0o750, 0o700])
def test_only_the_owner_has_access_to_a_private_folder(tmp_path: Path, before: int | None) -> None:
    folder = tmp_path / "a" / "b"
    if before is not None:
        folder.mkdir(parents=True)
        folder.chmod(before)
    assert private_dir(folder) == folder
    assert mode(folder) == 0o700


def test_a_shared_folder_stays_shared(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    private_dir(tmp_path)
    assert mode(tmp_path) == 0o1777


def test_a_folder_of_another_user_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    private_dir(tmp_path)
    assert mode(tmp_path) == 0o755


def test_relative_paths_refer_to_the_clone_or_to_the_current_folder_of_installed_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert work_dir() == ROOT
    installed = tmp_path / "site-packages"
    (installed / "devstack" / "sample").mkdir(parents=True)
    monkeypatch.setattr(paths, "ROOT", installed)
    assert work_dir() == tmp_path
    sample = Path("devstack/sample")
    assert existing(sample) == installed / sample  # shipped in the wheel
    (tmp_path / sample).mkdir(parents=True)
    assert existing(sample) == tmp_path / sample
