"""When a part that ended is started again, and when that is the end of the demo."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import Settings
from devstack.demo import Restarts, run_demo
from devstack.stack import Part, Stack
from devstack.state import PartState, StackState, only_supervisor
from marketdata.errors import StackError
from tests.support.stack import settings_with

ENDS = (sys.executable, "-c", "print('no room left'); raise SystemExit(3)")
FOR_LONG = (sys.executable, "-c", "import time; time.sleep(600)")


async def healthy() -> str | None:
    return None


async def never() -> str | None:
    return "is starting"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StackState]:
    with only_supervisor(tmp_path / "state") as owned:
        yield owned


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def stack(state: StackState, tmp_path: Path, told: list[str]) -> Stack:
    return Stack(state, tmp_path / "state", told.append, {})


def started() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def test_the_sixth_end_of_a_part_is_the_last(stack: Stack, told: list[str]) -> None:
    await stack.run(Part("raw", "", ENDS, healthy))
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(60):
            await Restarts(stack, told.append, 30.0, first_pause_s=0.0078125).run(started())
    (error,) = raised.value.exceptions
    assert isinstance(error, StackError)
    assert str(error).startswith("raw: ended with exit code 3; the end of ")
    assert str(error).endswith("raw ended 6 times within 10 minutes")
    ends = [line for line in told if "ended" in line]
    assert [line.partition("started again in ")[2] for line in ends] == [
        "0.0078125 s (1 of 5)",
        "0.015625 s (2 of 5)",
        "0.03125 s (3 of 5)",
        "0.0625 s (4 of 5)",
        "0.125 s (5 of 5)",
    ]
    assert ends[0].startswith("raw ended with exit code 3; its log's last line: no room left; ")


async def test_one_that_does_not_become_healthy_again_has_ended_too(
    stack: Stack, state: StackState, told: list[str]
) -> None:
    await stack.run(Part("kafka", "", ENDS, healthy))
    dead = await stack.next_death()
    await stack.restart(Part("kafka", "", FOR_LONG, never), 0.0)
    again = await stack.next_death()
    assert (dead.exit_code, again.exit_code) == (3, -15)
    assert "not healthy in time (is starting)" in told[0] or "not healthy in time (not asked yet)" in told[0]
    process = state.parts["kafka"].process
    assert process is not None
    assert process.alive() is None
    assert state.parts["kafka"].state == "failed"


async def test_a_death_during_the_start_ends_it(stack: Stack, told: list[str]) -> None:
    await stack.run(Part("raw", "", ENDS, healthy))
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(30):
            await Restarts(stack, told.append, 30.0).run(asyncio.Event())
    assert str(raised.value.exceptions[0]).startswith("raw: ended with exit code 3")
    assert told == []


async def test_a_long_last_line_is_cut(stack: Stack) -> None:
    await stack.run(Part("raw", "", (sys.executable, "-c", "print('a' * 201 + '\\n  \\n')"), healthy))
    assert (await stack.next_death()).last_line == "a" * 200 + "…"


async def test_a_pause_ends_at_once_when_all_is_stopped(stack: Stack, state: StackState) -> None:
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
        ({"streams": PartState("http://127.0.0.1:6066")}, "its dashboard: http://127.0.0.1:6066/; "),
        ({"kafka": PartState("127.0.0.1:9092")}, "it has no dashboard (yet); "),
    ],
)
def test_a_second_demo_tells_where_the_first_one_is(
    state: StackState, tmp_path: Path, parts: dict[str, PartState], where: str
) -> None:
    state.parts.update(parts)
    state.save(tmp_path / "state")
    settings: Settings = settings_with({"BDI_DEVSTACK__STATE_DIR": str(tmp_path / "state")}, "demo")
    with pytest.raises(StackError) as raised:
        run_demo(settings)
    assert str(raised.value) == (f"one already runs in {tmp_path / 'state'}, {where}`make down` stops that running one")
