"""The demo's start without the exchange: history and models are loaded later, and the demo continues meanwhile."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack import stack as stack_module
from devstack.demo import Demo
from devstack.progress import PlainReporter
from devstack.stack import Stack
from devstack.state import supervisor_lock
from marketdata.errors import StackError
from tests.support.stack import eventually_async, settings_with

# Prints its reasons to wait, one after another, each when the test creates a file; then it ends.
WAITS = """
import sys, time
from pathlib import Path
folder, code, reasons = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
for number, reason in enumerate(reasons):
    for _ in range(2):
        print("waiting: backfill:", reason, flush=True)
    while not (folder / str(number)).exists():
        time.sleep(0.002)
sys.exit(code)
"""
REFUSED, UNRESOLVED = "binance: HTTP 451; set binance.base_url", "binance: no such host"


class Lines(PlainReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []
        super().__init__(None)  # type: ignore[arg-type]

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def reporter() -> Lines:
    return Lines()


@pytest.fixture
def demo(tmp_path: Path, reporter: Lines, monkeypatch: pytest.MonkeyPatch) -> Iterator[Demo]:
    monkeypatch.setattr(stack_module, "_FOLLOW_S", 0.01)
    with supervisor_lock(tmp_path / "state") as state:
        stack = Stack(state, tmp_path / "state", reporter.line, dict(os.environ))
        yield Demo(settings_with({}, "live"), stack, reporter, 0.0)


def waits(folder: Path, code: int, *reasons: str) -> tuple[str, ...]:
    return (sys.executable, "-c", WAITS, str(folder), str(code), *reasons)


async def test_history_that_is_available_is_loaded_first(demo: Demo, reporter: Lines, tmp_path: Path) -> None:
    assert await demo.load_history(waits(tmp_path, 0))
    first, last = reporter.lines
    assert first == "load history …"
    assert last.startswith("load history done after ")


async def test_the_start_continues_while_the_exchange_refuses(demo: Demo, reporter: Lines, tmp_path: Path) -> None:
    async with asyncio.timeout(30):
        assert not await demo.load_history(waits(tmp_path, 0, REFUSED, UNRESOLVED))

        async def lines(count: int) -> bool:
            return len(reporter.lines) >= count

        await eventually_async(lambda: lines(3), 10, "the reason is reported", every_s=0.005)
        assert reporter.lines[1] == f"waiting     backfill: {REFUSED}"
        assert reporter.lines[2].startswith("load history: continues in the background; what answers is collected")
        (tmp_path / "0").touch()
        await eventually_async(lambda: lines(4), 10, "the other reason is reported", every_s=0.005)
        assert reporter.lines[3] == f"waiting     backfill: {UNRESOLVED}"
        (tmp_path / "1").touch()
        await eventually_async(lambda: lines(5), 10, "the history is complete", every_s=0.005)
        assert reporter.lines[4].startswith("load history done after ")
    assert len(reporter.lines) == 5


async def test_wrong_settings_end_the_start(demo: Demo, reporter: Lines, tmp_path: Path) -> None:
    with pytest.raises(StackError, match="backfill: ended with exit code 2"):
        await demo.load_history(waits(tmp_path, 2))
    assert reporter.lines == ["load history …"]


async def test_a_failure_in_the_background_is_reported(demo: Demo, reporter: Lines, tmp_path: Path) -> None:
    assert not await demo.load_history(waits(tmp_path, 3, REFUSED))
    (tmp_path / "0").touch()

    async def failed() -> bool:
        return reporter.lines[-1].startswith("load history failed: backfill: ended with exit code 3")

    await eventually_async(failed, 10, "the failure is reported", every_s=0.005)


async def test_a_failed_training_does_not_end_the_start(demo: Demo, reporter: Lines) -> None:
    await demo.train((sys.executable, "-c", "raise SystemExit('hourly_metrics: 3 hours: expected at least 5')"))
    first, last = reporter.lines
    assert first == "train models …"
    assert last.startswith(
        "train models failed; the forecaster trains again in the background: train: ended with exit code 1; last lines"
    )
    assert last.endswith("  | hourly_metrics: 3 hours: expected at least 5")
