"""The look-up of known vulnerabilities, against a database on loopback; and floors of versions that need none."""

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from devstack import audit
from devstack.__main__ import main
from devstack.audit import CHECKED, NOT_CHECKED, VULNERABLE, Package, find_packages, java_modules, python_packages
from devstack.jars import pyspark_jars, read_lock

# Artifact: fixed versions, one per supported line; and the vulnerability of earlier ones.
FIXED = {
    "at.yawk.lz4:lz4-java": (["1.10.1"], "CVE-2025-66566"),
    "commons-beanutils:commons-beanutils": (["1.11.0"], "CVE-2025-48734"),
    "commons-collections:commons-collections": (["3.2.2"], "CVE-2015-7501"),
    "com.fasterxml.jackson.core:jackson-databind": (["2.21.4"], "CVE-2026-54513"),
    "org.apache.kafka:kafka-clients": (["3.9.2", "4.1.2"], "CVE-2026-35554"),
    "org.bitbucket.b_c:jose4j": (["0.9.6"], "CVE-2024-29371"),
    "org.xerial.snappy:snappy-java": (["1.1.10.4"], "CVE-2023-43642"),
    "org.yaml:snakeyaml": (["2.0"], "CVE-2022-1471"),
}
NEVER = {"org.lz4:lz4-java": "CVE-2025-12183"}  # no fixed version under these coordinates


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def is_fixed(version: str, fixed: list[str]) -> bool:
    line = [one for one in fixed if numbers(one)[0] == numbers(version)[0]]
    return bool(line) and all(numbers(version) >= numbers(one) for one in line)


def test_no_pinned_jar_has_one_of_these_vulnerabilities() -> None:
    pinned = [(f"{jar.organisation}:{jar.artifact}", jar.version) for jar in read_lock()]
    assert {name for name, _ in pinned} >= FIXED.keys()
    assert [name for name, _ in pinned if name in NEVER] == []
    wrong = {f"{name} {version}": FIXED[name] for name, version in pinned if name in FIXED}
    assert {one: why for one, why in wrong.items() if not is_fixed(one.split()[1], why[0])} == {}
    lz4 = [path.name for path in pyspark_jars().glob("lz4-java-*.jar")]
    assert len(lz4) == 1
    assert is_fixed(lz4[0].removeprefix("lz4-java-"), FIXED["at.yawk.lz4:lz4-java"][0])


@contextmanager
def database(vulnerable: dict[str, list[str]], status: int = 200, body: bytes | None = None) -> Iterator[str]:
    """An OSV API that knows these packages as vulnerable; or one that answers everything with `body`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            queries: list[Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            assert self.path == "/v1/querybatch"
            ids = [
                vulnerable.get(f"{one['package']['ecosystem']} {one['package']['name']} {one['version']}", [])
                for one in queries
            ]
            found = [{"vulns": [{"id": one, "modified": "2026-01-01T00:00:00Z"} for one in some]} for some in ids]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"results": found}).encode() if body is None else body)

        def log_message(self, *_words: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_vulnerable_packages_are_listed_with_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BDI_DEVSTACK__JARS_DIR", str(tmp_path))  # none downloaded: those of jars.lock are known anyway
    monkeypatch.setattr(audit, "_BATCH", 100)  # several requests
    beanutils = next(jar for jar in read_lock() if jar.artifact == "commons-beanutils")
    package, place = next(python_packages())
    known = {
        f"Maven {beanutils.organisation}:commons-beanutils {beanutils.version}": ["CVE-1", "GHSA-2"],
        f"PyPI {package.name} {package.version}": ["PYSEC-3"],
    }
    with database(known) as address:
        assert main(["audit", "--database", address]) == VULNERABLE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Maven commons-beanutils:commons-beanutils {beanutils.version} (jars.lock): CVE-1, GHSA-2"
    assert lines[1] == f"PyPI {package.name} {package.version} ({place}): PYSEC-3"
    assert re.fullmatch(rf"audit: 2 of \d+ packages have known vulnerabilities by {address}", lines[-1])


@pytest.fixture
def one_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look up one package only: reading all jars takes seconds."""
    monkeypatch.setattr(audit, "find_packages", lambda _jars: ({Package("PyPI", "one", "1"): "here"}, ["x.jar"]))


@pytest.mark.usefixtures("one_package")
def test_without_a_vulnerability_the_exit_code_is_0(tmp_path: Path) -> None:
    lines: list[str] = []
    with database({}) as address:
        assert audit.audit(tmp_path, lines.append, address) == CHECKED
    assert lines[0] == "not checked, because they name no module: x.jar"
    assert lines[1] == f"audit: 0 of 1 packages have known vulnerabilities by {address}"


@pytest.mark.parametrize("answer", [b"", b"<html>", b"{}", b'{"results": []}', b'{"results": [{"vulns": [1]}]}', None])
@pytest.mark.usefixtures("one_package")
def test_a_database_that_cannot_be_used_is_no_success(tmp_path: Path, answer: bytes | None) -> None:
    lines: list[str] = []
    with database({}, 503 if answer is None else 200, answer) as address:
        assert audit.audit(tmp_path, lines.append, address) == NOT_CHECKED
    assert len(lines) == 1
    assert lines[0].startswith(f"audit: nothing was checked, because the database cannot be used: {address}: ")


@pytest.mark.usefixtures("one_package")
def test_an_unreachable_database_is_no_success(tmp_path: Path) -> None:
    lines: list[str] = []
    assert audit.audit(tmp_path, lines.append, "http://127.0.0.1:9") == NOT_CHECKED
    assert lines[0].startswith("audit: nothing was checked, because the database cannot be used: http://127.0.0.1:9: ")


def test_shaded_modules_are_found(tmp_path: Path) -> None:
    jar = tmp_path / "shaded.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("META-INF/maven/org.example/inner/pom.properties", "#x\r\nversion=1.2\r\n")
        archive.writestr("META-INF/maven/org.example/other/pom.properties", "groupId=org.example\n")
        archive.writestr("org/example/A.class", "")
    assert java_modules(jar) == [Package("Maven", "org.example:inner", "1.2")]


def test_all_packages_of_the_project_are_looked_up(tmp_path: Path) -> None:
    places, unknown = find_packages(tmp_path)
    names = {package.name for package in places}
    assert names >= {
        "aiohttp",
        "pyspark",
        "ruff",
        "uv",
        "org.apache.kafka:kafka_2.13",
        "org.eclipse.jetty:jetty-server",
    }
    assert len(places) > 500
    assert all(name.endswith(".jar") for name in unknown)
