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

from marketdata.errors import FatalSourceError, RetryableSourceError
from marketdata.vocabulary import SourceStatus

T = TypeVar("T")

log = logging.getLogger(__name__)

_ATTEMPTS = 4
_WAIT_SHARE = 0.1  # of the budget: the first wait, and the width of its jitter


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """Result of a call.

    status: ok, or the kind of the error; `unexpected` for an error of this program, whose traceback is logged.
    value: None unless the status is ok.
    detail: message of the error.
    """

    status: str
    value: T | None = None
    detail: str = ""


class RetryPolicy:
    """One per source, shared by all calls of the source."""

    def __init__(
        self,
        source: str,
        *,
        on_retry: Callable[[str], None] = lambda _kind: None,
        real_seconds: Callable[[float], float] = lambda exchange_s: exchange_s,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Close the circuit.

        Args:
            source: name of the source.
            on_retry: called with the kind of the error before each further attempt.
            real_seconds: converts seconds of exchange time (`clients.clock.Clock`).
            monotonic: real seconds.
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
        """The fatal error that stopped the source; None while it is not stopped."""
        return self._stopped

    async def call(self, ask: Callable[[float], Awaitable[T]], budget_s: float) -> Outcome[T]:
        """Call the source, with retries; raises nothing.

        Args:
            ask: sends the request; its argument is the time left, in real seconds.
            budget_s: real seconds for all attempts together.
        """
        if self._stopped is not None:
            return Outcome(self._stopped.kind, detail=str(self._stopped))
        now = self._monotonic()
        if now < self._open_until:
            return Outcome(self._open_kind, detail=f"not requested for another {self._open_until - now:.3g} s")
        outcome = await self._attempts(ask, now + budget_s, budget_s)
        self._log_change(outcome)
        return outcome

    async def _attempts(self, ask: Callable[[float], Awaitable[T]], deadline: float, budget_s: float) -> Outcome[T]:
        reported: RetryableSourceError | None = None

        def backoff(error: Exception) -> bool | float:
            nonlocal reported
            if not isinstance(error, RetryableSourceError):
                return False
            if error.kind != SourceStatus.TIMEOUT or reported is None:
                reported = error  # not hidden by a last attempt that the budget cut short
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
                    return Outcome(SourceStatus.OK, await ask(max(deadline - self._monotonic(), 0.001)))
        except RetryableSourceError as last:
            error = reported or last
            if error.retry_after_s is not None:
                wait_s = self._real_seconds(error.retry_after_s)
                self._open_until = self._monotonic() + wait_s
                self._open_kind = error.kind
                self._open_for = f"not requested for {wait_s:.3g} s ({error.retry_after_s:g} s of exchange time)"
            return Outcome(error.kind, detail=str(error))
        except FatalSourceError as error:
            self._stopped = error
            return Outcome(error.kind, detail=str(error))
        except Exception as error:
            if self.last_status != SourceStatus.UNEXPECTED:  # once, not at each poll
                log.exception("%s: unexpected error", self.source)
            return Outcome(SourceStatus.UNEXPECTED, detail=repr(error))
        raise AssertionError("stamina ends with a result or an error")

    def _pause(self, error: RetryableSourceError, left_s: float) -> bool | float:
        """Seconds to wait before the next attempt, True for stamina's backoff, False for no further attempt."""
        wait_s = 0.0 if error.retry_after_s is None else self._real_seconds(error.retry_after_s)
        if left_s <= wait_s:
            return False
        self._on_retry(error.kind)
        return True if error.retry_after_s is None else wait_s

    def _log_change(self, outcome: Outcome[T]) -> None:
        if outcome.status == self.last_status:
            return
        if self._stopped is not None:
            log.error("%s is stopped until the worker is restarted: %s", self.source, outcome.detail)
        elif outcome.status != SourceStatus.OK:
            pause = f"; {self._open_for}" if self._open_until > self._monotonic() else ""
            log.warning("%s: %s: %s%s", self.source, outcome.status, outcome.detail, pause)
        elif self.last_status is not None:
            log.info("%s responds again", self.source)
        self.last_status = outcome.status
