"""The collector on a scripted clock: the grid, what is skipped, and what a failing source leaves."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from marketdata.codec import decode
from marketdata.errors import FatalSourceError, InvalidValueError
from marketdata.markets import Market
from marketdata.records import Tick
from marketdata.times import to_rfc3339
from streams.batching import Item
from streams.collector import Collector
from streams.metrics import Metrics
from streams.sources.contracts import Budget, Cost, Quote, Reading
from streams.sources.guard import Guard

START_MS = 1_722_816_000_000
MARKETS = [Market("BTC", "USD"), Market("BTC", "EUR")]


class ScriptedClock:
    """Time that passes only where the script says so."""

    def __init__(self, now_ms: int) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def real_seconds(self, event_s: float) -> float:
        return event_s / 60

    async def sleep_until(self, event_ms: int) -> None:
        self.ms = max(self.ms, event_ms)
        await asyncio.sleep(0)


class Source:
    budget = Budget()

    def __init__(self, name: str, answer: Callable[[], Reading]) -> None:
        self.name = name
        self.answer = answer

    def poll_cost(self, _markets: Sequence[Market]) -> Cost:
        return Cost(calls=1)

    async def poll(self, _markets: Sequence[Market], timeout_s: float) -> Reading:
        assert timeout_s > 0
        return self.answer()


def prices() -> Reading:
    return Reading({"BTC-USD": Quote({"price": 100.0, "market_cap": None}, START_MS - 1_500)})


def quotes() -> Reading:
    fields = {"bid_price": 99.0, "bid_qty": 1.0, "ask_price": 101.0, "ask_qty": 2.0}
    return Reading(
        {"BTC-USD": Quote(fields, None)}, {"BTC-EUR": InvalidValueError("bidPrice", "x", "a decimal number")}
    )


def refuses() -> Reading:
    raise FatalSourceError("not from here", "geo_blocked")


class Published:
    """What went out; `leave_after` ends the collector, which otherwise goes on for ever."""

    def __init__(self, leave_after: int = 1, then: Callable[[], None] = lambda: None) -> None:
        self.batches: list[list[Tick]] = []
        self._leave_after = leave_after
        self._then = then

    async def __call__(self, topic: str, items: Sequence[Item]) -> None:
        assert topic == "cryptoTopic"
        ticks = [decode(Tick, value) for _key, value, _headers in items]
        assert [key for key, _value, _headers in items] == [tick.symbol.encode() for tick in ticks]
        self.batches.append(ticks)
        self._then()
        if len(self.batches) == self._leave_after:
            raise EndOfScriptError


class EndOfScriptError(Exception):
    """The script is over."""


def collector(
    clock: ScriptedClock, published: Published, metrics: Metrics, *sources: Source, disabled: Sequence[str] = ()
) -> Collector:
    given: list[Any] = list(sources)
    return Collector(
        markets=MARKETS,
        sources=given,
        disabled=disabled,
        guards={source.name: Guard(source.name) for source in sources},
        clock=clock,
        metrics=metrics,
        publish=published,
        topic="cryptoTopic",
        interval_ms=60_000,
    )


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def one_poll(*sources: Source, disabled: Sequence[str] = ()) -> tuple[list[Tick], Metrics]:
    metrics, published = Metrics(), Published(leave_after=2)
    await collector(ScriptedClock(START_MS), published, metrics, *sources, disabled=disabled).collect(START_MS, 1.0)
    return published.batches[0], metrics


async def test_both_sources_make_one_tick_a_market() -> None:
    (usd, eur), _metrics = await one_poll(Source("coingecko", prices), Source("binance", quotes))
    assert usd.tick_id == "BTC-USD|2024-08-05T00:00:00.000Z"
    assert (usd.price, usd.price_usd, usd.market_cap, usd.bid_price, usd.ask_qty) == (100.0, 100.0, None, 99.0, 2.0)
    assert usd.sources["coingecko"].staleness_ms == 1_500
    assert usd.sources["binance"].staleness_ms is None
    assert (eur.price, eur.bid_price) == (None, None)
    assert {name: state.status for name, state in eur.sources.items()} == {
        "coingecko": "missing",
        "binance": "bad_payload",
    }


async def test_a_source_that_fails_leaves_nulls_and_its_status() -> None:
    (usd, _eur), metrics = await one_poll(Source("coingecko", refuses), Source("binance", quotes))
    assert (usd.price, usd.bid_price) == (None, 99.0)
    assert usd.sources["coingecko"].status == "geo_blocked"
    assert usd.sources["binance"].status == "ok"
    assert counted(metrics, "bitcoin_source_errors_total", source="coingecko", kind="geo_blocked") == 1


async def test_when_all_fail_the_ticks_still_go_out() -> None:
    ticks, _metrics = await one_poll(Source("coingecko", refuses), disabled=["binance"])
    assert [(tick.price, tick.bid_price) for tick in ticks] == [(None, None)] * 2
    assert {name: state.status for name, state in ticks[0].sources.items()} == {
        "coingecko": "geo_blocked",
        "binance": "disabled",
    }


async def test_polls_keep_to_the_grid() -> None:
    clock, metrics = ScriptedClock(START_MS + 12_345), Metrics()
    published = Published(leave_after=3)
    with pytest.raises(EndOfScriptError):
        await collector(clock, published, metrics, Source("coingecko", prices)).run(lambda: True)
    assert [batch[0].timestamp for batch in published.batches] == [
        to_rfc3339(START_MS + minute * 60_000) for minute in (1, 2, 3)
    ]
    assert counted(metrics, "bitcoin_skipped_polls_total") == 0


async def test_instants_that_a_slow_poll_ran_over_are_skipped_counted_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, metrics = ScriptedClock(START_MS), Metrics()

    def slow() -> Reading:
        clock.ms += 150_000
        return prices()

    published = Published(leave_after=2)
    with pytest.raises(EndOfScriptError):
        await collector(clock, published, metrics, Source("coingecko", slow)).run(lambda: True)
    assert [batch[0].timestamp for batch in published.batches] == [
        to_rfc3339(START_MS + 60_000),
        to_rfc3339(START_MS + 180_000),
    ]
    assert counted(metrics, "bitcoin_skipped_polls_total") == 1
    assert "skipped 1 polls from 2024-08-05T00:02:00.000Z on" in caplog.text


async def test_only_the_leader_polls() -> None:
    clock, metrics = ScriptedClock(START_MS), Metrics()
    published = Published()
    with pytest.raises(EndOfScriptError):
        await collector(clock, published, metrics, Source("coingecko", prices)).run(
            lambda: clock.ms >= START_MS + 240_000
        )
    assert published.batches[0][0].timestamp == to_rfc3339(START_MS + 240_000)
    assert counted(metrics, "bitcoin_skipped_polls_total") == 0
