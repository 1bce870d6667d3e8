"""Restart a loop of the worker after it failed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


async def forever(name: str, run: Callable[[], Awaitable[None]], pause_s: float) -> None:
    """Run a loop and restart it when it ends or fails, until the task is cancelled.

    Args:
        name: of the loop, for the log.
        run: the loop; an exception is logged with its traceback.
        pause_s: real seconds before each restart.
    """
    while True:
        try:
            await run()
        except Exception:
            log.exception("%s failed; restarting in %.3g s", name, pause_s)
        await asyncio.sleep(pause_s)
