"""The collector on a scripted clock: the grid, skipped polls, and failing sources."""

import asyncio
from collections.abc import Sequence

import pytest

from exchanges.interface import PollResult
from marketdata.errors import ConfigurationError
from marketdata.times import to_rfc3339
from streams.collection.poller import Collector
from streams.kafka.records import OutgoingRecord
from streams.metrics import Metrics
from tests.support.fake_clock import FakeClock, RunningClock
from tests.support.scripted_collector import (
    START_MS,
    EndOfScriptError,
    Published,
    Source,
    collector,
    counted,
    one_poll,
    prices,
    quotes,
    refuses,
    skipped,
)
from tests.support.stack import eventually_async


async def test_both_sources_make_one_tick_a_market() -> None:
    (usd, eur), _metrics = await one_poll(Source("coingecko", prices), Source("binance", quotes))
    assert usd.tick_id == "BTC-USD|2024-08-05T00:00:00.000Z"
    assert (usd.price, usd.price_usd, usd.market_cap, usd.bid_price, usd.ask_qty) == (100.0, 100.0, None, 99.0, 2.0)
    assert usd.sources["coingecko"].staleness_ms == 1_500
    assert usd.sources["binance"].staleness_ms is None
    assert (eur.price, eur.bid_price) == (None, None)
    assert {name: state.status for name, state in eur.sources.items()} == {
        "coingecko": "missing",
        "binance": "invalid",
    }


async def test_an_unexpected_error_of_one_source_does_not_affect_the_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def surprises() -> PollResult:
        raise OverflowError("int too large to convert to float")

    (usd, _eur), metrics = await one_poll(Source("coingecko", surprises), Source("binance", quotes))
    assert (usd.price, usd.bid_price) == (None, 99.0)
    assert {name: state.status for name, state in usd.sources.items()} == {"coingecko": "unexpected", "binance": "ok"}
    assert counted(metrics, "bitcoin_source_errors_total", source="coingecko", kind="unexpected") == 1
    assert "Traceback" in caplog.text
    assert "in surprises" in caplog.text


async def test_a_source_that_fails_leaves_nulls_and_its_status() -> None:
    (usd, _eur), metrics = await one_poll(Source("coingecko", refuses), Source("binance", quotes))
    assert (usd.price, usd.bid_price) == (None, 99.0)
    assert usd.sources["coingecko"].status == "geo_blocked"
    assert usd.sources["binance"].status == "ok"
    assert counted(metrics, "bitcoin_source_errors_total", source="coingecko", kind="geo_blocked") == 1


async def test_ticks_are_published_when_all_sources_fail() -> None:
    ticks, _metrics = await one_poll(Source("coingecko", refuses), disabled=["binance"])
    assert [(tick.price, tick.bid_price) for tick in ticks] == [(None, None)] * 2
    assert {name: state.status for name, state in ticks[0].sources.items()} == {
        "coingecko": "geo_blocked",
        "binance": "disabled",
    }


async def test_polls_keep_to_the_grid() -> None:
    clock, metrics = FakeClock(START_MS + 12_345, speed=60), Metrics()
    published = Published(leave_after=3)
    with pytest.raises(EndOfScriptError):
        await collector(clock, published, metrics, Source("coingecko", prices)).run(lambda: True)
    assert [batch[0].timestamp for batch in published.batches] == [
        to_rfc3339(START_MS + minute * 60_000) for minute in (1, 2, 3)
    ]
    assert skipped(metrics) == {}


async def test_instants_during_a_slow_poll_are_skipped_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, metrics = FakeClock(START_MS, speed=60), Metrics()

    def slow() -> PollResult:
        clock.ms += 150_000
        return prices()

    published = Published(leave_after=2)
    with pytest.raises(EndOfScriptError):
        await collector(clock, published, metrics, Source("coingecko", slow)).run(lambda: True)
    assert [batch[0].timestamp for batch in published.batches] == [
        to_rfc3339(START_MS + 60_000),
        to_rfc3339(START_MS + 180_000),
    ]
    assert skipped(metrics) == {"late": 1}
    assert "skipped 1 polls from 2024-08-05T00:02:00.000Z on" in caplog.text


async def test_polls_continue_when_the_clock_is_set_back() -> None:
    class SetBack(FakeClock):
        async def sleep_until(self, event_ms: int) -> None:
            await super().sleep_until(event_ms)
            if len(published.batches) == 2 and self.ms > START_MS:
                self.ms = START_MS - 3_600_000 + 5_000

    clock, metrics = SetBack(START_MS, speed=60), Metrics()
    published = Published(leave_after=4)
    with pytest.raises(EndOfScriptError):
        await collector(clock, published, metrics, Source("coingecko", prices)).run(lambda: True)
    assert [batch[0].timestamp for batch in published.batches] == [
        to_rfc3339(START_MS + minute * 60_000) for minute in (1, 2, -59, -58)
    ]
    assert skipped(metrics) == {}


