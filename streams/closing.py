"""Closing Kafka's clients whatever state the broker is in: nothing comes out of it, and it ends.

In aiokafka 0.14 a consumer's `stop` ends with CancelledError, and leaves the rest open, where a fetch waits to be tried
again as the broker is gone, or where its tasks have not begun. So each closing runs in a task of its own: it cancels
nobody else.
"""

import asyncio
import logging
from collections.abc import Awaitable

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

log = logging.getLogger(__name__)

_PATIENCE_S = 5.0


async def close_consumer(consumer: AIOKafkaConsumer) -> None:
    """Stop it, and its connections too where stopping failed."""
    if not await _done(consumer.stop()):
        await _done(consumer._client.close())  # noqa: SLF001  a second `stop` does nothing


async def close_admin(admin: AIOKafkaAdminClient) -> None:
    """Close its connections."""
    await _done(admin.close())


async def _done(closing: Awaitable[None]) -> bool:
    """Whether it ended well and in time."""
    task = asyncio.ensure_future(closing)
    await asyncio.wait({task}, timeout=_PATIENCE_S)
    if not task.done():
        task.cancel()
        return False
    if task.cancelled():
        return False
    if (error := task.exception()) is not None:
        log.warning("a Kafka client was not closed well: %s: %s", type(error).__name__, error)
    return error is None
