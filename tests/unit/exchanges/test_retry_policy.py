"""The retry policy: retries within the budget, an open circuit, and a stop."""

import pytest

from exchanges.retry_policy import RetryPolicy
from marketdata.errors import FatalSourceError, RetryableSourceError
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
    policy = RetryPolicy("exchange", on_retry=retried.append)
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
        "exchange: rate_limited: no: rate_limited; not requested for 1 s (60 s of exchange time)",
    ]


async def test_a_replay_waits_within_the_poll_when_there_is_time() -> None:
    policy = RetryPolicy("exchange", real_seconds=lambda exchange_s: exchange_s / 60)
    source = ScriptedSource(failing("rate_limited", 0.6), "data")
    assert (await policy.call(source, 0.5)).status == "ok"
    assert source.count == 2


async def test_a_fatal_error_stops_the_source(caplog: pytest.LogCaptureFixture) -> None:
    policy = RetryPolicy("exchange")
    source = ScriptedSource(FatalSourceError("refused for the location", "geo_blocked"))
    for _ in range(3):
        assert (await policy.call(source, 0.5)).status == "geo_blocked"
    assert source.count == 1
    assert [record.getMessage() for record in caplog.records] == [
        "exchange is stopped until the worker is restarted: refused for the location"
    ]


async def test_it_logs_a_change_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    policy = RetryPolicy("exchange")
    source = ScriptedSource("data", failing("timeout"))
    for _ in range(3):
        await policy.call(source, 0.01)
    source.results = ["data"]
    await policy.call(source, 0.01)
    messages = [record.getMessage() for record in caplog.records if record.name == "exchanges.retry_policy"]
    assert messages == ["exchange: timeout: no: timeout", "exchange responds again"]
