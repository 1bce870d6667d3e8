"""docker-compose.yml and the Dockerfile name commands, options, profiles and files that exist."""

import json
import re

import pytest

from batch.__main__ import _parser as batch_parser
from config import load_settings
from devstack.__main__ import _parser as devstack_parser
from devstack.stack import ROOT
from forecasting.__main__ import _parser as forecasting_parser

COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMMANDS = [json.loads(found) for found in re.findall(r"^ +(?:command|test): (\[.*\])$", COMPOSE, re.MULTILINE)]
PARSERS = {"devstack": devstack_parser, "batch": batch_parser, "forecasting": forecasting_parser}


def test_every_command_is_found() -> None:
    assert len(COMMANDS) == COMPOSE.count("command:") + COMPOSE.count("test:")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_compose_is_one_of_ours(command: list[str]) -> None:
    words = command[1:] if command[0] == "CMD" else command
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
        assert f"\n  {name}:\n" in COMPOSE
        assert f"hostname: {name}\n" in COMPOSE
    assert settings.kafka.brokers.startswith("kafka:")
    assert settings.hdfs.url.startswith("hdfs://namenode:")
    assert settings.hdfs.webhdfs.startswith("http://namenode:")


def test_what_is_written_in_a_container_lies_in_a_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image's own folders belong to root, and go with the container."""
    monkeypatch.delenv("BDI_CONFIG", raising=False)
    settings = load_settings("compose")
    mounted = re.findall(r"\w+:(/[\w/]+)", "".join(re.findall(r"volumes: (\[.*\])", COMPOSE)))
    for path in (settings.streams.data_dir, settings.forecasting.report_dir, settings.forecasting.plot_path):
        assert any(path.is_relative_to(volume) for volume in mounted), path


def test_logs_of_containers_are_kept_small() -> None:
    assert COMPOSE.count('  logging: {driver: local, options: {max-size: 10m, max-file: "2"}}') == 1
    services = COMPOSE[COMPOSE.index("\nservices:") : COMPOSE.index("\nvolumes:")]
    assert len(re.findall(r"^  \w+:$", services, re.MULTILINE)) == services.count("    <<: *program\n")


def test_the_dockerfile_copies_what_is_there() -> None:
    sources = [
        name
        for line in re.findall(r"^COPY (.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
        for name in line.split()[:-1]
    ]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert sources
    assert [name for name in sources if not (ROOT / name).exists() or name in ignored] == []
