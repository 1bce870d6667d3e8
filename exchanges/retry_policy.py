"""Retry policy of one source: retry within the poll's time, open the circuit, or stop the source.

- Retryable errors are retried while the poll's time allows it.
- An error with `retry_after_s` that does not fit into the poll's time opens the circuit for that long.
- A fatal error stops the source until the program restarts.

The policy never raises: every result is an `Outcome`, so a failing source cannot affect the others. Times are real
seconds. Only `retry_after_s` is exchange time, which a replay runs faster.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import stamina

from exchanges.interface import OK
from marketdata.errors import FatalSourceError, RetryableSourceError

T = TypeVar("T")

log = logging.getLogger(__name__)

_ATTEMPTS = 4
_TIMEOUT = "timeout"
_UNEXPECTED = "unexpected"
_WAIT_SHARE = 0.1  # of the poll's time: the first wait, and the width of its jitter


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """`value` is None unless `status` is ok; else `status` is the kind of the error and `detail` its text.

    `unexpected` is an error that is none of a source's: a fault of this program, whose traceback is logged.
    """

    status: str
    value: T | None = None
    detail: str = ""


class RetryPolicy:
    """One per source, shared by all its calls."""

    def __init__(
        self,
        source: str,
        *,
        on_retry: Callable[[str], None] = lambda _kind: None,
        real_seconds: Callable[[float], float] = lambda exchange_s: exchange_s,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet.

        Args:
            source: its name.
            on_retry: told of the kind of error before each further attempt.
            real_seconds: how long seconds of the exchange's time take on this machine (`clients.clock.Clock`).
            monotonic: the machine's, but for tests.
        """
        self.source = source
        self._on_retry = on_retry
        self._real_seconds = real_seconds
        self._monotonic = monotonic
        self._open_until = 0.0
        self._open_kind = ""
        self._open_for = ""
        self._stopped: FatalSourceError | None = None
        self.last_status: str | None = None

    @property
    def stopped(self) -> FatalSourceError | None:
        """Why the source stopped for good, None while it has not."""
        return self._stopped

    async def call(self, ask: Callable[[float], Awaitable[T]], budget_s: float) -> Outcome[T]:
        """Ask, and ask again while that makes sense, for at most `budget_s`.

        Args:
            ask: is handed the seconds that are left.
            budget_s: real seconds for all attempts together.
        """
        if self._stopped is not None:
            return Outcome(self._stopped.kind, detail=str(self._stopped))
        now = self._monotonic()
        if now < self._open_until:
            return Outcome(self._open_kind, detail=f"left alone for {self._open_until - now:.3g} s more")
        outcome = await self._attempts(ask, now + budget_s, budget_s)
        self._tell(outcome)
        return outcome

    async def _attempts(self, ask: Callable[[float], Awaitable[T]], deadline: float, budget_s: float) -> Outcome[T]:
        telling: RetryableSourceError | None = None

        def backoff(error: Exception) -> bool | float:
            nonlocal telling
            if not isinstance(error, RetryableSourceError):
                return False
            if error.kind != _TIMEOUT or telling is None:
                telling = error  # a last attempt cut short by the budget tells less than the refusal before it
            return self._pause(error, deadline - self._monotonic())

        wait_s = budget_s * _WAIT_SHARE
        try:
            async for attempt in stamina.retry_context(
                on=backoff,
                attempts=_ATTEMPTS,
                timeout=budget_s,
                wait_initial=wait_s,
                wait_max=budget_s,
                wait_jitter=wait_s,
            ):
                with attempt:
                    return Outcome(OK, await ask(max(deadline - self._monotonic(), 0.001)))
        except RetryableSourceError as last:
            error = telling or last
            if error.retry_after_s is not None:
                wait_s = self._real_seconds(error.retry_after_s)
                self._open_until = self._monotonic() + wait_s
                self._open_kind = error.kind
                self._open_for = f"left alone for {wait_s:.3g} s ({error.retry_after_s:g} s of exchange time)"
            return Outcome(error.kind, detail=str(error))
        except FatalSourceError as error:
            self._stopped = error
            return Outcome(error.kind, detail=str(error))
        except Exception as error:
            if self.last_status != _UNEXPECTED:  # once, not with each poll
                log.exception("%s: an error that was not foreseen", self.source)
            return Outcome(_UNEXPECTED, detail=repr(error))
        raise AssertionError("stamina ends with a result or an error")

    def _pause(self, error: RetryableSourceError, left_s: float) -> bool | float:
        """Seconds to wait before asking again, True for stamina's own choice, False for not at all."""
        wait_s = 0.0 if error.retry_after_s is None else self._real_seconds(error.retry_after_s)
        if left_s <= wait_s:
            return False
        self._on_retry(error.kind)
        return True if error.retry_after_s is None else wait_s

    def _tell(self, outcome: Outcome[T]) -> None:
        if outcome.status == self.last_status:
            return
        if self._stopped is not None:
            log.error("%s is stopped until the worker is restarted: %s", self.source, outcome.detail)
        elif outcome.status != OK:
            pause = f"; {self._open_for}" if self._open_until > self._monotonic() else ""
            log.warning("%s: %s: %s%s", self.source, outcome.status, outcome.detail, pause)
        elif self.last_status is not None:
            log.info("%s answers again", self.source)
        self.last_status = outcome.status
