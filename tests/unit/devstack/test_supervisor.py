"""The supervisor's decisions, with programs of one line in place of the stack's."""

import asyncio
import sys
from pathlib import Path

import pytest

from config import Settings
from devstack import supervisor
from devstack.java import Java
from devstack.stack import Part
from devstack.state import load_state
from tests.support.stack import settings_with

FOR_LONG = (sys.executable, "-c", "import time; time.sleep(600)")
ENDS = (sys.executable, "-c", "raise SystemExit(3)")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_with({"BDI_DEVSTACK__STATE_DIR": str(tmp_path / "state")})


def stand_in(monkeypatch: pytest.MonkeyPatch, *parts: Part) -> None:
    monkeypatch.setattr(supervisor, "require_java", lambda: Java(Path("/nowhere"), 17))
    monkeypatch.setattr(supervisor, "build_parts", lambda *_words: list(parts))


async def healthy() -> str | None:
    return None


async def never() -> str | None:
    return "is starting"


async def test_a_part_that_dies_while_another_starts_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """Healthy is what it was for a moment: nobody would wait for it again."""
    stand_in(monkeypatch, Part("kafka", "", ENDS, healthy), Part("hdfs", "", FOR_LONG, never))
    async with asyncio.timeout(30):
        assert await supervisor.supervise(settings, frozenset(), lambda _line: None) == 1
    state = load_state(settings.devstack.state_dir)
    assert state is not None
    assert state.error.startswith("kafka: ended with exit code 3")
    assert state.parts["hdfs"].process is not None
    assert state.parts["hdfs"].process.alive() is None


async def test_who_asks_for_it_is_ended_by_any_death(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """In a container the restart is somebody else's, who looks at the exit code."""
    go = settings.devstack.state_dir / "go"
    waits = (sys.executable, "-c", f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nexit(3)")
    stand_in(monkeypatch, Part("kafka", "", waits, healthy), Part("exchange", "", FOR_LONG, healthy))

    def tell(line: str) -> None:
        told.append(line)
        if len(told) == 2:
            go.touch()

    told: list[str] = []
    async with asyncio.timeout(30):
        assert await supervisor.supervise(settings, frozenset(), tell, fail_fast=True) == 1
    state = load_state(settings.devstack.state_dir)
    assert state is not None
    assert state.error.startswith("kafka: ended with exit code 3")
