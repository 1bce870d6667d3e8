"""The interfaces that collection needs from the rest of the worker."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from clients.clock import Clock
from streams.kafka.records import OutgoingRecord


class SleepingClock(Clock, Protocol):
    """A clock that a coroutine can wait for."""

    async def sleep_until(self, event_ms: int) -> None:
        """Return when event time has reached `event_ms`, or was set back meanwhile."""
        ...


class Publisher(Protocol):
    """Delivers records to the partitions of their keys; returns when the brokers have acknowledged all of them."""

    async def __call__(self, topic: str, records: Sequence[OutgoingRecord], /) -> None: ...


NewestTick = Callable[[int], Awaitable[int | None]]
"""Return the event time (ms) of the newest tick on the topic before the given time; None if there is none."""


async def no_previous_tick(_before_ms: int) -> int | None:
    """Report no previous tick: the default of `NewestTick`."""
    return None
