"""The retry policy: retries within the budget, pauses after Retry-After and after refusals."""

import asyncio

import pytest

from exchanges.retry_policy import CANDLES, QUOTES, NoMetrics, RetryPolicy
from marketdata.errors import FatalSourceError, RetryableSourceError, SourceError
from tests.support.fake_clock import FakeClock


class ScriptedSource:
    """A source that returns or raises `results` one after another, the last one forever."""

    def __init__(self, *results: object) -> None:
        self.results = list(results)
        self.count = 0

    async def __call__(self, _timeout_s: float) -> object:
        self.count += 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result


def failing(kind: str, retry_after_s: float | None = None) -> RetryableSourceError:
    return RetryableSourceError(f"no: {kind}", kind, retry_after_s)


async def test_it_retries_and_reports_each_retry() -> None:
    retried: list[str] = []
    metrics = NoMetrics()
    metrics.retried = retried.append  # type: ignore[method-assign]
    policy = RetryPolicy("exchange", metrics=metrics)
    source = ScriptedSource(failing("timeout"), failing("server_error"), "data")
    outcome = await policy.call(source, 0.5)
    assert (outcome.status, outcome.value) == ("ok", "data")
    assert retried == ["timeout", "server_error"]


async def test_it_gives_up_within_the_budget_and_reports_the_kind() -> None:
    policy = RetryPolicy("exchange")
    source = ScriptedSource(failing("bad_payload"))
    outcome = await policy.call(source, 0.05)
    assert (outcome.status, outcome.value) == ("bad_payload", None)
    assert 1 <= source.count <= 4


async def test_a_last_attempt_cut_by_the_budget_does_not_hide_an_earlier_refusal() -> None:
    policy = RetryPolicy("exchange")
    outcome = await policy.call(ScriptedSource(failing("server_error"), failing("timeout")), 0.05)
    assert outcome.status == "server_error"


async def test_a_short_retry_after_is_waited_for() -> None:
    policy = RetryPolicy("exchange")
    source = ScriptedSource(failing("rate_limited", 0.01), "data")
    assert (await policy.call(source, 0.5)).status == "ok"
    assert source.count == 2


async def test_an_unexpected_error_is_an_outcome_and_its_traceback_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = RetryPolicy("exchange")
    source = ScriptedSource(ZeroDivisionError("unexpected"))
    for _poll in range(2):
        outcome = await policy.call(source, 0.5)
        assert (outcome.status, outcome.value) == ("unexpected", None)
    assert source.count == 2  # no retry within a poll
    assert caplog.text.count("Traceback") == 1
    assert (await policy.call(ScriptedSource("data"), 0.5)).status == "ok"


async def test_a_long_retry_after_opens_the_circuit_until_then() -> None:
    clock = FakeClock()
    policy = RetryPolicy("exchange", monotonic=clock.monotonic)
    source = ScriptedSource(failing("banned", 120.0), "data")
    assert (await policy.call(source, 0.5)).status == "banned"
    clock.now_s = 119.0
    outcome = await policy.call(source, 0.5)
    assert (outcome.status, source.count) == ("banned", 1)
    assert "not requested for another 1 s" in outcome.detail
    clock.now_s = 120.0
    assert (await policy.call(source, 0.5)).status == "ok"


