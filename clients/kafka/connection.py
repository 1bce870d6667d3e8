"""Connecting and closing aiokafka clients: options from the settings, start with a deadline, close in bounded time.

In aiokafka 0.14 a consumer's `stop` raises CancelledError and leaves connections open if a fetch waits for a retry
because the broker is away, or if its tasks have not started; if `stop` is cancelled, the tasks of its group survive. A
producer's `stop` waits as long as the broker is away. So `close_client` runs each `stop` in a separate task with a
timeout, and then closes what is left.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, ProducerClosed
from aiokafka.helpers import create_ssl_context
from aiokafka.producer.message_accumulator import MessageAccumulator

from config.sections import KafkaSettings
from marketdata.errors import BrokerError, ConfigurationError

log = logging.getLogger(__name__)

Client: TypeAlias = AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient | AIOKafkaClient
C = TypeVar("C", AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient)

GRACEFUL_CLOSE_S = 5.0
"""Default graceful-close timeout: after it, a client's connections are closed without the brokers' consent."""
RETRY_S = 0.5
_PARTS_CLOSE_S = 1.0  # timeout of closing a client's parts, which sends nothing to a broker


def client_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes: brokers, SASL and TLS.

    Raises:
        ConfigurationError: `ssl_cafile` cannot be read, or contains no certificates.
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


async def connect(
    kafka: KafkaSettings, create: Callable[[], C], *, wait_s: float = 0.0, close_s: float = GRACEFUL_CLOSE_S
) -> C:
    """A started client; the caller closes it.

    Args:
        kafka: named in the error.
        create: makes a client that is not started. Called once per attempt, as aiokafka cannot restart a client.
        wait_s: seconds in which attempts are repeated; 0: one attempt.
        close_s: graceful-close timeout of a client that did not start, in seconds.

    Raises:
        BrokerError: no broker answers within `wait_s`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        client = create()
        try:
            await client.start()
        except (KafkaError, OSError) as error:
            await close_client(client, close_s)
            if loop.time() >= deadline:
                raise no_broker(kafka, wait_s, error) from error
            await asyncio.sleep(RETRY_S)
        except asyncio.CancelledError:
            await close_client(client, close_s)
            raise
        else:
            return client


def no_broker(kafka: KafkaSettings, wait_s: float, cause: Exception) -> BrokerError:
    """The error for brokers that did not answer for `wait_s` seconds; 0: to one attempt."""
    within = f" within {wait_s:g} s" if wait_s else ""
    return BrokerError(f"kafka.brokers: {kafka.brokers}: no broker answers{within}: {cause}")


async def start_producer(
    kafka: KafkaSettings, *, wait_s: float = 0.0, close_s: float = GRACEFUL_CLOSE_S, **options: Any
) -> AIOKafkaProducer:
    """A started idempotent producer whose sends wait for all replicas; the caller closes it.

    Args:
        kafka: where it connects to.
        wait_s: as in `connect`.
        close_s: as in `connect`.
        options: further keyword arguments of AIOKafkaProducer.

    Raises:
        BrokerError: no broker answers within `wait_s`.
    """
    return await connect(
        kafka,
        lambda: AIOKafkaProducer(**client_options(kafka), enable_idempotence=True, acks="all", **options),
        wait_s=wait_s,
        close_s=close_s,
    )


async def close_client(client: Client, graceful_s: float = GRACEFUL_CLOSE_S) -> None:
    """Close a client, started or not, whatever state the broker is in; failures are logged, not raised.

    A producer first delivers its pending records, for at most `graceful_s` seconds; then their futures raise
    ProducerClosed. The whole takes at most one second more than `graceful_s`.
    """
    if isinstance(client, AIOKafkaAdminClient | AIOKafkaClient):
        await _finish(client.close(), graceful_s)
        return
    if await _finish(client.stop(), graceful_s):
        return
    # A second `stop` does nothing, so close the parts, beginning with the one that would reconnect.
    if isinstance(client, AIOKafkaConsumer):
        parts = [part.close() for part in (client._fetcher, client._client) if part is not None]  # noqa: SLF001
        parts.append(_end_membership(client._coordinator))  # noqa: SLF001
    else:
        parts = [client._sender.close(), client.client.close()]  # noqa: SLF001
    await asyncio.gather(*(_finish(part, _PARTS_CLOSE_S) for part in parts))
    if isinstance(client, AIOKafkaProducer):
        _fail_pending(client._message_accumulator)  # noqa: SLF001


async def _end_membership(coordinator: Any) -> None:
    """Cancel the tasks of a consumer's group; the coordinator's `close` does nothing once it was cancelled."""
    # The first creates the other two. Without a group, or before the start, they do not exist.
    for name in ("_coordination_task", "_heartbeat_task", "_commit_refresh_task"):
        task: asyncio.Task[None] | None = getattr(coordinator, name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _fail_pending(accumulator: MessageAccumulator) -> None:
    """Set ProducerClosed on the futures of undelivered records, which would otherwise never be done."""
    waiting = [batch for batches in accumulator._batches.values() for batch in batches]  # noqa: SLF001
    # A batch that was re-queued after a failed send removes itself from this set when it ends, so it must be in it.
    accumulator._pending_batches.update(waiting)  # noqa: SLF001
    accumulator.fail_all(ProducerClosed())
    for batch in waiting:
        batch._drain_waiter.exception()  # noqa: SLF001  retrieve it, or asyncio logs that it never was


async def _finish(closing: Awaitable[None], timeout_s: float) -> bool:
    """Whether `closing` ended without an error and in time."""
    task = asyncio.ensure_future(closing)
    await asyncio.wait({task}, timeout=timeout_s)
    if not task.done():
        task.cancel()
        return False
    if task.cancelled():
        return False
    if (error := task.exception()) is not None:
        log.warning("closing a Kafka client failed: %s: %s", type(error).__name__, error)
    return error is None
