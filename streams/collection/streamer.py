"""The stream feed: what the exchange tells by itself becomes ticks of an interval each, and closed candles.

While this worker leads, connections fill a `Conflation`, and at the end of each interval its ticks are published.
Delivery is waited for; meanwhile the conflation grows wider, not longer. A worker that no longer leads publishes the
interval that it was in; what is not published after all (no quote yet, a failed delivery, the worker's end) is counted.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

import aiohttp
from aiokafka.errors import KafkaError

from exchanges.interface import QuoteUpdate, StreamEvent, StreamSource, TradeUpdate
from exchanges.reconnect import ConnectBudget
from exchanges.websocket import Connection
from marketdata.codec import encode
from marketdata.errors import BitcoinDataError
from marketdata.markets import Market
from marketdata.records import Candle
from marketdata.times import floor_to, to_rfc3339
from streams.collection.conflation import Conflation, Interval
from streams.collection.ports import NewestTick, Publisher, SleepingClock, no_previous_tick
from streams.collection.tick_builder import Bounds, stream_tick
from streams.metrics import Metrics

log = logging.getLogger(__name__)

_LOOK_S = 0.5  # real seconds between two looks whether this worker leads
_TELL_S = 60.0


class StreamFeed:
    """Feeds for ever (`run`); `on_candle` is handed each closed candle as it is told."""

    def __init__(
        self,
        *,
        markets: Sequence[Market],
        source: StreamSource,
        clock: SleepingClock,
        metrics: Metrics,
        publish: Publisher,
        topic: str,
        on_candle: Callable[[Candle], None],
        interval_ms: int,
        polls_ms: int | None,
        silence_s: float,
        life_ms: int,
        bounds: Bounds,
        others: Mapping[str, str],
        newest: NewestTick = no_previous_tick,
    ) -> None:
        """Nothing is opened.

        Args:
            markets: all of them.
            source: tells of them.
            clock: event time.
            metrics: the worker's.
            publish: delivers.
            topic: of ticks.
            on_candle: must not wait.
            interval_ms: that one tick stands for.
            polls_ms: the grid of the polls beside this feed, None where there are none.
            silence_s: see `sockets.Connection`, and so for `life_ms`.
            life_ms: of event time.
            bounds: beyond which a tick is flagged.
            others: status of the sources that a stream's tick has nothing of.
            newest: of the stream's ticks.
        """
        self._markets = {market.symbol: market for market in markets}
        self._source = source
        self._clock = clock
        self._metrics = metrics
        self._publish = publish
        self._topic = topic
        self._on_candle = on_candle
        self._interval_ms = interval_ms
        self._polls_ms = polls_ms
        self._silence_s = silence_s
        self._life_ms = life_ms
        self._bounds = bounds
        self._others = others
        self._newest = newest
        self._counting = metrics.stream(source.name)
        self._told = [0, 0, 0]
        self._told_at = 0.0

    async def probe(self) -> int:
        """Connect and subscribe to all markets once, without taking anything in; how many connections that were.

        Raises:
            SourceError: that does not go.
        """
        conflation = Conflation(self._markets, self._interval_ms)
        budget = ConnectBudget(self._source.limits.connects_per_5_min)
        shares = self._shares()
        async with aiohttp.ClientSession(trust_env=False) as session:
            for markets in shares:
                await self._connection(markets, conflation, session, budget, lambda _candle: None).probe()
        return len(shares)

    async def run(self, is_leader: Callable[[], bool]) -> None:
        """Feed while this worker leads; for ever."""
        while True:
            if is_leader():
                await self._lead(is_leader)
            await asyncio.sleep(_LOOK_S)

    async def _lead(self, is_leader: Callable[[], bool]) -> None:
        conflation = Conflation(self._markets, self._interval_ms, self._polls_ms)
        budget = ConnectBudget(self._source.limits.connects_per_5_min)
        async with aiohttp.ClientSession(trust_env=False) as session, asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._connection(markets, conflation, session, budget, self._on_candle).run())
                for markets in self._shares()
            ]
            before = group.create_task(self._tell_before(self._clock.now_ms()))
            try:
                while is_leader():
                    await self._clock.sleep_until(floor_to(self._clock.now_ms(), self._interval_ms) + self._interval_ms)
                    if is_leader():
                        await self._flush(conflation)
                # It has just ceased to lead: the interval that has ended is whole, and nobody else's.
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await self._flush(conflation)
            finally:
                for task in (*tasks, before):
                    task.cancel()
                self._lose(conflation.rest(), "this worker no longer streams")

    async def _tell_before(self, now_ms: int) -> None:
        """Tell how long nobody streamed, as the topic knows."""
        try:
            newest_ms = await self._newest(now_ms)
        except (BitcoinDataError, KafkaError) as error:
            log.warning("how long nobody streamed before %s is not known: %s", to_rfc3339(now_ms), error)
            return
        if newest_ms is not None:
            gap_s = (now_ms - newest_ms) / 1000
            self._counting.gap(gap_s)
            log.info("streaming goes on %.3g s after the newest streamed tick, of %s", gap_s, to_rfc3339(newest_ms))

    def _shares(self) -> list[list[Market]]:
        """The markets of each connection: as many as its streams allow."""
        markets = list(self._markets.values())
        each = self._source.limits.streams_per_connection // max(len(self._source.streams(markets[0])), 1)
        return [markets[start : start + each] for start in range(0, len(markets), each)]

    def _connection(
        self,
        markets: Sequence[Market],
        conflation: Conflation,
        session: aiohttp.ClientSession,
        budget: ConnectBudget,
        on_candle: Callable[[Candle], None],
    ) -> Connection:
        def on_event(event: StreamEvent) -> None:
            if isinstance(event, QuoteUpdate | TradeUpdate):
                conflation.add(event, self._clock.now_ms())
            elif isinstance(event, Candle):
                on_candle(event)

        return Connection(
            self._source,
            [stream for market in markets for stream in self._source.streams(market)],
            session,
            clock=self._clock,
            budget=budget,
            metrics=self._counting,
            on_event=on_event,
            on_lost=lambda: conflation.forget_quotes(market.symbol for market in markets),
            silence_s=self._silence_s,
            life_ms=self._life_ms,
        )

    async def _flush(self, conflation: Conflation) -> None:
        """Publish what has ended, and wait until it is delivered."""
        intervals = conflation.take(self._clock.now_ms())
        if not intervals:
            return
        ticks = [
            stream_tick(self._markets[one.symbol], one, self._source.name, self._bounds, self._others)
            for one in intervals
        ]
        try:
            await self._publish(self._topic, [(tick.symbol.encode(), encode(tick), ()) for tick in ticks])
        except BaseException:
            self._lose(intervals, "their ticks were not delivered")
            raise
        updates, trades = sum(one.n_updates for one in intervals), sum(one.n_trades for one in intervals)
        self._counting.ticks(updates, trades)
        self._metrics.collected.inc(len(ticks))
        for tick in ticks:
            self._metrics.count_flags(tick)
        self._tell_sometimes(len(ticks), updates, trades)

    def _lose(self, intervals: Sequence[Interval], why: str) -> None:
        updates, trades = sum(one.n_updates for one in intervals), sum(one.n_trades for one in intervals)
        if updates or trades:
            self._counting.lost(updates, trades)
            log.warning("%d quotes and %d trades of the stream are in no tick: %s", updates, trades, why)

    def _tell_sometimes(self, *counts: int) -> None:
        self._told = [known + count for known, count in zip(self._told, counts, strict=True)]
        now = asyncio.get_running_loop().time()
        if now - self._told_at < _TELL_S:
            return
        self._told_at = now
        log.info("streamed: %d ticks of %d quotes and %d trades", *self._told)
        self._told = [0, 0, 0]
