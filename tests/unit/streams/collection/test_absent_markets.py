"""Markets that no source lists: published once, then counted until a source has data."""

from collections.abc import Callable

import pytest

from exchanges.interface import PollResult, Quote
from marketdata.errors import ConfigurationError, RetryableSourceError
from streams.metrics import Metrics
from tests.support.fake_clock import FakeClock
from tests.support.scripted_collector import (
    START_MS,
    Published,
    Source,
    collector,
    counted,
    prices,
    quotes,
    refuses,
)


def nothing() -> PollResult:
    return PollResult({})


async def polls(
    published: Published, metrics: Metrics, *answers: tuple[Callable[[], PollResult], ...]
) -> list[list[str]]:
    """Symbols published by each poll, with the given responses of the sources."""
    sources = [Source(name, nothing) for name in ("coingecko", "binance")]
    polling = collector(FakeClock(START_MS, speed=60), published, metrics, *sources)
    for n, answer in enumerate(answers):
        for source, one in zip(sources, answer, strict=True):
            source.answer = one
        await polling.collect(START_MS + n * 60_000, 1.0)
    return [[tick.symbol for tick in ticks] for ticks in published.batches]


async def test_a_market_without_a_source_is_published_once_until_one_lists_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails() -> PollResult:
        raise RetryableSourceError("slow", "timeout")

    def euros() -> PollResult:
        return PollResult({**prices().quotes, "BTC-EUR": Quote({"price": 90.0}, None)})

    def no_price() -> PollResult:
        return PollResult({**prices().quotes, "BTC-EUR": Quote({"price": None}, None)})

    metrics = Metrics()
    usd, both = ["BTC-USD"], ["BTC-USD", "BTC-EUR"]
    assert await polls(
        Published(leave_after=99),
        metrics,
        (fails, quotes),  # unknown whether CoinGecko lists it
        (fails, quotes),
        (prices, quotes),
        (prices, quotes),
        (no_price, nothing),
        (fails, quotes),  # no change for that market; the others show the outage
        (euros, quotes),
        (prices, quotes),
        (prices, quotes),
    ) == [both, both, both, usd, usd, usd, both, both, usd]
    assert counted(metrics, "bitcoin_absent_market_polls_total", symbol="BTC-EUR") == 6
    assert counted(metrics, "bitcoin_absent_market_polls_total", symbol="BTC-USD") == 0
    assert counted(metrics, "bitcoin_collected_ticks_total") == 14
    assert caplog.text.count("no source has data for BTC-EUR: one tick is published") == 2


async def test_a_market_of_a_deferred_request_is_not_absent() -> None:
    def searches() -> PollResult:
        return PollResult(quotes().quotes, deferred=frozenset({"BTC-EUR"}))

    def found() -> PollResult:
        return PollResult(quotes().quotes, unknown=frozenset({"BTC-EUR"}))

    metrics = Metrics()
    usd, both = ["BTC-USD"], ["BTC-USD", "BTC-EUR"]
    polled = await polls(Published(leave_after=99), metrics, *((prices, one) for one in (searches, searches, found)))
    assert (polled, counted(metrics, "bitcoin_absent_market_polls_total", symbol="BTC-EUR")) == ([both] * 3, 1)
    metrics = Metrics()
    polled = await polls(Published(leave_after=99), metrics, *((prices, one) for one in (found, searches, found)))
    assert polled == [both, usd, usd]  # absent until there is data: a later search without result changes nothing
    assert counted(metrics, "bitcoin_absent_market_polls_total", symbol="BTC-EUR") == 3


@pytest.mark.parametrize(
    ("fields", "times"),
    [
        ({"bid_price": 101.0, "ask_price": 99.0}, 3),
        ({"bid_price": 99.0, "ask_price": None}, 3),
        ({"bid_price": 0.0, "ask_price": 101.0}, 3),
        ({"bid_price": 0.0, "ask_price": 0.0}, 1),  # a halted market looks like this
        ({"bid_price": None, "ask_price": None}, 1),
    ],
)
async def test_a_quote_that_will_be_refused_is_published_each_time(fields: dict[str, float | None], times: int) -> None:
    def odd() -> PollResult:
        return PollResult({**quotes().quotes, "BTC-EUR": Quote(fields, None)})

    polled = await polls(Published(leave_after=99), Metrics(), *((prices, odd) for _poll in range(3)))
    assert sum("BTC-EUR" in symbols for symbols in polled) == times


async def test_a_source_that_refuses_does_not_keep_a_market_listed() -> None:
    polled = await polls(Published(leave_after=99), Metrics(), (refuses, quotes), (refuses, quotes))
    assert polled == [["BTC-USD", "BTC-EUR"], ["BTC-USD"]]


async def test_the_tick_of_an_absent_market_that_was_not_delivered_is_published_again() -> None:
    def lost() -> None:
        if len(published.batches) == 1:
            raise ConfigurationError("kafka.brokers: no broker answers")

    published = Published(leave_after=99, then=lost)
    polling = collector(FakeClock(START_MS, speed=60), published, Metrics(), Source("coingecko", prices))
    with pytest.raises(ConfigurationError):
        await polling.collect(START_MS, 1.0)
    await polling.collect(START_MS + 60_000, 1.0)
    await polling.collect(START_MS + 120_000, 1.0)
    assert [len(ticks) for ticks in published.batches] == [2, 2, 1]