async def test_only_the_leader_polls() -> None:
    clock, metrics = FakeClock(START_MS, speed=60), Metrics()
    published = Published()
    with pytest.raises(EndOfScriptError):
        await collector(clock, published, metrics, Source("coingecko", prices)).run(
            lambda: clock.ms >= START_MS + 240_000
        )
    assert published.batches[0][0].timestamp == to_rfc3339(START_MS + 240_000)
    assert skipped(metrics) == {}


async def test_instants_are_counted_while_the_broker_is_down(caplog: pytest.LogCaptureFixture) -> None:
    metrics, taken = Metrics(), asyncio.Event()

    async def away(_topic: str, _items: Sequence[OutgoingRecord]) -> None:
        await taken.wait()

    one = collector(RunningClock(START_MS, speed=6_000), away, metrics, Source("coingecko", prices))
    running = asyncio.create_task(one.run(lambda: True))

    async def counted_already() -> bool:
        return skipped(metrics).get("undelivered", 0) >= 3

    await eventually_async(counted_already, 10, "instants counted while the first poll is not delivered", every_s=0.01)
    assert counted(metrics, "bitcoin_polls_total") == 0
    taken.set()

    async def again() -> bool:
        return counted(metrics, "bitcoin_polls_total") >= 2

    await eventually_async(again, 10, "polls after it", every_s=0.01)
    running.cancel()
    lines = [record.getMessage() for record in caplog.records if "had not accepted" in record.getMessage()]
    assert lines[0].endswith("on: Kafka had not accepted the previous poll's ticks")
    assert lines[1].endswith("; polling resumes")  # two lines per outage
    assert len(lines) == 2


async def test_a_poll_that_could_not_be_published_is_counted() -> None:
    metrics = Metrics()

    async def refuses_it(_topic: str, _items: Sequence[OutgoingRecord]) -> None:
        raise OSError("the broker is gone")

    with pytest.raises(OSError, match="the broker is gone"):
        await collector(FakeClock(START_MS, speed=60), refuses_it, metrics, Source("coingecko", prices)).run(
            lambda: True
        )
    assert skipped(metrics) == {"failed": 1}


async def run_until_logged(one: Collector, published: Published, caplog: pytest.LogCaptureFixture) -> None:
    """Run until the missed polls are logged and the first poll is published, which happen concurrently."""
    running = asyncio.create_task(one.run(lambda: True))

    async def logged() -> bool:
        return "no worker led" in caplog.text and bool(published.batches)

    await eventually_async(logged, 10, "the instants before this leader", every_s=0.01)
    running.cancel()


async def test_a_new_leader_counts_the_instants_since_the_newest_poll(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics, asked = Metrics(), list[int]()

    async def newest(before_ms: int) -> int | None:
        asked.append(before_ms)
        return START_MS - 180_000

    published = Published(leave_after=1_000_000)
    one = collector(
        RunningClock(START_MS + 1, speed=6_000), published, metrics, Source("coingecko", prices), newest=newest
    )
    await run_until_logged(one, published, caplog)
    assert asked[0] <= published.batches[0][0].timestamp_ms  # a busy machine may miss the first instant
    missed = (asked[0] - START_MS) // 60_000 + 2
    assert skipped(metrics)["no_leader"] == missed
    assert f"skipped {missed} polls from {to_rfc3339(START_MS - 120_000)} on: no worker led" in caplog.text


async def test_instants_without_any_leader_are_counted_by_a_worker_that_leads_again() -> None:
    """The newest poll on the topic is one of its own."""
    clock, metrics = FakeClock(START_MS, speed=60), Metrics()

    async def newest(before_ms: int) -> int | None:
        return max(
            (batch[0].timestamp_ms for batch in published.batches if batch[0].timestamp_ms < before_ms), default=None
        )

    published = Published(leave_after=4)
    away = range(START_MS + 120_001, START_MS + 300_000)
    with pytest.raises(EndOfScriptError):
        await collector(clock, published, metrics, Source("coingecko", prices), newest=newest).run(
            lambda: clock.ms not in away
        )
    assert [batch[0].timestamp for batch in published.batches] == [
        to_rfc3339(START_MS + minute * 60_000) for minute in (1, 2, 5, 6)
    ]
    assert skipped(metrics) == {"no_leader": 2}


async def test_polling_continues_if_the_newest_poll_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    metrics, published = Metrics(), Published(leave_after=3)

    async def newest(_before_ms: int) -> int | None:
        raise ConfigurationError("kafka.brokers: no broker answers")

    with pytest.raises(EndOfScriptError):
        await collector(
            FakeClock(START_MS, speed=60), published, metrics, Source("coingecko", prices), newest=newest
        ).run(lambda: True)
    assert (
        "unknown number of missed polls before 2024-08-05T00:01:00.000Z: kafka.brokers: no broker answers"
        in caplog.text
    )
    assert skipped(metrics) == {}
