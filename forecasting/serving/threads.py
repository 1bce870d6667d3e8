"""Blocking calls (HDFS, Keras) in daemon threads, so that they neither block the event loop nor delay a stop."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def in_thread(action: Callable[[], T]) -> T:
    """Run a blocking call in a daemon thread and return its result.

    The threads of asyncio's default executor are not daemons: they would delay the end of the program until a long
    import is done.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def set_unless_cancelled(finish: Callable[[], None]) -> None:
        if not future.cancelled():
            finish()

    def run() -> None:
        try:
            result = action()
        except BaseException as error:  # noqa: BLE001  raised in the awaiting coroutine
            finish = partial(future.set_exception, error)
        else:
            finish = partial(future.set_result, result)
        if not loop.is_closed():
            loop.call_soon_threadsafe(set_unless_cancelled, finish)

    threading.Thread(target=run, daemon=True).start()
    return await future
