"""What the worker's log leaves out: repetitions, and lines that ask nothing of anybody."""

import logging
from typing import Any

import pytest

from streams.agents.dead_letters import RefusalLog
from streams.worker.log_config import KnownAndHarmless, Repeated, logging_config


def record(name: str, message: str, at_ms: float, *args: Any) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "file", 1, message, args, None)
    made.relativeCreated = at_ms
    return made


def test_a_library_says_the_same_once_in_ten_seconds() -> None:
    repeated = Repeated()
    said = [
        repeated.filter(record("aiokafka.x", "no leader for %s", at, part)) for part, at in enumerate((0, 10, 9_999))
    ]
    assert said == [True, False, False]
    again = record("aiokafka.x", "no leader for %s", 10_000, 7)
    assert repeated.filter(again)
    assert again.getMessage() == "no leader for 7 (and 2 times more in the last seconds)"
    assert repeated.filter(record("aiokafka.x", "something else", 10_001))


def test_our_own_lines_all_come_through() -> None:
    repeated = Repeated()
    assert [repeated.filter(record("streams.x", "skipped", at)) for at in (0, 1)] == [True, True]


def test_a_new_brokers_missing_coordinator_is_told_only_when_it_lasts() -> None:
    known = KnownAndHarmless()
    line = "Group Coordinator Request failed: [Error 15] GroupCoordinatorNotAvailableError"
    assert not known.filter(record("aiokafka.consumer.group_coordinator", line, 2_000))
    assert known.filter(record("aiokafka.consumer.group_coordinator", line, 40_000))


def test_libraries_speak_from_warnings_on() -> None:
    config = logging_config("INFO")
    assert config["root"]["level"] == "INFO"
    assert {config["loggers"][name]["level"] for name in ("faust", "mode", "aiokafka")} == {"WARNING"}


def test_refusals_are_told_at_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    refusals = RefusalLog("clean", lambda: now[0])
    refusals.add([])
    for now[0] in (1.0, 2.0, 60.0):
        refusals.add(["no_data", "key"])
    assert len(caplog.records) == 1
    now[0] = 61.0
    refusals.add(["no_data"])
    assert caplog.records[-1].getMessage().endswith("see `dead-letters`: 3 no_data, 2 key")
