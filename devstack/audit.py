"""`audit`: look up the versions of all Python packages and jars in OSV, the database of known vulnerabilities.

Wire format: OSV API, POST /v1/querybatch. Java modules are those of jars.lock, and those that the jars of the stack and
of PySpark contain: shaded jars list theirs in META-INF/maven.
"""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from devstack.jars import pyspark_jars, read_lock
from devstack.stack import ROOT

DATABASE = "https://api.osv.dev"
CHECKED, VULNERABLE, NOT_CHECKED = 0, 1, 3
"""Exit codes: no known vulnerability; at least one; the database cannot be reached, so nothing was checked."""

_BATCH = 500  # OSV accepts 1,000 queries per request
_TIMEOUT_S = 30.0
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
_VERSION = re.compile(r"^version=(\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Package:
    """A package in OSV's terms; `ecosystem` is PyPI or Maven, and a Maven name is `group:artifact`."""

    ecosystem: str
    name: str
    version: str


class _Vulnerability(msgspec.Struct):
    id: str


class _Result(msgspec.Struct):
    vulns: list[_Vulnerability] = []


class _Answer(msgspec.Struct):
    results: list[_Result]


class DatabaseError(Exception):
    """The database does not answer, or not in its format."""


def python_packages(folder: Path = ROOT) -> Iterator[tuple[Package, str]]:
    """Yield the pinned packages of all requirements files, each with the file's name."""
    for path in sorted(folder.glob("requirements*.txt")):
        for name, version in _PINNED.findall(path.read_text(encoding="utf-8")):
            yield Package("PyPI", name, version), path.name


def java_modules(jar: Path) -> list[Package]:
    """Return the modules that a jar contains by its Maven metadata; empty if it has none."""
    found = []
    with zipfile.ZipFile(jar) as archive:
        for name in archive.namelist():
            match name.split("/"):
                case ["META-INF", "maven", group, artifact, "pom.properties"]:
                    version = _VERSION.search(archive.read(name).decode(errors="replace").replace("\r", ""))
                    if version is not None:
                        found.append(Package("Maven", f"{group}:{artifact}", version[1]))
                case _:
                    pass
    return found


def find_packages(jars: Path) -> tuple[dict[Package, str], list[str]]:
    """Return all packages with the place where each was found first, and the names of jars without metadata.

    Args:
        jars: the folder of the stack's jars, with one sub-folder per set.
    """
    places: dict[Package, str] = {}
    unknown = []
    for package, place in python_packages():
        places.setdefault(package, place)
    known = {}
    for jar in read_lock():
        places.setdefault(Package("Maven", f"{jar.organisation}:{jar.artifact}", jar.version), "jars.lock")
        known[jar.file_name] = jars / jar.group_of_jars / jar.file_name
    for path in [*known.values(), *sorted(pyspark_jars().glob("*.jar"))]:
        if not path.is_file():  # not downloaded yet; its own coordinates are in jars.lock
            continue
        modules = java_modules(path)
        for package in modules:
            places.setdefault(package, f"in {path.name}")
        if not modules and path.name not in known:
            unknown.append(path.name)
    return places, unknown


def look_up(packages: Iterable[Package], database: str = DATABASE) -> dict[Package, list[str]]:
    """Return the ids of the known vulnerabilities of each package that has any.

    Raises:
        DatabaseError: the database does not answer, or not in its format.
    """
    found: dict[Package, list[str]] = {}
    wanted = list(packages)
    with httpx.Client(timeout=_TIMEOUT_S) as client:
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            queries = [
                {"package": {"ecosystem": one.ecosystem, "name": one.name}, "version": one.version} for one in batch
            ]
            try:
                response = client.post(f"{database}/v1/querybatch", json={"queries": queries})
                response.raise_for_status()
                answer = msgspec.json.decode(response.content, type=_Answer)
            except (httpx.HTTPError, msgspec.DecodeError) as error:
                raise DatabaseError(f"{database}: {error or type(error).__name__}") from error
            if len(answer.results) != len(batch):
                raise DatabaseError(f"{database}: {len(answer.results)} results, expected {len(batch)}")
            for package, result in zip(batch, answer.results, strict=True):
                if result.vulns:
                    found[package] = [one.id for one in result.vulns]
    return found


def audit(jars: Path, report: Callable[[str], None], database: str = DATABASE) -> int:
    """Look up all packages, report the vulnerable ones, and return `CHECKED`, `VULNERABLE` or `NOT_CHECKED`."""
    places, unknown = find_packages(jars)
    try:
        vulnerable = look_up(places, database)
    except DatabaseError as error:
        report(f"audit: nothing was checked, because the database cannot be used: {error}")
        return NOT_CHECKED
    for package, ids in sorted(vulnerable.items(), key=lambda item: (item[0].ecosystem, item[0].name)):
        report(f"{package.ecosystem} {package.name} {package.version} ({places[package]}): {', '.join(ids)}")
    if unknown:
        report(f"not checked, because they name no module: {', '.join(sorted(unknown))}")
    report(f"audit: {len(vulnerable)} of {len(places)} packages have known vulnerabilities by {database}")
    return VULNERABLE if vulnerable else CHECKED
