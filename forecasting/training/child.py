"""A training run as a child program that ends with its parent."""

import asyncio
import sys

from clients.process import bound
from config.paths import child_environment


class TrainingChild:
    """`python -m forecasting train --symbol SYMBOL --model MODEL`, run by the predictor while it serves."""

    def __init__(self, model: str, process: asyncio.subprocess.Process) -> None:
        self.model = model
        self._process = process

    @classmethod
    async def start(cls, symbol: str, model: str) -> "TrainingChild":
        command = (sys.executable, "-m", "forecasting", "train", "--symbol", symbol, "--model", model)
        process = await asyncio.create_subprocess_exec(
            *bound(command), stdin=asyncio.subprocess.DEVNULL, env=child_environment()
        )
        return cls(model, process)

    @property
    def exit_code(self) -> int | None:
        """None while the training runs."""
        return self._process.returncode

    async def stop(self) -> None:
        """Kill the training if it still runs, and wait for its end."""
        if self._process.returncode is None:
            self._process.kill()  # safe: a version counts as published only when its `_SUCCESS` file exists
        await self._process.wait()
