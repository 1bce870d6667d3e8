"""docker-compose.yml and the Dockerfile name commands, options, profiles and files that exist."""

import re
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from batch.__main__ import _parser as batch_parser
from config import load_settings
from devstack.__main__ import _parser as devstack_parser
from devstack.stack import ROOT
from forecasting.__main__ import _parser as forecasting_parser

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CHECKS = {f"{name}.healthcheck": one["healthcheck"]["test"] for name, one in SERVICES.items() if "healthcheck" in one}
COMMANDS = {name: one["command"] for name, one in SERVICES.items()} | CHECKS
PARSERS = {"devstack": devstack_parser, "batch": batch_parser, "forecasting": forecasting_parser}


def test_the_servers_have_a_health_check() -> None:
    assert set(CHECKS) == {"kafka.healthcheck", "namenode.healthcheck"}
    assert all(command[0] == "CMD" for command in CHECKS.values())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_one_of_the_product(name: str) -> None:
    words = COMMANDS[name]
    words = words[1:] if words[0] == "CMD" else words
    assert words[:2] == ["python", "-m"]
    program, arguments = words[2], words[3:]
    if program == "faust":
        assert arguments[:2] == ["-A", "streams"]
        assert arguments[2] in {"worker", "topics"}
    else:
        assert PARSERS[program]().parse_args(arguments)


def test_the_services_are_named_as_the_profile_addresses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BDI_CONFIG", raising=False)
    settings = load_settings("compose")
    for name in ("kafka", "namenode"):
        assert SERVICES[name]["hostname"] == name
    assert settings.kafka.brokers.startswith("kafka:")
    assert settings.hdfs.url.startswith("hdfs://namenode:")
    assert settings.hdfs.webhdfs.startswith("http://namenode:")
    assert all(service["environment"]["BDI_PROFILE"] == "compose" for service in SERVICES.values())


def test_every_dependency_is_a_service() -> None:
    assert {needed for service in SERVICES.values() for needed in service.get("depends_on", ())} <= SERVICES.keys()


def test_only_the_creation_of_topics_must_complete_before_a_service_starts() -> None:
    """Else a refusing exchange, which the backfill waits for, would keep services from starting."""
    conditions = {(to, d["condition"]) for one in SERVICES.values() for to, d in one.get("depends_on", {}).items()}
    assert {to for to, condition in conditions if condition == "service_completed_successfully"} == {"topics"}
    assert "--retry" in SERVICES["backfill"]["command"]


def test_what_a_container_writes_is_stored_in_a_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image's own folders belong to root, and are deleted with the container."""
    monkeypatch.delenv("BDI_CONFIG", raising=False)
    settings = load_settings("compose")
    for service, path in (
        ("streams", settings.streams.data_dir),
        ("forecasting", settings.forecasting.report_dir),
        ("forecasting", settings.forecasting.plot_path),
    ):
        volumes = dict(mount.split(":")[:2] for mount in SERVICES[service]["volumes"])
        assert volumes.keys() <= COMPOSE["volumes"].keys()
        assert any(PurePosixPath(path).is_relative_to(folder) for folder in volumes.values()), path


def test_every_service_limits_its_logs() -> None:
    limits = {"driver": "local", "options": {"max-size": "10m", "max-file": "2"}}
    assert {name: service["logging"] for name, service in SERVICES.items()} == dict.fromkeys(SERVICES, limits)


def test_the_dockerfile_copies_existing_files() -> None:
    sources = [
        name
        for line in re.findall(r"^COPY (.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
        for name in line.split()[:-1]
    ]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert sources
    assert [name for name in sources if not (ROOT / name).exists() or name in ignored] == []
