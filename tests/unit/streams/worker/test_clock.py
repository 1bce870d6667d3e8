"""The worker's clock: waiting for a time, also when the clock is set back."""

import asyncio

import pytest

from streams.worker.clock import WorkerClock
from tests.support.fake_clock import FakeClock


async def test_waiting_ends_when_the_clock_is_set_back(caplog: pytest.LogCaptureFixture) -> None:
    machine = FakeClock(1_722_816_000_000)
    clock = WorkerClock(1_000.0, lambda: machine)
    await clock.start()
    waiting = asyncio.create_task(clock.sleep_until(machine.ms + 60_000))
    await asyncio.sleep(0.01)
    machine.ms += 30_000
    await asyncio.sleep(0.08)
    assert not waiting.done()
    machine.ms -= 3_600_000
    await asyncio.wait_for(waiting, 5.0)
    assert "the clock was set back by at least 3.6e+03 s, to 2024-08-04T23:00:30.000Z" in caplog.text
