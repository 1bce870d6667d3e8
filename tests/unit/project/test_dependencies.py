"""pyproject.toml declares what the code imports, and the compiled requirements follow it."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GROUPS = PROJECT["dependency-groups"]
PRODUCT = {path.parent.name for path in ROOT.glob("*/py.typed")}
OWN = PRODUCT | {"benchmarks", "tests"}
IMPLIED = {
    "rocksdict": "imported by Faust for rocksdb:// tables",
    "jax": "imported by Keras as its back end",
    "pandas": "imported by PySpark, and by readers of the tables",
    "tzdata": "read by zoneinfo",
}
COMPILED = {
    "requirements.txt": PROJECT["project"]["dependencies"],
    "requirements-dev.txt": [
        *PROJECT["project"]["dependencies"],
        *(one for one in GROUPS["dev"] if isinstance(one, str)),
    ],
    "requirements-bench.txt": GROUPS["bench"],
    "requirements-bootstrap.txt": GROUPS["installer"],
}


def declared(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def imported(package: str) -> set[str]:
    """Top-level names that a package's modules import, without the standard library and our own."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - OWN


@pytest.mark.parametrize("package", sorted(PRODUCT))
def test_every_import_of_the_product_is_declared(package: str) -> None:
    distributions = metadata.packages_distributions()
    dependencies = declared(PROJECT["project"]["dependencies"])
    missing = {
        name: distributions.get(name, [])
        for name in imported(package)
        if not {canonicalize_name(one) for one in distributions.get(name, [])} & dependencies
    }
    assert missing == {}


def test_every_declared_dependency_is_imported_or_implied() -> None:
    names = set().union(*(imported(package) for package in PRODUCT))
    distributions = metadata.packages_distributions()
    used = {canonicalize_name(one) for name in names for one in distributions.get(name, [])}
    assert declared(PROJECT["project"]["dependencies"]) - used == IMPLIED.keys()


def pinned(file: Path) -> dict[str, list[str]]:
    """Versions by name; a package may have one pin per Python version."""
    pins: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", line):
            pins.setdefault(canonicalize_name(match[1]), []).append(match[2])
    return pins


@pytest.mark.parametrize("name", sorted(COMPILED))
def test_compiled_requirements_satisfy_the_declared_ones(name: str) -> None:
    pins = pinned(ROOT / name)
    unmet = []
    for one in map(Requirement, COMPILED[name]):
        versions = pins.get(canonicalize_name(one.name), [])
        if not versions or not all(one.specifier.contains(version) for version in versions):
            unmet.append((str(one), versions))
    assert unmet == [], "run: make lock"


def test_product_and_development_pin_the_same_versions() -> None:
    product, development = pinned(ROOT / "requirements.txt"), pinned(ROOT / "requirements-dev.txt")
    assert {name: versions for name, versions in product.items() if development.get(name) != versions} == {}


@pytest.mark.parametrize("name", sorted(COMPILED))
def test_compiled_requirements_have_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert "index" not in re.sub(r"--hash=\S+", "", text)
    blocks = re.split(r"\n(?=[A-Za-z])", text.strip())
    assert all("--hash=sha256:" in block for block in blocks)
    assert len(blocks) == sum(map(len, pinned(ROOT / name).values()))


def test_the_version_has_one_place() -> None:
    import marketdata

    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "marketdata/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", marketdata.__version__)
