"""When a WebSocket connection may be opened: the exchange's limit of connects, and backoff after failures.

Seconds are real seconds.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import stamina

from marketdata.errors import RetryableSourceError

JITTER_S = 1.0
"""Longest random wait before a connect: all clients of an exchange lose their connections at the same moment."""

_WAIT_INITIAL_S, _WAIT_MAX_S = 0.25, 30.0
_CONNECT_WINDOW_S = 300.0
_CONNECT_SHARE = 0.8  # of the allowed connects: the address may have other clients


@dataclass(slots=True)
class ConnectBudget:
    """Delay connects to stay below the exchange's limit per address; shared by all connections.

    max_connects: allowed in five minutes.
    """

    max_connects: int
    _connects: deque[float] = field(default_factory=deque)

    async def take(self) -> None:
        """Wait until one more connect is allowed."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            while self._connects and self._connects[0] <= now - _CONNECT_WINDOW_S:
                self._connects.popleft()
            if len(self._connects) < self.max_connects * _CONNECT_SHARE:
                self._connects.append(now)
                return
            await asyncio.sleep(self._connects[0] + _CONNECT_WINDOW_S - now)


def connect_attempts(limit: int | None, real_seconds: Callable[[float], float]) -> AsyncIterator[stamina.Attempt]:
    """Attempts with jittered backoff, or the pause that the exchange asks for, between them.

    Only retryable errors lead to another attempt.

    Args:
        limit: number of attempts; None for no limit.
        real_seconds: converts seconds of exchange time, such as a Retry-After.
    """

    def pause(error: Exception) -> bool | float:
        if not isinstance(error, RetryableSourceError):
            return False
        return True if error.retry_after_s is None else real_seconds(error.retry_after_s)

    return stamina.retry_context(
        on=pause,
        attempts=limit,
        timeout=None,
        wait_initial=_WAIT_INITIAL_S,
        wait_max=_WAIT_MAX_S,
        wait_jitter=JITTER_S,
    ).__aiter__()
