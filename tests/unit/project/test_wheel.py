"""The wheel contains every package with its data, and runs in an environment without the repository."""

import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    [built] = folder.glob("*.whl")
    return built


def test_the_wheel_contains_all_files_of_all_packages(wheel: Path) -> None:
    imported = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks"}
    assert set(PACKAGES) == imported
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == files
    assert {f"{package}/py.typed" for package in PACKAGES} <= packed


def test_the_wheel_runs_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """Third-party packages come from this environment; a path line, unlike its site folder, adds no project link."""
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    venv.create(environment)
    elsewhere.mkdir()
    python = environment / "bin" / "python"
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=elsewhere).strip()
    uv = Path(sys.executable).parent / "uv"
    run(uv, "pip", "install", "--offline", "--no-deps", "--python", python, wheel, cwd=elsewhere)
    (Path(own) / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert "dead-letters" in run(python, "-m", "faust", "-A", "streams", "--help", cwd=elsewhere)
    code = f"import {', '.join(PACKAGES)}; config.load_settings('demo'); print(streams.__file__)"
    assert Path(run(python, "-c", code, cwd=elsewhere).strip()).is_relative_to(own)


def test_the_image_contains_the_same_packages() -> None:
    copied = re.findall(r"^COPY (\w+) \1$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(copied) == sorted(PACKAGES)
