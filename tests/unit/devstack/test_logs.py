"""Log rotation of long-running programs, and the demo's error messages for Kafka and WebHDFS."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from config import Settings
from devstack import process, supervisor
from devstack.__main__ import main as devstack
from devstack.demo import has_models
from devstack.events import EventReporter
from devstack.process import tail
from devstack.stack import ROOT, Part, Stack
from devstack.state import ProcessId, StackState
from devstack.status import LOGS, PARTS
from marketdata.errors import StackError
from marketdata.vocabulary import ProductPart
from tests.support.stack import eventually_async, free_ports, settings_with

MAX_LOG_BYTES = 20_000

PRINTS_LINES = """
import sys, time
for number in range(1_000_000):
    print("line", number, flush=True)
    if number % 50 == 0:
        time.sleep(0.001)
"""


async def healthy() -> str | None:
    return None


def many_lines(log: Path) -> bool:
    """Whether more than 50,000 lines were printed."""
    lines = [line for line in tail(log, 3) if line.startswith("line ")]
    return len(lines) > 1 and int(lines[-2].split()[1]) > 50_000


def before(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def rotated_twice(log: Path) -> bool:
    """Whether the first line is in neither file any more."""
    begin = before(log).read_bytes()[:7] if before(log).is_file() else b""
    return len(begin) == 7 and begin != b"line 0\n"


def check_rotated(log: Path) -> None:
    """Assert that the log was copied to its `.1` and truncated without a hole, and that old lines were dropped."""
    kept = [file.read_text() for file in (before(log), log)]
    assert len(kept[0]) > MAX_LOG_BYTES
    assert not kept[1].startswith("line 0\n")
    assert "\0" not in "".join(kept)  # writes after the truncation go to the new end
    whole = [text[: text.rfind("\n") + 1] for text in kept]  # rotation and stop may cut a line
    numbers = [int(line.split()[1]) for line in "".join(whole).splitlines() if line.startswith("line ")]
    assert numbers == sorted(numbers)
    assert sum(map(len, kept)) < sum(len(f"line {number}\n") for number in range(numbers[-1]))


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOG_BYTES", MAX_LOG_BYTES)
    monkeypatch.setattr(process, "LOG_CHECK_S", 0.005)


@pytest.mark.parametrize("kind", ["part", "job"])
@pytest.mark.usefixtures("small_limit")
async def test_a_log_is_rotated_while_its_program_runs(tmp_path: Path, kind: str) -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    stack = Stack(StackState(me), tmp_path, lambda _line: None, {})
    command = (sys.executable, "-c", PRINTS_LINES)
    if kind == "job":
        begun: Coroutine[Any, Any, object] = stack.job("prints", command)
    else:
        begun = stack.run(Part("prints", "", command, healthy))
    log = stack.log_of("prints")
    task = asyncio.create_task(begun)
    try:

        async def long_enough() -> bool:
            return rotated_twice(log)

        await eventually_async(long_enough, 60, "rotated twice")
    finally:
        await stack.stop()
        await task
    check_rotated(log)


async def test_a_removed_log_logs_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, looks = tmp_path / "removed" / "prints.log", 0
    move = process._rotate_if_large

    def look(log: Path) -> None:
        nonlocal looks
        looks += 1
        move(log)

    async def looked() -> bool:
        return looks > 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "LOG_CHECK_S", 0.005)
        patch.setattr(process, "_rotate_if_large", look)
        keeping = asyncio.create_task(process.rotate_when_large(log))
        await eventually_async(looked, 30, "three rotation checks")
        keeping.cancel()
    assert caplog.messages == []


SUPERVISES = """
import asyncio, sys
from pathlib import Path
from config import load_settings
from devstack import process, supervisor
from devstack.__main__ import main as devstack
from devstack.java import Java

process.LOG_BYTES, process.LOG_CHECK_S = int(sys.argv[1]), 0.005
supervisor.require_java = lambda: Java(Path("/nowhere"), 17)
supervisor.build_parts = lambda *_words: []

async def talk():
    for number in range(1_000_000):
        print("line", number, flush=True)
        if number % 50 == 0:
            await asyncio.sleep(0.001)

async def main():
    talking = asyncio.create_task(talk())
    return await supervisor.supervise(load_settings("local"), frozenset(), print)

