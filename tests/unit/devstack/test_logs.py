"""Logs of programs that run for months stay small, and what the demo asks of others ends in one clear line."""

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
from devstack.demo import has_models
from devstack.events import EventTeller
from devstack.process import tail
from devstack.stack import ROOT, Part, Stack
from devstack.state import ProcessId, StackState
from marketdata.errors import StackError
from tests.support.stack import eventually_async, free_ports, settings_with

MOST_BYTES = 20_000

TALKS = """
import sys, time
for number in range(1_000_000):
    print("line", number, flush=True)
    if number % 50 == 0:
        time.sleep(0.001)
"""


async def healthy() -> str | None:
    return None


def much_said(log: Path) -> bool:
    """The last line that is whole is far on."""
    told = [line for line in tail(log, 3) if line.startswith("line ")]
    return len(told) > 1 and int(told[-2].split()[1]) > 50_000


def before(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def moved_twice(log: Path) -> bool:
    """What was said first is in neither file any more."""
    begin = before(log).read_bytes()[:7] if before(log).is_file() else b""
    return len(begin) == 7 and begin != b"line 0\n"


def kept_small(log: Path) -> None:
    """It was moved to its `.1` and begun anew, with no hole, and the two hold less than all that was said."""
    kept = [file.read_text() for file in (before(log), log)]
    assert len(kept[0]) > MOST_BYTES
    assert not kept[1].startswith("line 0\n")
    assert "\0" not in "".join(kept)  # what is written lands at the new end
    whole = [text[: text.rfind("\n") + 1] for text in kept]  # the move and the stop may cut a line
    numbers = [int(line.split()[1]) for line in "".join(whole).splitlines() if line.startswith("line ")]
    assert numbers == sorted(numbers)
    assert sum(map(len, kept)) < sum(len(f"line {number}\n") for number in range(numbers[-1]))


@pytest.fixture
def soon_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOG_BYTES", MOST_BYTES)
    monkeypatch.setattr(process, "LOG_CHECK_S", 0.005)


@pytest.mark.parametrize("kind", ["part", "job"])
@pytest.mark.usefixtures("soon_too_long")
async def test_a_log_is_moved_and_begun_anew_while_its_program_goes_on(tmp_path: Path, kind: str) -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    stack = Stack(StackState(me), tmp_path, lambda _line: None, {})
    command = (sys.executable, "-c", TALKS)
    if kind == "job":
        begun: Coroutine[Any, Any, object] = stack.job("talks", command)
    else:
        begun = stack.run(Part("talks", "", command, healthy))
    log = stack.log_of("talks")
    task = asyncio.create_task(begun)
    try:

        async def long_enough() -> bool:
            return moved_twice(log)

        await eventually_async(long_enough, 60, "moved twice")
    finally:
        await stack.stop()
        await task
    kept_small(log)


async def test_a_log_that_was_removed_is_not_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, looks = tmp_path / "removed" / "talks.log", 0
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
        keeping = asyncio.create_task(process.keep_small(log))
        await eventually_async(looked, 30, "looked at three times")
        keeping.cancel()
    assert caplog.messages == []


SUPERVISES = """
import asyncio, sys
from pathlib import Path
from config import load_settings
from devstack import process, supervisor
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


@pytest.mark.parametrize("own", [True, False], ids=["as `up` has it", "elsewhere"])
async def test_the_supervisor_keeps_its_own_log_small_and_no_other(tmp_path: Path, own: bool) -> None:
    log = supervisor.own_log(tmp_path) if own else tmp_path / "elsewhere.log"
    env = {**os.environ, "BDI_DEVSTACK__STATE_DIR": str(tmp_path)}
    command = (sys.executable, "-c", SUPERVISES, str(MOST_BYTES))
    with process.fresh(log) as output:
        supervising = await asyncio.create_subprocess_exec(
            *process.bound(command), stdout=output, stderr=output, env=env, cwd=ROOT
        )
    try:

        async def long_enough() -> bool:
            assert supervising.returncode is None, tail(log)
            return moved_twice(log) if own else much_said(log)

        await eventually_async(long_enough, 60, "moved twice, or much said")
        supervising.terminate()
        assert await supervising.wait() == 0
    finally:
        if supervising.returncode is None:
            supervising.kill()
            await supervising.wait()
    if own:
        kept_small(log)
    else:
        assert not before(log).exists()
        assert log.read_text().startswith("line 0\n")


async def test_a_broker_that_is_away_is_one_clear_line() -> None:
    (port,) = free_ports(1)
    settings = settings_with({"BDI_KAFKA__BROKERS": f"127.0.0.1:{port}"})
    teller = EventTeller(settings, lambda _line: None, lambda: None)
    try:
        with pytest.raises(StackError, match=rf"kafka.brokers: 127.0.0.1:{port}: .* cannot be followed"):
            await teller.open()
    finally:
        await teller.close()


async def asked(settings: Settings, answer: web.Response | None) -> bool:
    """`has_models` where WebHDFS gives this answer, or none."""

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


def told(*names: str) -> web.Response:
    return web.json_response({"FileStatuses": {"FileStatus": [{"pathSuffix": name} for name in names]}})


async def test_models_are_there_where_each_symbol_has_a_champion() -> None:
    settings = settings_with({"BDI_FORECASTING__SYMBOLS": "BTC-USD"})
    assert await asked(settings, told("m1"))
    assert not await asked(settings, told())
    assert not await asked(settings, web.json_response({}, status=404))


@pytest.mark.parametrize(
    "answer",
    [None, web.Response(status=503), web.Response(text="<html>"), web.json_response({}), web.json_response([])],
    ids=["nobody", "503", "no JSON", "no list", "an array"],
)
async def test_a_webhdfs_that_does_not_tell_is_one_clear_line(answer: web.Response | None) -> None:
    with pytest.raises(StackError, match=r"hdfs\.webhdfs: .*: which models are there is not told"):
        await asked(settings_with({"BDI_FORECASTING__SYMBOLS": "BTC-USD"}), answer)
