"""A collector of quotes with scripted clock, sources and publisher."""

from collections.abc import Callable, Sequence
from typing import Any

from exchanges.interface import Budget, Cost, PollResult, Quote
from exchanges.retry_policy import RetryPolicy
from marketdata.codec import decode
from marketdata.errors import FatalSourceError, InvalidValueError
from marketdata.markets import Market
from marketdata.records import Tick
from streams.collection.poller import Collector
from streams.kafka.records import OutgoingRecord
from streams.metrics import Metrics
from tests.support.fake_clock import FakeClock

START_MS = 1_722_816_000_000
MARKETS = [Market("BTC", "USD"), Market("BTC", "EUR")]


class Source:
    budget = Budget()

    def __init__(self, name: str, answer: Callable[[], PollResult]) -> None:
        self.name = name
        self.answer = answer

    def poll_cost(self, _markets: Sequence[Market]) -> Cost:
        return Cost(calls=1)

    async def poll(self, _markets: Sequence[Market], timeout_s: float) -> PollResult:
        assert timeout_s > 0
        return self.answer()


def prices() -> PollResult:
    return PollResult({"BTC-USD": Quote({"price": 100.0, "market_cap": None}, START_MS - 1_500)})


def quotes() -> PollResult:
    fields = {"bid_price": 99.0, "bid_qty": 1.0, "ask_price": 101.0, "ask_qty": 2.0}
    return PollResult(
        {"BTC-USD": Quote(fields, None)}, {"BTC-EUR": InvalidValueError("bidPrice", "x", "a decimal number")}
    )


def refuses() -> PollResult:
    raise FatalSourceError("not from here", "geo_blocked")


class Published:
    """Published ticks; `leave_after` ends the collector, which otherwise runs until cancelled."""

    def __init__(self, leave_after: int = 1, then: Callable[[], None] = lambda: None) -> None:
        self.batches: list[list[Tick]] = []
        self._leave_after = leave_after
        self._then = then

    async def __call__(self, topic: str, items: Sequence[OutgoingRecord]) -> None:
        assert topic == "cryptoTopic"
        ticks = [decode(Tick, value) for _key, value, _headers in items]
        assert [key for key, _value, _headers in items] == [tick.symbol.encode() for tick in ticks]
        self.batches.append(ticks)
        self._then()
        if len(self.batches) == self._leave_after:
            raise EndOfScriptError


class EndOfScriptError(BaseException):
    """The script is over; no failure of the publisher, which would be an `Exception`."""


def collector(
    clock: Any, published: Any, metrics: Metrics, *sources: Source, disabled: Sequence[str] = (), **more: Any
) -> Collector:
    given: list[Any] = list(sources)
    return Collector(
        markets=MARKETS,
        sources=given,
        disabled=disabled,
        retry_policies={source.name: RetryPolicy(source.name) for source in sources},
        clock=clock,
        metrics=metrics,
        publish=published,
        topic="cryptoTopic",
        interval_ms=60_000,
        **more,
    )


def counted(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def skipped(metrics: Metrics) -> dict[str, float]:
    """Skipped polls by reason, without zeros."""
    return {
        sample.labels["reason"]: sample.value
        for family in metrics.skipped_polls.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


async def one_poll(*sources: Source, disabled: Sequence[str] = ()) -> tuple[list[Tick], Metrics]:
    metrics, published = Metrics(), Published(leave_after=2)
    await collector(FakeClock(START_MS, speed=60), published, metrics, *sources, disabled=disabled).collect(
        START_MS, 1.0
    )
    return published.batches[0], metrics
