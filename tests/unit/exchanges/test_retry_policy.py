"""The retry policy: retries inside the budget, an open circuit, a stop for good; and the poll plan against budgets."""

from collections.abc import Callable

import pytest

from exchanges.interface import Budget, Cost
from exchanges.retry_policy import RetryPolicy
from marketdata.errors import FatalSourceError, RetryableSourceError
from marketdata.markets import Market
from streams.sources.poll_budget import exceeded, plan_warnings


class Asked:
    """A scripted source; each entry is an answer or an error."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.count = 0

    async def __call__(self, _timeout_s: float) -> object:
        self.count += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def failing(kind: str, retry_after_s: float | None = None) -> RetryableSourceError:
    return RetryableSourceError(f"no: {kind}", kind, retry_after_s)


async def test_it_asks_again_and_tells_each_time() -> None:
    retried: list[str] = []
    retry_policy = RetryPolicy("exchange", on_retry=retried.append)
    asked = Asked(failing("timeout"), failing("server_error"), "data")
    outcome = await retry_policy.call(asked, 0.5)
    assert (outcome.status, outcome.value) == ("ok", "data")
    assert retried == ["timeout", "server_error"]


async def test_it_gives_up_within_the_budget_with_the_kind() -> None:
    retry_policy = RetryPolicy("exchange")
    asked = Asked(failing("bad_payload"))
    outcome = await retry_policy.call(asked, 0.05)
    assert (outcome.status, outcome.value) == ("bad_payload", None)
    assert 1 <= asked.count <= 4


async def test_a_last_attempt_cut_short_does_not_hide_the_refusal_before_it() -> None:
    retry_policy = RetryPolicy("exchange")
    outcome = await retry_policy.call(Asked(failing("server_error"), failing("timeout")), 0.05)
    assert outcome.status == "server_error"


async def test_a_short_retry_after_is_waited_for() -> None:
    retry_policy = RetryPolicy("exchange")
    asked = Asked(failing("rate_limited", 0.01), "data")
    assert (await retry_policy.call(asked, 0.5)).status == "ok"
    assert asked.count == 2


async def test_an_error_that_is_none_of_a_sources_is_an_outcome_and_its_traceback_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    retry_policy = RetryPolicy("exchange")
    asked = Asked(ZeroDivisionError("of its own"))
    for _poll in range(2):
        outcome = await retry_policy.call(asked, 0.5)
        assert (outcome.status, outcome.value) == ("unexpected", None)
    assert asked.count == 2  # never again within a poll
    assert caplog.text.count("Traceback") == 1
    assert (await retry_policy.call(Asked("data"), 0.5)).status == "ok"


def clocked() -> tuple[list[float], Callable[[], float]]:
    now = [0.0]
    return now, lambda: now[0]


async def test_a_long_retry_after_opens_the_circuit_until_then() -> None:
    now, monotonic = clocked()
    retry_policy = RetryPolicy("exchange", monotonic=monotonic)
    asked = Asked(failing("banned", 120.0), "data")
    assert (await retry_policy.call(asked, 0.5)).status == "banned"
    now[0] = 119.0
    outcome = await retry_policy.call(asked, 0.5)
    assert (outcome.status, asked.count) == ("banned", 1)
    assert "left alone for 1 s more" in outcome.detail
    now[0] = 120.0
    assert (await retry_policy.call(asked, 0.5)).status == "ok"


async def test_a_replay_waits_a_retry_after_in_the_exchanges_time(caplog: pytest.LogCaptureFixture) -> None:
    now, monotonic = clocked()
    retry_policy = RetryPolicy("exchange", real_seconds=lambda exchange_s: exchange_s / 60, monotonic=monotonic)
    asked = Asked(failing("rate_limited", 60.0), "data")
    assert (await retry_policy.call(asked, 0.5)).status == "rate_limited"
    now[0] = 0.75
    assert "left alone for 0.25 s more" in (await retry_policy.call(asked, 0.5)).detail
    now[0] = 1.0
    assert (await retry_policy.call(asked, 0.5)).status == "ok"
    assert caplog.messages == [
        "exchange: rate_limited: no: rate_limited; left alone for 1 s (60 s of exchange time)",
    ]


async def test_a_replay_waits_inside_the_poll_where_there_is_time() -> None:
    retry_policy = RetryPolicy("exchange", real_seconds=lambda exchange_s: exchange_s / 60)
    asked = Asked(failing("rate_limited", 0.6), "data")
    assert (await retry_policy.call(asked, 0.5)).status == "ok"
    assert asked.count == 2


async def test_a_fatal_error_stops_the_source_for_good(caplog: pytest.LogCaptureFixture) -> None:
    retry_policy = RetryPolicy("exchange")
    asked = Asked(FatalSourceError("refused for the location", "geo_blocked"))
    for _ in range(3):
        assert (await retry_policy.call(asked, 0.5)).status == "geo_blocked"
    assert asked.count == 1
    assert [record.getMessage() for record in caplog.records] == [
        "exchange is stopped until the worker is restarted: refused for the location"
    ]


async def test_it_tells_of_a_change_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    retry_policy = RetryPolicy("exchange")
    asked = Asked("data", failing("timeout"))
    for _ in range(3):
        await retry_policy.call(asked, 0.01)
    asked.answers = ["data"]
    await retry_policy.call(asked, 0.01)
    told = [record.getMessage() for record in caplog.records if record.name == "exchanges.retry_policy"]
    assert told == ["exchange: timeout: no: timeout", "exchange answers again"]


def test_the_plan_of_coingeckos_free_key_is_exceeded_by_a_poll_a_minute() -> None:
    budget = Budget(calls_per_minute=30, calls_per_month=10_000)
    assert exceeded("coingecko", budget, Cost(calls=1), 60.0) == [
        "coingecko: the poll plan asks for 43,200 calls a month; allowed are 10,000"
    ]
    assert exceeded("coingecko", budget, Cost(calls=1), 300.0) == []


class Source:
    name = "binance"
    budget = Budget(weight_per_minute=100)
    candles_cost = Cost(calls=1, weight=2)

    def poll_cost(self, _markets: object) -> Cost:
        return Cost(calls=1, weight=4)


def test_candles_count_too_and_a_replays_speed_counts() -> None:
    source = Source()
    markets = [Market("BTC", "USD"), Market("ETH", "USD")]
    assert plan_warnings([source], source, markets, 60.0, 1.0) == []  # type: ignore[list-item,arg-type]
    assert plan_warnings([source], source, markets, 60.0, 60.0) == [  # type: ignore[list-item,arg-type]
        "binance: the poll plan asks for 480 weight a minute; allowed are 100"
    ]