sys.exit(asyncio.run(main()))
"""


@pytest.mark.parametrize("own", [True, False], ids=["own log", "another file"])
async def test_the_supervisor_rotates_its_own_log_only(tmp_path: Path, own: bool) -> None:
    log = supervisor.own_log(tmp_path) if own else tmp_path / "elsewhere.log"
    env = {**os.environ, "BDI_DEVSTACK__STATE_DIR": str(tmp_path)}
    command = (sys.executable, "-c", SUPERVISES, str(MAX_LOG_BYTES))
    with process.fresh(log) as output:
        supervising = await asyncio.create_subprocess_exec(
            *process.bound(command), stdout=output, stderr=output, env=env, cwd=ROOT
        )
    try:

        async def long_enough() -> bool:
            assert supervising.returncode is None, tail(log)
            return rotated_twice(log) if own else many_lines(log)

        await eventually_async(long_enough, 60, "rotated twice, or many lines")
        supervising.terminate()
        assert await supervising.wait() == 0
    finally:
        if supervising.returncode is None:
            supervising.kill()
            await supervising.wait()
    if own:
        check_rotated(log)
    else:
        assert not before(log).exists()
        assert log.read_text().startswith("line 0\n")


async def test_an_unreachable_broker_is_a_one_line_error() -> None:
    (port,) = free_ports(1)
    settings = settings_with({"BDI_KAFKA__BROKERS": f"127.0.0.1:{port}"})
    events = EventReporter(settings, lambda _line: None, lambda: None)
    try:
        with pytest.raises(StackError, match=rf"kafka.brokers: 127.0.0.1:{port}: .* cannot be followed"):
            await events.open()
    finally:
        await events.close()


async def has_models_with(settings: Settings, answer: web.Response | None) -> bool:
    """Call `has_models` against a WebHDFS with this response; None: no server."""

    async def handle(_request: web.Request) -> web.Response:
        assert answer is not None
        return answer

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        if answer is None:
            await runner.cleanup()
        return await has_models(settings.model_copy(update={"hdfs": settings.hdfs.model_copy(update={"webhdfs": url})}))
    finally:
        await runner.cleanup()


def listing(*names: str) -> web.Response:
    return web.json_response({"FileStatuses": {"FileStatus": [{"pathSuffix": name} for name in names]}})


async def test_has_models_requires_a_champion_of_each_symbol() -> None:
    settings = settings_with({"BDI_FORECASTING__SYMBOLS": "BTC-USD"})
    assert await has_models_with(settings, listing("m1"))
    assert not await has_models_with(settings, listing())
    assert not await has_models_with(settings, web.json_response({}, status=404))


@pytest.mark.parametrize(
    "answer",
    [None, web.Response(status=503), web.Response(text="<html>"), web.json_response({}), web.json_response([])],
    ids=["no server", "503", "no JSON", "no list", "an array"],
)
async def test_a_failing_webhdfs_is_a_one_line_error(answer: web.Response | None) -> None:
    with pytest.raises(StackError, match=r"hdfs\.webhdfs: .*: cannot list the champions"):
        await has_models_with(settings_with({"BDI_FORECASTING__SYMBOLS": "BTC-USD"}), answer)


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder with the logs of all programs of the demo, and of a format run."""
    folder = tmp_path / "state" / "logs"
    folder.mkdir(parents=True)
    programs = {program for own in LOGS.values() for program in own}
    for name in (*programs, "namenode-format", "supervisor"):
        (folder / f"{name}.log").write_text("".join(f"{name} {number}\n" for number in range(3_000)))
    monkeypatch.setenv("BDI_DEVSTACK__STATE_DIR", str(tmp_path / "state"))
    return folder


@pytest.mark.parametrize("part", [*PARTS, *ProductPart])
def test_logs_are_found_by_each_name_that_status_shows(
    part: str, logged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert devstack(["logs", part, "--lines", "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    found = {line.removeprefix(f"== {logged}/").removesuffix(".log") for line in shown[::3]}
    assert found - {"namenode-format"} == set(LOGS[part])
    assert [line.split()[1] for line in shown[1:3]] == ["2998", "2999"]


def test_without_a_name_all_logs_are_shown(logged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert devstack(["logs", "--lines", "2500"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(list(logged.glob("*.log"))) * 2_501


@pytest.mark.parametrize(
    "words",
    [["namenode"], ["kafkaa"], [""], *(["--lines", n] for n in ("-5", "0", "x", "1e3", "10001", "9" * 5_000, "²"))],
)
def test_an_unknown_part_or_number_of_lines_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        devstack(["logs", *words])
    assert ended.value.code == 2
    problem = capsys.readouterr().err.splitlines()[-1]
    if len(words) == 1:
        assert all(name in problem for name in (*PARTS, *ProductPart))
    else:
        assert "expected a whole number from 1 to 10000" in problem


def test_a_part_without_a_log_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BDI_DEVSTACK__STATE_DIR", str(tmp_path))
    assert devstack(["logs", "kafka"]) == 1
    assert capsys.readouterr().err == f"devstack: no log of kafka in {tmp_path}/logs; available logs: none yet\n"
