"""The supervisor's reactions to exits, with one-line programs as parts."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from config import Settings
from devstack import supervisor
from devstack.java import Java
from devstack.stack import Part
from devstack.state import load_state
from tests.support.stack import eventually_async, settings_with

SLEEPS = (sys.executable, "-c", "import time; time.sleep(600)")
ENDS = (sys.executable, "-c", "raise SystemExit(3)")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_with({"BDI_DEVSTACK__STATE_DIR": str(tmp_path / "state")})


def replace_parts(monkeypatch: pytest.MonkeyPatch, *parts: Part) -> None:
    monkeypatch.setattr(supervisor, "require_java", lambda: Java(Path("/nowhere"), 17))
    monkeypatch.setattr(supervisor, "build_parts", lambda *_words: list(parts))


async def healthy() -> str | None:
    return None


async def never() -> str | None:
    return "is starting"


async def test_an_exit_while_another_part_starts_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """The part was healthy before, so no health check would notice the exit."""
    replace_parts(monkeypatch, Part("kafka", "", ENDS, healthy), Part("hdfs", "", SLEEPS, never))
    async with asyncio.timeout(30):
        assert await supervisor.supervise(settings, frozenset(), lambda _line: None) == 1
    state = load_state(settings.devstack.state_dir)
    assert state is not None
    assert state.error.startswith("kafka: ended with exit code 3")
    assert state.parts["hdfs"].process is not None
    assert state.parts["hdfs"].process.alive() is None


async def test_with_fail_fast_any_exit_ends_the_stack(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """In a container, the container runtime restarts the program if the exit code is not 0."""
    go = settings.devstack.state_dir / "go"
    waits = (sys.executable, "-c", f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nexit(3)")
    replace_parts(monkeypatch, Part("kafka", "", waits, healthy), Part("exchange", "", SLEEPS, healthy))

    def record(line: str) -> None:
        reported.append(line)
        if len(reported) == 2:
            go.touch()

    reported: list[str] = []
    async with asyncio.timeout(30):
        assert await supervisor.supervise(settings, frozenset(), record, fail_fast=True) == 1
    state = load_state(settings.devstack.state_dir)
    assert state is not None
    assert state.error.startswith("kafka: ended with exit code 3")


async def test_state_logs_and_the_files_of_programs_are_private(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """Whatever the umask of the user is, and in a folder that an earlier version left open."""
    folder = settings.devstack.state_dir
    folder.mkdir(parents=True, mode=0o755)
    made = folder / "made"
    writes = (
        "import os, sys, time; os.mkdir(sys.argv[1]); open(sys.argv[1] + '/data', 'w').close()\n"
        "os.rename(sys.argv[1], sys.argv[2]); print('ready'); time.sleep(600)"
    )

    async def has_written() -> str | None:
        return None if made.exists() else "is starting"

    async def is_up() -> bool:
        return made.exists()

    part = Part("kafka", "", (sys.executable, "-c", writes, f"{made}.new", str(made)), has_written)
    replace_parts(monkeypatch, part, Part("exchange", "", SLEEPS, healthy))
    before = os.umask(0o022)
    try:
        async with asyncio.timeout(30):
            supervising = asyncio.create_task(supervisor.supervise(settings, frozenset(), lambda _line: None))
            await eventually_async(is_up, 30, "the parts are healthy", every_s=0.01)
            open_to_others = [path for path in (folder, *folder.rglob("*")) if path.lstat().st_mode & 0o077]
            logs = {path.name for path in folder.rglob("*.log")}
            supervising.cancel()
            await asyncio.gather(supervising, return_exceptions=True)
    finally:
        os.umask(before)
    assert open_to_others == []
    assert "kafka.log" in logs
    assert {path.name for path in folder.iterdir()} >= {"lock", "logs", "made", "stack.json"}
