"""What takes long (HDFS, the net) goes on beside the event loop, so that a stop takes effect at once.

It must never import another module of ours.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def in_thread(action: Callable[[], T]) -> T:
    """Run in a daemon thread: the default executor would hold a stopping program until a long import ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(finish: Callable[[], None]) -> None:
        if not future.cancelled():
            finish()

    def run() -> None:
        try:
            result = action()
        except BaseException as error:  # noqa: BLE001  handed to the awaiting coroutine, which raises it
            finish = partial(future.set_exception, error)
        else:
            finish = partial(future.set_result, result)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, finish)

    threading.Thread(target=run, daemon=True).start()
    return await future
