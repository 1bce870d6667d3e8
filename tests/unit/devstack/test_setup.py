"""The checks of the set-up and before a start, and their error messages."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from devstack import bootstrap
from devstack.checks import check_disk, check_memory, check_ports
from devstack.jars import LOCK, Jar, ivy_module, read_lock
from devstack.java import find_java, inspect, missing_java
from marketdata.errors import StackError


def _java_home(folder: Path, version: int, modules: str = "java.base jdk.incubator.vector") -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "java").write_text("")
    (folder / "release").write_text(f'JAVA_VERSION="{version}.0.1"\nMODULES="{modules}"\n')
    return folder


def test_java_home_precedes_the_jvm_folder(tmp_path: Path) -> None:
    chosen = _java_home(tmp_path / "mine", 21)
    _java_home(tmp_path / "jvm" / "java-17", 17)
    java, rejected = find_java({"JAVA_HOME": str(chosen), "PATH": ""}, tmp_path / "jvm")
    assert java is not None
    assert (java.home, java.version, rejected) == (chosen, 21, [])


@pytest.mark.parametrize(
    ("version", "modules", "why"),
    [(25, "java.base jdk.incubator.vector", "Java 25, expected 17 or 21"), (17, "java.base", "without the module")],
)
def test_an_unsupported_java_is_rejected_with_the_reason(tmp_path: Path, version: int, modules: str, why: str) -> None:
    unusable = _java_home(tmp_path / "mine", version, modules)
    usable = _java_home(tmp_path / "jvm" / "java-17", 17)
    java, rejected = find_java({"JAVA_HOME": str(unusable), "PATH": ""}, tmp_path / "jvm")
    assert java is not None
    assert java.home == usable
    assert len(rejected) == 1
    assert why in rejected[0]


def test_without_java_the_error_names_the_install_command(tmp_path: Path) -> None:
    java, rejected = find_java({"JAVA_HOME": str(tmp_path), "PATH": ""}, tmp_path / "jvm")
    assert java is None
    line = missing_java(rejected)
    assert "apt-get install openjdk-17-jre-headless" in line
    assert str(tmp_path) in line


def test_a_java_without_a_release_file_is_run(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho java.base@17.0.9\necho jdk.incubator.vector@17.0.9\n")
    java.chmod(0o755)
    assert inspect(tmp_path) == (17, "")


def test_a_port_in_use_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port} is in use.*kafka\.brokers \(BDI_KAFKA__BROKERS\)"):
            check_ports([("kafka", f"127.0.0.1:{port}", "kafka.brokers")])


def test_the_host_name_is_a_local_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container is only reachable by its host name."""
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost.localdomain")
    monkeypatch.setattr(socket.socket, "bind", lambda _socket, address: bound.append(address))
    bound: list[tuple[str, int]] = []
    check_ports([("kafka", "localhost.localdomain:9092", "kafka.brokers")])
    assert bound == [("localhost.localdomain", 9092)]


@pytest.mark.parametrize("address", ["broker.example:9092", "127.0.0.1"])
def test_a_remote_address_is_rejected(address: str) -> None:
    with pytest.raises(StackError, match=r"^kafka\.brokers: "):
        check_ports([("kafka", address, "kafka.brokers")])


def test_too_little_memory_or_disk_is_an_error_with_the_minimum(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"memory: 4\.0 GiB .* expected 6 GiB"):
        check_memory(4 << 30)
    with pytest.raises(StackError, match=r"disk: 1\.0 GB free .* expected 5 GB"):
        check_disk(tmp_path / "not" / "there" / "yet", 1_000_000_000)
    check_memory(8 << 30)
    check_disk(tmp_path, 6_000_000_000)


def test_an_unsupported_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 18))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(bootstrap.SetupError, match=r"Python 3\.9\.18 .* expected one of 3\.11, 3\.12, 3\.13"):
        bootstrap.use_supported_python()


def test_the_stamp_follows_the_requirements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = bootstrap.stamp()
    changed = tmp_path / "requirements-dev.txt"
    changed.write_bytes(bootstrap.PACKAGES.read_bytes() + b"\n")
    monkeypatch.setattr(bootstrap, "PACKAGES", changed)
    assert bootstrap.stamp() != before


def test_every_pinned_jar_has_a_digest_and_a_set() -> None:
    jars = read_lock()
    assert {jar.group_of_jars for jar in jars} == {"kafka", "hdfs", "spark"}
    assert all(len(jar.sha256) == 64 for jar in jars)
    assert len({(jar.group_of_jars, jar.file_name) for jar in jars}) == len(jars)


def test_a_malformed_lock_line_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "jars.lock"
    lock.write_text("# a list\nkafka org.example thing 1.0\n")
    with pytest.raises(StackError, match=r"jars\.lock:2: .*expected set, group, artifact, version, SHA-256"):
        read_lock(lock)


def test_ivy_is_bound_for_the_artifacts_alone() -> None:
    text = ivy_module([Jar("kafka", "org.example", "thing", "1.0", "0" * 64)])
    assert '<dependency org="org.example" name="thing" rev="1.0" transitive="false" conf="kafka->default">' in text


def test_no_file_of_the_set_up_names_a_registry() -> None:
    for path in (LOCK, bootstrap.INSTALLER, bootstrap.PACKAGES, bootstrap.ROOT / "Makefile"):
        text = path.read_text(encoding="utf-8")
        assert "http://" not in text, path
        assert "https://" not in text, path
    assert os.access(bootstrap.ROOT / ".ci" / "run", os.X_OK)


def test_the_environments_programs_find_the_project_from_any_folder(tmp_path: Path) -> None:
    faust = Path(sys.executable).parent / "faust"
    listed = subprocess.run(
        [faust, "-A", "streams", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0, listed.stderr
    assert "dead-letters" in listed.stdout
