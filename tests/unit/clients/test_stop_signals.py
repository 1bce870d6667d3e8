"""Signals that ask a program to stop."""

import asyncio
import os
import signal

import pytest

from clients.stop_signals import StopFlag, stop_event
from tests.support.stack import eventually


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_each_signal_sets_the_event(number: signal.Signals) -> None:
    stop = stop_event(on_hangup=True)
    try:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            await stop.wait()
    finally:
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(one)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_blocking_program_until_it_runs_and_then_sets_the_flag(number: signal.Signals) -> None:
    stop, cancelled = StopFlag(), []
    before = signal.getsignal(number)
    with stop.signals():
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), number)
        assert ended.value.code == 0
        stop.running(lambda: cancelled.append(True))
        os.kill(os.getpid(), number)
        assert stop.is_set()
        eventually(lambda: bool(cancelled), 5, "the blocking call is cancelled")
    assert signal.getsignal(number) == before
