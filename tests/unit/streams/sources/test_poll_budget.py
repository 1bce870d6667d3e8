"""The poll plan against the limits of the sources."""

from exchanges.interface import Budget, Cost
from marketdata.markets import Market
from streams.sources.poll_budget import exceeded, plan_warnings


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
