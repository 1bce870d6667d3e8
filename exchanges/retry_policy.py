"""Retry policy of one source: retry within the poll's time, or open the circuit for a limited time.

- Retryable errors are retried while the poll's time allows it.
- An error with `retry_after_s` that does not fit into the poll's time opens the circuit of the source for that long.
- A refusal (`FatalSourceError`) opens the circuit of its operation, such as quotes or candles: 30 s after the first one
  and up to an hour after further ones (`exchanges.refusals.refusal_pause_s`). A success closes it. A bad request
  for one market opens the circuit of that market only.

No response stops a source for good. The policy never raises: every result is an `Outcome`, so a failing source cannot
affect the others. Times are real seconds. Only pauses are exchange time, which a replay runs faster.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import stamina

from exchanges.refusals import refusal_pause_s
from marketdata.errors import FatalSourceError, RetryableSourceError, SourceError
from marketdata.vocabulary import SourceStatus

T = TypeVar("T")

log = logging.getLogger(__name__)

QUOTES = "quotes"
"""The default operation."""
CANDLES = "candles"

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


class RetryMetrics(Protocol):
    """Counters of one source."""

    def retried(self, kind: str) -> None:
        """A request is about to be repeated after an error of `kind`."""
        ...

    def paused(self, operation: str, pause_s: float, error: SourceError | None = None) -> None:
        """An operation pauses for `pause_s` real seconds after an error, or with 0 fails without a pause.

        0 and None when it responds again.
        """
        ...


class NoMetrics:
    """Count nothing."""

    def retried(self, kind: str) -> None: ...

    def paused(self, operation: str, pause_s: float, error: SourceError | None = None) -> None: ...


@dataclass(slots=True)
class _Circuit:
    """Requests are sent from `end` on, in monotonic seconds; `error` is the last reason for a pause."""

    end: float = 0.0
    error: SourceError | None = None
    refusals: int = 0
    last_status: str | None = None

    def pause(self, error: SourceError, end: float) -> None:
        if end > self.end:
            self.end, self.error = end, error


class RetryPolicy:
    """One per source, shared by all calls of the source."""

    def __init__(
        self,
        source: str,
        *,
        metrics: RetryMetrics | None = None,
        real_seconds: Callable[[float], float] = lambda exchange_s: exchange_s,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Close the circuit.

        Args:
            source: name of the source.
            metrics: counters of the source.
            real_seconds: converts seconds of exchange time (`clients.clock.Clock`).
            monotonic: real seconds.
        """
        self.source = source
        self._metrics = metrics or NoMetrics()
        self._real_seconds = real_seconds
        self._monotonic = monotonic
        self._shared = _Circuit()
        self._circuits: dict[tuple[str, str], _Circuit] = {}

    def is_refused(self, operation: str = QUOTES) -> bool:
        """Whether the source's last response to the operation was a refusal."""
        return self._circuit(operation).refusals > 0

    async def call(
        self, ask: Callable[[float], Awaitable[T]], budget_s: float, operation: str = QUOTES, market: str = ""
    ) -> Outcome[T]:
        """Call the source, with retries; raises nothing.

        Args:
            ask: sends the request; its argument is the time left, in real seconds.
            budget_s: real seconds for all attempts together.
            operation: what is requested; a refusal concerns one operation, a Retry-After the whole source.
            market: symbol of a request for a single market.
        """
        circuit, now = self._circuit(operation), self._monotonic()
        waiting = max(circuit, self._circuit(operation, market), self._shared, key=lambda one: one.end)
        if now < waiting.end and waiting.error is not None:
            left = f"not requested for another {waiting.end - now:.3g} s"
            return Outcome(waiting.error.kind, detail=f"{waiting.error}; {left}")
        outcome = await self._attempts(ask, now + budget_s, budget_s, operation, market)
        if outcome.status == SourceStatus.BAD_REQUEST:
            circuit = self._circuit(operation, market)
        self._log_change(outcome, circuit, f"{operation} {market}".strip())
        return outcome

    def _circuit(self, operation: str, market: str = "") -> _Circuit:
        return self._circuits.setdefault((operation, market), _Circuit())

    async def _attempts(
        self, ask: Callable[[float], Awaitable[T]], deadline: float, budget_s: float, operation: str, market: str
    ) -> Outcome[T]:
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
                    value = await ask(max(deadline - self._monotonic(), 0.001))
                    self._close(operation, market)
                    return Outcome(SourceStatus.OK, value)
        except RetryableSourceError as last:
            error = reported or last
            detail = str(error)
            if error.retry_after_s is not None:
                wait_s = self._real_seconds(error.retry_after_s)
                self._shared.pause(error, self._monotonic() + wait_s)
                self._metrics.paused(operation, wait_s, error)
                detail += f"; not requested for {wait_s:.3g} s ({error.retry_after_s:g} s of exchange time)"
            else:
                self._metrics.paused(operation, 0.0, error)
            return Outcome(error.kind, detail=detail)
        except FatalSourceError as error:
            return Outcome(error.kind, detail=f"{error}; {self._refuse(error, operation, market)}")
        except Exception as error:
            if self._circuit(operation).last_status != SourceStatus.UNEXPECTED:  # once, not at each poll
                log.exception("%s: unexpected error", self.source)
            return Outcome(SourceStatus.UNEXPECTED, detail=repr(error))
        raise AssertionError("stamina ends with a result or an error")

    def _close(self, operation: str, market: str) -> None:
        self._circuit(operation).refusals = 0
        if market and (own := self._circuits.pop((operation, market), None)) and own.refusals:
            log.info("%s %s %s: responds again", self.source, operation, market)
        self._metrics.paused(operation, 0.0)

    def _refuse(self, error: FatalSourceError, operation: str, market: str) -> str:
        """Open the circuit of an operation; concurrent requests that are refused together count once."""
        circuit, now = (
            self._circuit(operation, market if error.kind == SourceStatus.BAD_REQUEST else ""),
            self._monotonic(),
        )
        if now >= circuit.end:
            circuit.refusals += 1
            wait_s = self._real_seconds(refusal_pause_s(circuit.refusals))
            circuit.pause(error, now + wait_s)
            if circuit is self._circuit(operation):
                self._metrics.paused(operation, wait_s, error)
        return f"not requested for {circuit.end - now:.3g} s"

    def _pause(self, error: RetryableSourceError, left_s: float) -> bool | float:
        """Seconds to wait before the next attempt, True for stamina's backoff, False for no further attempt."""
        wait_s = 0.0 if error.retry_after_s is None else self._real_seconds(error.retry_after_s)
        if left_s <= wait_s:
            return False
        self._metrics.retried(error.kind)
        return True if error.retry_after_s is None else wait_s

    def _log_change(self, outcome: Outcome[T], circuit: _Circuit, what: str) -> None:
        if outcome.status == circuit.last_status:
            return
        if outcome.status != SourceStatus.OK:
            log.warning("%s %s: %s: %s", self.source, what, outcome.status, outcome.detail)
        elif circuit.last_status is not None:
            log.info("%s %s: responds again", self.source, what)
        circuit.last_status = outcome.status
