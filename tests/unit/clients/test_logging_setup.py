"""Which lines a log leaves out: repetitions, and lines that need no action."""

import logging
import subprocess
import sys
from typing import Any

from clients.logging_setup import KnownAndHarmless, Repeated, logging_config
from marketdata.log_format import LineFormatter
from tests.support.paths import ROOT


def record(name: str, message: str, at_ms: float, *args: Any) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "file", 1, message, args, None)
    made.relativeCreated = at_ms
    return made


def test_a_library_logs_the_same_message_once_in_ten_seconds() -> None:
    repeated = Repeated()
    passed = [
        repeated.filter(record("aiokafka.x", "no leader for %s", at, part)) for part, at in enumerate((0, 10, 9_999))
    ]
    assert passed == [True, False, False]
    again = record("aiokafka.x", "no leader for %s", 10_000, 7)
    assert repeated.filter(again)
    assert again.getMessage() == "no leader for 7 (and 2 times more in the last seconds)"
    assert repeated.filter(record("aiokafka.x", "something else", 10_001))


def test_lines_of_the_project_all_pass() -> None:
    repeated = Repeated()
    assert [repeated.filter(record("streams.x", "skipped", at)) for at in (0, 1)] == [True, True]


def test_a_missing_group_coordinator_is_logged_only_if_it_lasts() -> None:
    known = KnownAndHarmless()
    line = "Group Coordinator Request failed: [Error 15] GroupCoordinatorNotAvailableError"
    assert not known.filter(record("aiokafka.consumer.group_coordinator", line, 2_000))
    assert known.filter(record("aiokafka.consumer.group_coordinator", line, 40_000))


def test_tables_of_offsets_are_left_out() -> None:
    known = KnownAndHarmless()
    assert not known.filter(record("streams.faust_batch.recovery", "Highwater:\n%s", 2_000, "+--+"))
    assert known.filter(record("streams.faust_batch.recovery", "Recovery complete", 2_000))
    assert known.filter(record("streams.views.follower", "skipped %s", 2_000, "a\nb"))


def test_the_lines_of_every_program_are_printable() -> None:
    script = (
        "import logging; from clients.logging_setup import set_up_logging; set_up_logging('INFO');"
        r"logging.getLogger('streams').warning('skipped %s', 'a\x1b[2J\n2026 INFO x: fine')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.endswith("WARNING streams: skipped a\\u001b[2J\\n2026 INFO x: fine\n")
    assert logging_config("INFO")["formatters"] == {"line": {"()": LineFormatter}}


def test_libraries_log_from_warnings_up() -> None:
    config = logging_config("INFO")
    assert config["root"]["level"] == "INFO"
    assert {config["loggers"][name]["level"] for name in ("faust", "mode", "aiokafka")} == {"WARNING"}


def test_a_program_has_the_same_line_format_and_library_levels_as_the_worker() -> None:
    script = (
        "import logging; from clients.logging_setup import set_up_logging; set_up_logging('INFO');"
        "logging.getLogger('batch.x').info('stored'); logging.getLogger('httpx').info('GET');"
        "logging.getLogger('hdfs.client').warning('slow'); logging.getLogger('hdfs.client').warning('slow')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.split(" ", 2)[2] for line in done.stderr.splitlines()]
    assert lines == ["INFO batch.x: stored", "WARNING hdfs.client: slow"]
