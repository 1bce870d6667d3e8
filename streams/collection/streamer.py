"""The stream feed: turns the exchange's WebSocket events into one tick per market and interval, and closed candles.

While this worker leads, connections fill a `Conflation`, and the ticks of each interval are published at its end. The
feed waits for delivery; meanwhile intervals get longer instead of queueing. A worker that stops leading publishes its
last interval. Events that are not published (no quote yet, failed delivery, shutdown) are counted.
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

_LEADER_CHECK_S = 0.5  # real seconds between two checks of leadership
_SUMMARY_S = 60.0


class StreamFeed:
    """Publishes the ticks of one source's stream (`run`), and passes its closed candles to `on_candle`."""

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
        open_session: Callable[[], aiohttp.ClientSession] = lambda: aiohttp.ClientSession(trust_env=False),
    ) -> None:
        """Open nothing.

        Args:
            markets: to stream.
            source: of the stream.
            clock: event time.
            metrics: the worker's.
            publish: delivers records.
            topic: of the ticks.
            on_candle: called with each closed candle; must not block.
            interval_ms: that one tick covers.
            polls_ms: interval of the polls of the same markets; None if they are not polled.
            silence_s: see `exchanges.websocket.Connection`, and so for `life_ms`.
            life_ms: of event time.
            bounds: flagging thresholds.
            others: status of the sources that do not contribute to a stream's tick.
            newest: finds the newest streamed tick on the topic.
            open_session: returns a client for the source's connections.
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
        self._open_session = open_session
        self._counting = metrics.stream(source.name)
        self._summary = [0, 0, 0]
        self._logged_at = 0.0
        self._budget = ConnectBudget(source.limits.connects_per_5_min)

    async def probe(self) -> int:
        """Connect and subscribe to all markets once, ignoring events; return the number of connections.

        Raises:
            SourceError: a connection or subscription failed.
        """
        conflation = Conflation(self._markets, self._interval_ms)
        shares = self._shares()
        async with self._open_session() as session:
            for markets in shares:
                await self._connection(markets, conflation, session, lambda _candle: None).probe()
        return len(shares)

    async def run(self, is_leader: Callable[[], bool]) -> None:
        """Publish while this worker leads, until cancelled."""
        while True:
            if is_leader():
                await self._lead(is_leader)
            await asyncio.sleep(_LEADER_CHECK_S)

    async def _lead(self, is_leader: Callable[[], bool]) -> None:
        conflation = Conflation(self._markets, self._interval_ms, self._polls_ms)
        version = self._source.version
        async with self._open_session() as session, asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._connection(markets, conflation, session, self._on_candle).run())
                for markets in self._shares()
            ]
            lookup = group.create_task(self._count_gap_before(self._clock.now_ms()))
            try:
                while is_leader() and self._source.version == version:
                    await self._clock.sleep_until(floor_to(self._clock.now_ms(), self._interval_ms) + self._interval_ms)
                    if is_leader():
                        await self._flush(conflation)
                # Leadership has just ended: the finished interval is complete, and no other worker has its events.
                # Or the streams have other names, and the feed starts again.
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._flush(conflation)
            finally:
                for task in (*tasks, lookup):
                    task.cancel()
                self._count_lost(conflation.rest(), "this worker stopped streaming")

    async def _count_gap_before(self, now_ms: int) -> None:
        """Count and log the time since the newest streamed tick on the topic."""
        try:
            newest_ms = await self._newest(now_ms)
        except (BitcoinDataError, KafkaError) as error:
            log.warning("unknown gap of the stream before %s: %s", to_rfc3339(now_ms), error)
            return
        if newest_ms is not None:
            gap_s = (now_ms - newest_ms) / 1000
            self._counting.gap(gap_s)
            log.info("streaming resumes %.3g s after the newest streamed tick, at %s", gap_s, to_rfc3339(newest_ms))

    def _shares(self) -> list[list[Market]]:
        """Split the markets into one list per connection, by the limit of streams per connection."""
        markets = [market for market in self._markets.values() if self._source.streams(market)]
        most = max((len(self._source.streams(market)) for market in markets), default=1)
        each = self._source.limits.streams_per_connection // most
        return [markets[start : start + each] for start in range(0, len(markets), each)]

    def _connection(
        self,
        markets: Sequence[Market],
        conflation: Conflation,
        session: aiohttp.ClientSession,
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
            budget=self._budget,
            metrics=self._counting,
            on_event=on_event,
            on_lost=lambda: conflation.forget_quotes(market.symbol for market in markets),
            on_restart=lambda symbol: conflation.forget_quotes([symbol]),
            silence_s=self._silence_s,
            life_ms=self._life_ms,
        )

    async def _flush(self, conflation: Conflation) -> None:
        """Publish the ended intervals, and wait until they are delivered."""
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
            self._count_lost(intervals, "their ticks were not delivered")
            raise
        updates, trades = sum(one.n_updates for one in intervals), sum(one.n_trades for one in intervals)
        self._counting.ticks(updates, trades)
        self._metrics.collected.inc(len(ticks))
        for tick in ticks:
            self._metrics.count_flags(tick)
        self._log_summary(len(ticks), updates, trades)

    def _count_lost(self, intervals: Sequence[Interval], reason: str) -> None:
        updates, trades = sum(one.n_updates for one in intervals), sum(one.n_trades for one in intervals)
        if updates or trades:
            self._counting.lost(updates, trades)
            log.warning("%d quotes and %d trades of the stream are in no tick: %s", updates, trades, reason)

    def _log_summary(self, *counts: int) -> None:
        self._summary = [total + count for total, count in zip(self._summary, counts, strict=True)]
        now = asyncio.get_running_loop().time()
        if now - self._logged_at < _SUMMARY_S:
            return
        self._logged_at = now
        log.info("streamed: %d ticks of %d quotes and %d trades", *self._summary)
        self._summary = [0, 0, 0]