async def test_a_replay_waits_for_a_retry_after_in_exchange_time(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    policy = RetryPolicy("exchange", real_seconds=lambda exchange_s: exchange_s / 60, monotonic=clock.monotonic)
    source = ScriptedSource(failing("rate_limited", 60.0), "data")
    assert (await policy.call(source, 0.5)).status == "rate_limited"
    clock.now_s = 0.75
    assert "not requested for another 0.25 s" in (await policy.call(source, 0.5)).detail
    clock.now_s = 1.0
    assert (await policy.call(source, 0.5)).status == "ok"
    assert caplog.messages == [
        "exchange quotes: rate_limited: no: rate_limited; not requested for 1 s (60 s of exchange time)",
    ]


async def test_a_replay_waits_within_the_poll_when_there_is_time() -> None:
    policy = RetryPolicy("exchange", real_seconds=lambda exchange_s: exchange_s / 60)
    source = ScriptedSource(failing("rate_limited", 0.6), "data")
    assert (await policy.call(source, 0.5)).status == "ok"
    assert source.count == 2


class Pauses(NoMetrics):
    """The last pause, and the error that lasts, by operation."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.errors: dict[str, SourceError | None] = {}

    def paused(self, operation: str, pause_s: float, error: SourceError | None = None) -> None:
        assert error is not None or pause_s == 0
        assert not isinstance(error, FatalSourceError) or pause_s > 0
        self.seconds[operation], self.errors[operation] = pause_s, error


def refusal(kind: str = "forbidden") -> FatalSourceError:
    return FatalSourceError("refused", kind)


async def test_a_source_that_cannot_be_reached_is_reported_until_it_responds() -> None:
    pauses = Pauses()
    policy = RetryPolicy("exchange", metrics=pauses)
    unreachable = RetryableSourceError("no such host", "connection")
    source = ScriptedSource(unreachable)
    assert (await policy.call(source, 0.05)).status == "connection"
    assert (pauses.seconds[QUOTES], pauses.errors[QUOTES]) == (0.0, unreachable)
    source.results = ["data"]
    assert (await policy.call(source, 0.05)).status == "ok"
    assert (pauses.seconds[QUOTES], pauses.errors[QUOTES]) == (0.0, None)


@pytest.mark.parametrize("kind", ["forbidden", "unauthorised", "geo_blocked", "bad_request"])
async def test_refusals_open_the_circuit_for_growing_pauses_and_never_for_good(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    clock, pauses = FakeClock(), Pauses()
    policy = RetryPolicy("exchange", metrics=pauses, monotonic=clock.monotonic)
    source = ScriptedSource(refusal(kind))
    waited = []
    for count in range(1, 20):
        assert (await policy.call(source, 0.5)).status == kind
        assert source.count == count
        outcome = await policy.call(source, 0.5)
        assert (outcome.status, source.count) == (kind, count)
        assert "refused; not requested for another" in outcome.detail
        assert policy.is_refused()
        waited.append(pauses.seconds[QUOTES])
        clock.now_s += waited[-1]
    longest = [min(30.0 * 2**n, 3600.0) for n in range(19)]
    assert all(most / 2 <= pause <= most for pause, most in zip(waited, longest, strict=True))
    assert len(set(waited)) == len(waited)  # jittered
    source.results = ["data"]
    assert (await policy.call(source, 0.5)).status == "ok"
    assert (policy.is_refused(), pauses.seconds[QUOTES]) == (False, 0.0)
    source.results = [refusal(kind)]
    await policy.call(source, 0.5)
    assert pauses.seconds[QUOTES] <= 30.0
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(";")[0] for message in messages] == [
        f"exchange quotes: {kind}: refused",
        "exchange quotes: responds again",
        f"exchange quotes: {kind}: refused",
    ]


async def test_requests_that_are_refused_together_count_once_and_a_replay_pauses_in_exchange_time() -> None:
    clock, pauses = FakeClock(), Pauses()
    policy = RetryPolicy("exchange", metrics=pauses, real_seconds=lambda s: s / 60, monotonic=clock.monotonic)

    async def refuse(_timeout_s: float) -> object:
        await asyncio.sleep(0)
        raise refusal()

    await asyncio.gather(*(policy.call(refuse, 0.5) for _request in range(10)))
    assert 0.25 <= pauses.seconds[QUOTES] <= 0.5


async def test_a_refusal_concerns_one_operation_and_a_bad_request_one_market() -> None:
    clock = FakeClock()
    policy = RetryPolicy("exchange", monotonic=clock.monotonic)
    refused, data = ScriptedSource(refusal("bad_request")), ScriptedSource("data")
    assert (await policy.call(refused, 0.5, CANDLES, "X-USD")).status == "bad_request"
    assert (await policy.call(refused, 0.5, CANDLES, "X-USD")).status == "bad_request"
    assert refused.count == 1
    assert (await policy.call(data, 0.5, CANDLES, "BTC-USD")).status == "ok"
    assert (await policy.call(ScriptedSource(refusal()), 0.5, CANDLES, "BTC-USD")).status == "forbidden"
    assert (await policy.call(data, 0.5, CANDLES, "ETH-USD")).status == "forbidden"
    assert (await policy.call(data, 0.5)).status == "ok"
    assert (policy.is_refused(CANDLES), policy.is_refused()) == (True, False)


async def test_it_logs_a_change_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    policy = RetryPolicy("exchange")
    source = ScriptedSource("data", failing("timeout"))
    for _ in range(3):
        await policy.call(source, 0.01)
    source.results = ["data"]
    await policy.call(source, 0.01)
    messages = [record.getMessage() for record in caplog.records if record.name == "exchanges.retry_policy"]
    assert messages == ["exchange quotes: timeout: no: timeout", "exchange quotes: responds again"]
