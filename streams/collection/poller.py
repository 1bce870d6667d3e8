"""Poll every source at each instant of the exchange's minute grid and publish one tick per market.

The ticks of a poll carry the grid's instant. Polls never overlap. For a market that no source lists, one tick is
published, which the clean agent refuses, and then none until a source has data for it; each such poll is counted.

Every instant without a tick on the topic is counted by reason and logged: an instant that passes during a poll when it
passes, an instant without a leader when the next leader starts.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from aiokafka.errors import KafkaError

from exchanges.interface import PollResult, QuoteSource
from exchanges.retry_policy import RetryPolicy
from marketdata.codec import encode
from marketdata.errors import BitcoinDataError
from marketdata.markets import Market
from marketdata.records import Tick
from marketdata.times import floor_to, to_rfc3339
from marketdata.vocabulary import SourceStatus
from streams.collection.ports import NewestTick, Publisher, SleepingClock, no_previous_tick
from streams.collection.tick_builder import Bounds, Polled, build_tick, invalid_quotes
from streams.metrics import Metrics

log = logging.getLogger(__name__)

BUDGET_SHARE = 0.5  # of the interval: limit for a poll with its retries; a later response would not fit its instant
_SUMMARY_S = 60.0  # real seconds between two log lines
_SOONEST_S = 0.001  # the event loop's own resolution

SKIPPED = {
    "late": "the previous poll was still running",
    "undelivered": "Kafka had not accepted the previous poll's ticks",
    "failed": "the poll or its delivery failed; the error follows",
    "no_leader": "no worker led or ran, or no source had any market",
}
"""Reasons for an instant without a poll: label of the counter, and description for the log."""


class Collector:
    """Polls once (`collect`) or at every instant of the grid (`run`).

    Args:
        markets: to collect.
        sources: to poll.
        disabled: names of the sources that the settings disable.
        retry_policies: of each source, by its name.
        clock: event time.
        metrics: the worker's.
        publish: delivers records.
        topic: of the ticks.
        interval_ms: between two instants of the grid.
        bounds: flagging thresholds.
        newest: finds the newest polled tick on the topic; by default instants before the first poll are unknown.
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
        self._through_ms = 0  # instants up to this one are published or counted as skipped
        for reason in SKIPPED:
            metrics.skipped_polls.labels(reason)  # export 0 from the start
        self._summary: Counter[str] = Counter()
        self._logged_at = 0.0
        self._refused: frozenset[tuple[str, str, str]] = frozenset()
        self._absent: frozenset[str] = frozenset()  # markets that no source lists, whose single tick was published

    async def collect(self, instant_ms: int, budget_s: float) -> list[Tick]:
        """Poll all sources for one instant and publish the ticks.

        A source that fails leaves its fields null and sets its status.

        Args:
            instant_ms: event time, on the grid.
            budget_s: real seconds for all requests and retries of a source.

        Returns:
            The ticks of all markets; those of unlisted markets may not have been published.
        """
        outcomes = await asyncio.gather(*(self._poll(source, budget_s) for source in self._sources))
        polled = {source.name: outcome for source, outcome in zip(self._sources, outcomes, strict=True)}
        polled.update({name: Polled(SourceStatus.DISABLED) for name in self._disabled})
        ticks = [build_tick(market, instant_ms, polled, self._bounds) for market in self._markets]
        absent = self._absent_now(ticks, polled)
        published = [tick for tick in ticks if tick.symbol not in absent & self._absent]
        self._publishing = True
        try:
            await self._publish(self._topic, [(tick.symbol.encode(), encode(tick), ()) for tick in published])
        finally:
            self._publishing = False
        self._log_absent(absent)
        self._metrics.polls.inc()
        self._metrics.collected.inc(len(published))
        for tick in published:
            self._metrics.count_flags(tick)
        self._summary["ticks"] += len(published)
        self._summary["polls"] += 1
        return ticks

    async def run(self, is_leader: Callable[[], bool]) -> None:
        """Collect at every instant of the grid while this worker leads, until cancelled."""
        next_ms: int | None = None
        lookups: set[asyncio.Task[None]] = set()
        try:
            while True:
                starts = next_ms is None
                if next_ms is None:
                    next_ms = floor_to(self._clock.now_ms(), self._interval_ms) + self._interval_ms
                await self._clock.sleep_until(next_ms)
                if self._clock.now_ms() < next_ms:  # the clock was set back: its instants count from here
                    self._through_ms = 0
                    next_ms = None
                    continue
                if not is_leader():
                    next_ms = None
                    continue
                instant_ms = floor_to(self._clock.now_ms(), self._interval_ms)
                if starts:
                    lookup = asyncio.create_task(self._count_missed_before(next_ms, self._through_ms))
                    lookups.add(lookup)
                    lookup.add_done_callback(lookups.discard)
                self._skip(next_ms, instant_ms, "late")
                await self._collect_watched(instant_ms)
                self._log_summary()
                next_ms = max(self._through_ms, instant_ms) + self._interval_ms
        finally:
            for task in lookups:
                task.cancel()

    async def _collect_watched(self, instant_ms: int) -> None:
        """Collect, and count each instant that passes meanwhile when it passes.

        Raises:
            Exception: from the publisher; this instant is then counted as failed.
        """
        budget_s = self._clock.real_seconds(self._interval_ms / 1000) * BUDGET_SHARE
        work = asyncio.create_task(self.collect(instant_ms, budget_s))
        self._through_ms = max(self._through_ms, instant_ms)
        first_ms = next_ms = instant_ms + self._interval_ms
        reason = "late"
        try:
            while not work.done():
                # The next instant can still be polled if this poll ends before the instant after it.
                left_ms = next_ms + self._interval_ms - self._clock.now_ms()
                await asyncio.wait({work}, timeout=max(self._clock.real_seconds(left_ms / 1000), _SOONEST_S))
                last_ms = floor_to(self._clock.now_ms(), self._interval_ms)
                if not work.done() and last_ms > next_ms:
                    reason = "undelivered" if self._publishing else "late"
                    self._skip(next_ms, last_ms, reason, logged=next_ms > first_ms)  # a single line per delay
                    next_ms = last_ms
            if next_ms > first_ms + self._interval_ms:
                self._log_skipped(first_ms, next_ms, f"{SKIPPED[reason]}; polling resumes")
            work.result()
        except Exception:
            self._skip(instant_ms, instant_ms + self._interval_ms, "failed")
            raise
        finally:
            work.cancel()

    def _skip(self, from_ms: int, to_ms: int, reason: str, *, logged: bool = False) -> None:
        """Count the instants of [from_ms, to_ms), and log them unless the delay is `logged` already."""
        count = (to_ms - from_ms) // self._interval_ms
        if count <= 0:
            return
        self._through_ms = max(self._through_ms, to_ms - self._interval_ms)
        self._metrics.skipped_polls.labels(reason).inc(count)
        self._summary["skipped"] += count
        if not logged:
            self._log_skipped(from_ms, to_ms, SKIPPED[reason])

    def _log_skipped(self, from_ms: int, to_ms: int, description: str) -> None:
        count = (to_ms - from_ms) // self._interval_ms
        log.warning("skipped %d polls from %s on: %s", count, to_rfc3339(from_ms), description)

    async def _count_missed_before(self, first_ms: int, through_ms: int) -> None:
        """Count the instants between the newest poll of any leader and this leader's first one."""
        try:
            newest_ms = await self._newest(first_ms)
        except (BitcoinDataError, KafkaError) as error:
            log.warning("unknown number of missed polls before %s: %s", to_rfc3339(first_ms), error)
            return
        known_ms = max(newest_ms or 0, through_ms)
        if known_ms:
            self._skip(floor_to(known_ms, self._interval_ms) + self._interval_ms, first_ms, "no_leader")

    async def _poll(self, source: QuoteSource, budget_s: float) -> Polled:
        async def ask(timeout_s: float) -> PollResult:
            return await source.poll(self._markets, timeout_s)

        outcome = await self._retry_policies[source.name].call(ask, budget_s)
        received_ms = self._clock.now_ms()
        up = outcome.status == SourceStatus.OK
        self._metrics.source_up.labels(source.name).set(up)
        if not up or outcome.value is None:
            self._metrics.source_errors.labels(source.name, outcome.status).inc()
            self._summary[f"{source.name} {outcome.status}"] += 1
            return Polled(outcome.status)
        self._count_refused(source.name, outcome.value)
        return Polled(SourceStatus.OK, outcome.value, received_ms)

    def _count_refused(self, name: str, result: PollResult) -> None:
        invalid = invalid_quotes(result)
        if invalid:
            self._metrics.source_errors.labels(name, SourceStatus.INVALID).inc(len(invalid))
        wrong = frozenset((name, symbol, error.field) for symbol, error in invalid.items())
        for symbol, error in sorted(invalid.items()):
            if (name, symbol, error.field) not in self._refused:  # once, not at each poll
                log.warning("refused a source's data: %s %s: %s", name, symbol, error)
        self._refused = frozenset(one for one in self._refused if one[0] != name) | wrong

    def _absent_now(self, ticks: Sequence[Tick], polled: Mapping[str, Polled]) -> frozenset[str]:
        """Return the markets without data although every available source responded, until they have data again.

        A quote that will be refused counts as data: it is published, to become a dead letter. Nulls, and the zeros of a
        halted market, do not.
        """
        answered = {name for name, outcome in polled.items() if outcome.status == SourceStatus.OK}
        is_whole = bool(answered) and all(
            name in answered or name in self._disabled or self._retry_policies[name].is_refused() for name in polled
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

    def _log_absent(self, absent: frozenset[str]) -> None:
        for symbol in absent:
            self._metrics.absent.labels(symbol).inc()
        if new := sorted(absent - self._absent):
            log.warning("no source has data for %s: one tick is published, further polls are counted", ", ".join(new))
        if back := sorted(self._absent - absent):
            log.info("a source has data for %s again", ", ".join(back))
        self._absent = absent

    def _log_summary(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._logged_at < _SUMMARY_S:
            return
        self._logged_at = now
        log.info("collected: %s", ", ".join(f"{count} {what}" for what, count in self._summary.items()))
        self._summary.clear()
