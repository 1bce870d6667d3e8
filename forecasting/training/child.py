"""A training run as a child program that dies with its parent."""

import asyncio
import ctypes
import os
import signal
import sys

from config.paths import child_environment
from marketdata.errors import ForecastError

PR_SET_PDEATHSIG = 1


def bind_to_parent(parent: int) -> None:
    """Have the kernel end this process when `parent` ends (prctl(2)); called by the child at its start.

    Raises:
        ForecastError: the parent has ended already.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ForecastError(f"parent {parent}: has ended: expected it to run")


class TrainingChild:
    """`python -m forecasting train --symbol SYMBOL --model MODEL` beside a running predictor."""

    def __init__(self, model: str, process: asyncio.subprocess.Process) -> None:
        self.model = model
        self._process = process

    @classmethod
    async def start(cls, symbol: str, model: str) -> "TrainingChild":
        words = ("train", "--symbol", symbol, "--model", model, "--parent", str(os.getpid()))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "forecasting", *words),
            stdin=asyncio.subprocess.DEVNULL,
            env=child_environment(),
        )
        return cls(model, process)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    async def stop(self) -> None:
        """End it, if it still runs, and wait until it has ended."""
        if self._process.returncode is None:
            self._process.kill()  # it publishes by a last `_SUCCESS`, so nothing half-done is ever used
        await self._process.wait()
