"""Kafka's clients as every room makes and closes them: options from the settings; a closing that ends and harms nobody.

In aiokafka 0.14 a consumer's `stop` ends with CancelledError, and leaves the rest open, where a fetch waits to be tried
again as the broker is gone, or where its tasks have not begun; cut off, it leaves the group's tasks behind; a
producer's waits as long as the broker is away. So each closing runs in a task of its own, and for a bounded time: it
cancels nobody else.

It must never open a connection or decide what is read or written.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import ProducerClosed
from aiokafka.helpers import create_ssl_context
from aiokafka.producer.message_accumulator import MessageAccumulator

from config.sections import KafkaSettings
from marketdata.errors import ConfigurationError

log = logging.getLogger(__name__)

Client: TypeAlias = AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient | AIOKafkaClient

PATIENCE_S = 5.0
"""For so long a client may take its leave of the brokers; then its connections are closed."""
_PARTS_S = 1.0
"""For so long what a client consists of may take to end, which asks no broker."""


def client_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes: brokers, SASL and TLS.

    Raises:
        ConfigurationError: `ssl_cafile` cannot be read, or holds no certificates.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.brokers,
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.endswith("SSL"):
        cafile = None if kafka.ssl_cafile is None else str(kafka.ssl_cafile)
        try:
            options["ssl_context"] = create_ssl_context(cafile=cafile)
        except OSError as error:
            raise ConfigurationError(f"kafka.ssl_cafile: {cafile}: expected certificates in PEM: {error}") from error
    if kafka.security_protocol.startswith("SASL"):
        password = kafka.sasl_password
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = None if password is None else password.get_secret_value()
    return options


async def close_client(client: Client, patience_s: float = PATIENCE_S) -> None:
    """Close a client, started or not, whatever state the broker is in; what goes wrong is at most logged.

    A producer delivers before what it still holds, where that takes no longer than `patience_s`: who waits for the rest
    is told ProducerClosed. The whole takes at most a second more than that.
    """
    if isinstance(client, AIOKafkaAdminClient | AIOKafkaClient):
        await _done(client.close(), patience_s)
        return
    if await _done(client.stop(), patience_s):
        return
    # A second `stop` does nothing, so its parts are closed: first what would open connections anew.
    if isinstance(client, AIOKafkaConsumer):
        parts = [part.close() for part in (client._fetcher, client._client) if part is not None]  # noqa: SLF001
        parts.append(_end_membership(client._coordinator))  # noqa: SLF001
    else:
        parts = [client._sender.close(), client.client.close()]  # noqa: SLF001
    await asyncio.gather(*(_done(part, _PARTS_S) for part in parts))
    if isinstance(client, AIOKafkaProducer):
        _give_up(client._message_accumulator)  # noqa: SLF001


async def _end_membership(coordinator: Any) -> None:
    """End the tasks of a consumer's group; its own `close` does nothing when it was cut off once."""
    # The first makes the other two. Without a group, or where nothing was started, there are none.
    for name in ("_coordination_task", "_heartbeat_task", "_commit_refresh_task"):
        task: asyncio.Task[None] | None = getattr(coordinator, name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _give_up(accumulator: MessageAccumulator) -> None:
    """Tell who waits for what was not delivered, who would do so for ever."""
    waiting = [batch for batches in accumulator._batches.values() for batch in batches]  # noqa: SLF001
    # A batch that was put back after a failed send takes itself out of these when it ends, as if it were among them.
    accumulator._pending_batches.update(waiting)  # noqa: SLF001
    accumulator.fail_all(ProducerClosed())
    for batch in waiting:
        batch._drain_waiter.exception()  # noqa: SLF001  nobody need wait for it: asyncio would log that nobody did


async def _done(closing: Awaitable[None], patience_s: float) -> bool:
    """Whether it ended well and in time."""
    task = asyncio.ensure_future(closing)
    await asyncio.wait({task}, timeout=patience_s)
    if not task.done():
        task.cancel()
        return False
    if task.cancelled():
        return False
    if (error := task.exception()) is not None:
        log.warning("a Kafka client was not closed well: %s: %s", type(error).__name__, error)
    return error is None
