"""Polls every source at each instant of the exchange's minute grid and publishes one tick a market.

A poll's ticks carry the grid's instant. Polls never overlap. Of a market that no source has one tick is published, for
the clean agent to refuse, and then none until a source has data of it: each such poll is counted.

Each instant that has no tick on the topic is counted by reason and logged: those that pass while a poll is under way as
they pass, those in which nobody led as soon as somebody does.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from aiokafka.errors import KafkaError

from exchanges.interface import OK, PollResult, QuoteSource
from exchanges.retry_policy import RetryPolicy
from marketdata.codec import encode
from marketdata.errors import BitcoinDataError
from marketdata.markets import Market
from marketdata.records import Tick
from marketdata.times import floor_to, to_rfc3339
from streams.collection.ports import NewestTick, Publisher, SleepingClock, no_previous_tick
from streams.collection.tick_builder import DISABLED, Bounds, Polled, build_tick
from streams.metrics import Metrics

log = logging.getLogger(__name__)

BUDGET_SHARE = 0.5  # of the interval that a poll may take with its retries; an older answer would not be of its instant
_SUMMARY_S = 60.0  # real seconds between two lines of log
_SOONEST_S = 0.001  # the event loop's own resolution

SKIPPED = {
    "late": "the one before ran late",
    "undelivered": "the broker did not take the one before",
    "failed": "it could not be made or delivered; the error follows",
    "no_leader": "no worker led, or none ran, or no source had any market",
}
"""Why an instant has no poll: the label of the counter, and its words."""


class Collector:
    """One poll (`collect`) and the loop of them (`run`).

    `newest` tells of the polls' ticks alone: where it is not given, what happened before this collector is not known.
    """

    def __init__(
        self,
        *,
        markets: Sequence[Market],
        sources: Sequence[QuoteSource],
        disabled: Sequence[str],
        retry_policies: Mapping[str, RetryPolicy],
        clock: SleepingClock,
        metrics: Metrics,
        publish: Publisher,
        topic: str,
        interval_ms: int,
        bounds: Bounds | None = None,
        newest: NewestTick = no_previous_tick,
    ) -> None:
        self._markets = markets
        self._sources = sources
        self._disabled = disabled
        self._retry_policies = retry_policies
        self._clock = clock
        self._metrics = metrics
        self._publish = publish
        self._topic = topic
        self._interval_ms = interval_ms
        self._bounds = bounds or Bounds()
        self._newest = newest
        self._publishing = False
        self._through_ms = 0  # instants up to this one are published, or counted as skipped
        for reason in SKIPPED:
            metrics.skipped_polls.labels(reason)  # there from the start, at 0
        self._told: Counter[str] = Counter()
        self._told_at = 0.0
        self._refused: frozenset[str] = frozenset()
        self._absent: frozenset[str] = frozenset()  # markets that no source has, whose one tick was published

    async def collect(self, instant_ms: int, budget_s: float) -> list[Tick]:
        """Poll all sources for one instant, within `budget_s` real seconds, and publish.

        A source that fails, in whatever way, leaves nulls and its status. All ticks are returned; of a market that no
        source has the first alone is published.
        """
        outcomes = await asyncio.gather(*(self._poll(source, budget_s) for source in self._sources))
        polled = {source.name: outcome for source, outcome in zip(self._sources, outcomes, strict=True)}
        polled.update({name: Polled(DISABLED) for name in self._disabled})
        ticks = [build_tick(market, instant_ms, polled, self._bounds) for market in self._markets]
        absent = self._absent_now(ticks, polled)
        told = [tick for tick in ticks if tick.symbol not in absent & self._absent]
        self._publishing = True
        try:
            await self._publish(self._topic, [(tick.symbol.encode(), encode(tick), ()) for tick in told])
        finally:
            self._publishing = False
        self._note_absent(absent)
        self._metrics.polls.inc()
        self._metrics.collected.inc(len(told))
        for tick in told:
            self._metrics.count_flags(tick)
        self._told["ticks"] += len(told)
        self._told["polls"] += 1
        return ticks

    async def run(self, is_leader: Callable[[], bool]) -> None:
        """Collect at every instant of the grid while this worker leads; for ever."""
        next_ms: int | None = None
        telling: set[asyncio.Task[None]] = set()
        try:
            while True:
                begins = next_ms is None
                if next_ms is None:
                    next_ms = floor_to(self._clock.now_ms(), self._interval_ms) + self._interval_ms
                await self._clock.sleep_until(next_ms)
                if not is_leader():
                    next_ms = None
                    continue
                instant_ms = floor_to(self._clock.now_ms(), self._interval_ms)
                if begins:
                    before = asyncio.create_task(self._tell_before(next_ms, self._through_ms))
                    telling.add(before)
                    before.add_done_callback(telling.discard)
                self._skip(next_ms, instant_ms, "late")
                await self._collect_watched(instant_ms)
                self._tell_sometimes()
                next_ms = max(self._through_ms, instant_ms) + self._interval_ms
        finally:
            for task in telling:
                task.cancel()

    async def _collect_watched(self, instant_ms: int) -> None:
        """Collect, and count the instants that pass meanwhile as they pass, however long that takes.

        Raises:
            Exception: whatever the publisher raises; this instant is counted too then.
        """
        budget_s = self._clock.real_seconds(self._interval_ms / 1000) * BUDGET_SHARE
        work = asyncio.create_task(self.collect(instant_ms, budget_s))
        self._through_ms = max(self._through_ms, instant_ms)
        first_ms = next_ms = instant_ms + self._interval_ms
        reason = "late"
        try:
            while not work.done():
                # The next instant may still be polled, should this poll end before the one after it.
                left_ms = next_ms + self._interval_ms - self._clock.now_ms()
                await asyncio.wait({work}, timeout=max(self._clock.real_seconds(left_ms / 1000), _SOONEST_S))
                last_ms = floor_to(self._clock.now_ms(), self._interval_ms)
                if not work.done() and last_ms > next_ms:
                    reason = "undelivered" if self._publishing else "late"
                    self._skip(next_ms, last_ms, reason, told=next_ms > first_ms)  # one line however long it lasts
                    next_ms = last_ms
            if next_ms > first_ms + self._interval_ms:
                self._tell_skipped(first_ms, next_ms, f"{SKIPPED[reason]}, which has ended now")
            work.result()
        except Exception:
            self._skip(instant_ms, instant_ms + self._interval_ms, "failed")
            raise
        finally:
            work.cancel()

    def _skip(self, from_ms: int, to_ms: int, reason: str, *, told: bool = False) -> None:
        """Count the instants of [from, to), and tell them unless one before is `told`."""
        count = (to_ms - from_ms) // self._interval_ms
        if count <= 0:
            return
        self._through_ms = max(self._through_ms, to_ms - self._interval_ms)
        self._metrics.skipped_polls.labels(reason).inc(count)
        self._told["skipped"] += count
        if not told:
            self._tell_skipped(from_ms, to_ms, SKIPPED[reason])

    def _tell_skipped(self, from_ms: int, to_ms: int, why: str) -> None:
        count = (to_ms - from_ms) // self._interval_ms
        log.warning("skipped %d polls from %s on: %s", count, to_rfc3339(from_ms), why)

    async def _tell_before(self, first_ms: int, through_ms: int) -> None:
        """Tell the instants between the newest poll, whoever made it, and the first one of this leader."""
        try:
            newest_ms = await self._newest(first_ms)
        except (BitcoinDataError, KafkaError) as error:
            log.warning("how long nobody polled before %s is not known: %s", to_rfc3339(first_ms), error)
            return
        known_ms = max(newest_ms or 0, through_ms)
        if known_ms:
            self._skip(floor_to(known_ms, self._interval_ms) + self._interval_ms, first_ms, "no_leader")

    async def _poll(self, source: QuoteSource, budget_s: float) -> Polled:
        async def ask(timeout_s: float) -> PollResult:
            return await source.poll(self._markets, timeout_s)

        outcome = await self._retry_policies[source.name].call(ask, budget_s)
        received_ms = self._clock.now_ms()
        up = outcome.status == OK
        self._metrics.source_up.labels(source.name).set(up)
        if not up or outcome.value is None:
            self._metrics.source_errors.labels(source.name, outcome.status).inc()
            self._told[f"{source.name} {outcome.status}"] += 1
            return Polled(outcome.status)
        self._judge(source.name, outcome.value)
        return Polled(OK, outcome.value, received_ms)

    def _judge(self, name: str, result: PollResult) -> None:
        wrong = frozenset(f"{name} {symbol}: {error}" for symbol, error in result.invalid.items())
        if wrong:
            self._metrics.source_errors.labels(name, "bad_payload").inc(len(wrong))
        for line in sorted(wrong - self._refused):
            log.warning("refused what a source says: %s", line)
        self._refused = frozenset(line for line in self._refused if not line.startswith(f"{name} ")) | wrong

    def _absent_now(self, ticks: Sequence[Tick], polled: Mapping[str, Polled]) -> frozenset[str]:
        """Markets without data though all sources answered that ever will; once so, until there is data again.

        A quote that will be refused is data: it goes on, to be kept as a dead letter. The zeros of a halted market and
        nulls are none.
        """
        answered = {name for name, outcome in polled.items() if outcome.status == OK}
        is_whole = bool(answered) and all(
            name in answered or name in self._disabled or self._retry_policies[name].stopped is not None
            for name in polled
        )
        results = [outcome.result for outcome in polled.values() if outcome.result is not None]
        deferred = frozenset[str]().union(*(result.deferred for result in results))
        return frozenset(
            tick.symbol
            for tick in ticks
            if tick.price is None
            and not tick.bid_price
            and not tick.ask_price
            and ((is_whole and tick.symbol not in deferred) or tick.symbol in self._absent)
        )

    def _note_absent(self, absent: frozenset[str]) -> None:
        for symbol in absent:
            self._metrics.absent.labels(symbol).inc()
        if new := sorted(absent - self._absent):
            log.warning("no source has data of %s: published once, then counted until one has", ", ".join(new))
        if back := sorted(self._absent - absent):
            log.info("a source has data of %s again", ", ".join(back))
        self._absent = absent

    def _tell_sometimes(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told_at < _SUMMARY_S:
            return
        self._told_at = now
        log.info("collected: %s", ", ".join(f"{count} {what}" for what, count in self._told.items()))
        self._told.clear()
