"""When a part that exited is restarted, and when its exit ends the demo."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import Settings
from devstack.demo import Restarts, run_demo
from devstack.stack import Part, Stack
from devstack.state import PartState, StackState, supervisor_lock
from marketdata.errors import StackError
from tests.support.stack import settings_with

ENDS = (sys.executable, "-c", "print('no space left'); raise SystemExit(3)")
SLEEPS = (sys.executable, "-c", "import time; time.sleep(600)")


async def healthy() -> str | None:
    return None


async def never() -> str | None:
    return "is starting"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StackState]:
    with supervisor_lock(tmp_path / "state") as owned:
        yield owned


@pytest.fixture
def reported() -> list[str]:
    return []


@pytest.fixture
def stack(state: StackState, tmp_path: Path, reported: list[str]) -> Stack:
    return Stack(state, tmp_path / "state", reported.append, {})


def started() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def test_the_sixth_exit_of_a_part_ends_the_demo(stack: Stack, reported: list[str]) -> None:
    await stack.run(Part("raw", "", ENDS, healthy))
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(60):
            await Restarts(stack, reported.append, 30.0, first_pause_s=0.0078125).run(started())
    (error,) = raised.value.exceptions
    assert isinstance(error, StackError)
    assert str(error).startswith("raw: ended with exit code 3; last lines of ")
    assert str(error).endswith("raw ended 6 times within 10 minutes")
    ends = [line for line in reported if "ended" in line]
    assert [line.partition("restart in ")[2] for line in ends] == [
        "0.0078125 s (1 of 5)",
        "0.015625 s (2 of 5)",
        "0.03125 s (3 of 5)",
        "0.0625 s (4 of 5)",
        "0.125 s (5 of 5)",
    ]
    assert ends[0].startswith("raw ended with exit code 3; last log line: 'no space left'; ")


async def test_a_part_that_stays_unhealthy_is_stopped_and_counts_as_exited(
    stack: Stack, state: StackState, reported: list[str]
) -> None:
    await stack.run(Part("kafka", "", ENDS, healthy))
    dead = await stack.next_exit()
    await stack.restart(Part("kafka", "", SLEEPS, never), 0.0)
    again = await stack.next_exit()
    assert (dead.exit_code, again.exit_code) == (3, -15)
    assert any(
        f"not healthy within the time limit (devstack.startup_s): {problem}" in reported[0]
        for problem in ("is starting", "not checked yet")
    )
    process = state.parts["kafka"].process
    assert process is not None
    assert process.alive() is None
    assert state.parts["kafka"].state == "failed"


async def test_an_exit_during_the_start_ends_the_start(stack: Stack, reported: list[str]) -> None:
    await stack.run(Part("raw", "", ENDS, healthy))
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(30):
            await Restarts(stack, reported.append, 30.0).run(asyncio.Event())
    assert str(raised.value.exceptions[0]).startswith("raw: ended with exit code 3")
    assert reported == []


async def test_a_long_last_line_is_cut(stack: Stack) -> None:
    await stack.run(Part("raw", "", (sys.executable, "-c", "print('a' * 201 + '\\n  \\n')"), healthy))
    assert (await stack.next_exit()).last_line == "a" * 200 + "…"


async def test_a_stop_cancels_the_pause_before_a_restart(stack: Stack, state: StackState) -> None:
    paused = asyncio.Event()
    restarts = Restarts(stack, lambda _line: paused.set(), 30.0, first_pause_s=600.0)
    running = asyncio.create_task(restarts.run(started()))
    await stack.run(Part("raw", "", ENDS, healthy))
    first = state.parts["raw"].process
    async with asyncio.timeout(30):
        await paused.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await stack.stop()
    assert running.cancelled()
    assert state.parts["raw"].process == first


@pytest.mark.parametrize(
    ("parts", "where"),
    [
        ({"streams": PartState("http://127.0.0.1:6066")}, "dashboard: http://127.0.0.1:6066/"),
        ({"kafka": PartState("127.0.0.1:9092")}, "no dashboard yet"),
    ],
)
def test_a_second_demo_names_the_running_one(
    state: StackState, tmp_path: Path, parts: dict[str, PartState], where: str
) -> None:
    state.parts.update(parts)
    state.save(tmp_path / "state")
    settings: Settings = settings_with({"BDI_DEVSTACK__STATE_DIR": str(tmp_path / "state")}, "demo")
    with pytest.raises(StackError) as raised:
        run_demo(settings)
    assert str(raised.value) == f"a stack already runs in {tmp_path / 'state'} ({where}); stop it with: make down"
