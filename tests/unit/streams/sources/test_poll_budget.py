"""The poll plan against the limits of the sources."""

import pytest

from config import load_settings
from exchanges.interface import Budget, Cost
from marketdata.markets import Market
from streams.collection.build import poll_plan_warnings
from streams.metrics import Metrics
from streams.sources.poll_budget import exceeded, plan_warnings
from streams.sources.registry import build_exchanges
from streams.worker.state import WorkerState
from tests.support.fake_clock import FakeClock


def test_a_poll_per_minute_exceeds_the_free_plan_of_coingecko() -> None:
    budget = Budget(calls_per_minute=30, calls_per_month=10_000)
    assert exceeded("coingecko", budget, Cost(calls=1), 60.0) == [
        "coingecko: the poll plan needs 43,200 calls per month; the limit is 10,000"
    ]
    assert exceeded("coingecko", budget, Cost(calls=1), 300.0) == []


class Source:
    name = "binance"
    budget = Budget(weight_per_minute=100)
    candles_cost = Cost(calls=1, weight=2)

    def poll_cost(self, _markets: object) -> Cost:
        return Cost(calls=1, weight=4)


def test_the_plan_includes_candles_and_the_speed_of_a_replay() -> None:
    source = Source()
    markets = [Market("BTC", "USD"), Market("ETH", "USD")]
    assert plan_warnings([source], source, markets, 60.0, 1.0) == []  # type: ignore[list-item,arg-type]
    assert plan_warnings([source], source, markets, 60.0, 60.0) == [  # type: ignore[list-item,arg-type]
        "binance: the poll plan needs 480 weight per minute; the limit is 100"
    ]


@pytest.mark.parametrize(("enabled", "feed", "n"), [("true", "poll", 1), ("true", "stream", 0), ("false", "poll", 0)])
async def test_coins_without_an_id_are_one_warning_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, enabled: str, feed: str, n: int
) -> None:
    monkeypatch.setenv("BDI_MARKETS", "W-USD,W-EUR,1INCH-USD,BTC-USD")
    monkeypatch.setenv("BDI_FORECASTING__SYMBOLS", "BTC-USD")
    monkeypatch.setenv("BDI_COINGECKO__ENABLED", enabled)
    monkeypatch.setenv("BDI_STREAMS__FEED", feed)
    settings, clock, metrics = load_settings("local"), FakeClock(0), Metrics()
    exchanges = build_exchanges(settings, metrics, clock.real_seconds)
    found = poll_plan_warnings(settings, clock, WorkerState(metrics, exchanges))
    expected = "coingecko: no id of 1INCH, W: these coins are not requested; set coingecko.coin_ids"
    assert found.count(expected) == n
    await exchanges.close()
