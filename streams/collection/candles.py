"""Publish each market's closed one-minute candles once: those of the stream, and the others by request.

Whenever this worker starts to lead, it reads the tail of the topic, so a restart, a crash or a change of the leader
causes neither gaps nor duplicates. Missing minutes, at the end or in between, are requested again
(`streams.collection.candle_gaps`).
"""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence

from clients.kafka.reader import SkippedRecords, TopicReader, ignore_skipped
from config.sections import KafkaSettings
from exchanges.interface import CandleSource
from exchanges.retry_policy import CANDLES, RetryPolicy
from marketdata import candle_rules
from marketdata.codec import encode
from marketdata.markets import Market
from marketdata.records import Candle
from marketdata.times import HOUR_MS, MINUTE_MS, floor_to, to_rfc3339
from streams.collection.candle_gaps import Minutes
from streams.collection.ports import Publisher, SleepingClock
from streams.collection.refused_rows import Refused, RefusedRows
from streams.metrics import Metrics

log = logging.getLogger(__name__)

DELAY_MS = 3_000  # of exchange time after the minute; the exchange closes a candle slightly late
STREAMED_DELAY_MS = 30_000  # with a stream: only candles that it has not sent by then are requested
BUDGET_SHARE = 0.8  # of a minute: limit for the requests of all markets
INSIDE_MS = 2 * HOUR_MS  # before a market's newest candle: missing minutes in this range are requested after a start
_TAILS = (200, 5_000, 50_000, None)  # records to read from the end of a partition; None: all
_CONCURRENT_MARKETS = 16  # requests that a refusal can still meet before the circuit opens
_MAX_PENDING = 20_000  # candles of the stream; those dropped beyond it are requested


PublishedMinutes = Callable[[Sequence[str], int], Awaitable[dict[str, Minutes]]]
"""Read the minutes on the topic of the given symbols; candles that end after the given event time (ms) are ignored."""


class CandleCollector:
    """Publishes the candles of all markets.

    `_minutes` holds each market's minutes on the topic; None until they are read.

    Args:
        markets: to collect.
        source: of the candles.
        retry_policy: of the source.
        clock: event time.
        metrics: the worker's.
        publish: delivers records.
        topic: of the candles.
        dead_letters: topic of the dead letters of invalid rows.
        published: reads the minutes on the topic.
        lookback_ms: of event time; where a market without candles on the topic starts.
        delay_ms: of event time; requests are sent this long after each minute.
    """

    def __init__(
        self,
        *,
        markets: Sequence[Market],
        source: CandleSource,
        retry_policy: RetryPolicy,
        clock: SleepingClock,
        metrics: Metrics,
        publish: Publisher,
        topic: str,
        dead_letters: str,
        published: PublishedMinutes,
        lookback_ms: int,
        delay_ms: int = DELAY_MS,
    ) -> None:
        self._markets = markets
        self._source = source
        self._retry_policy = retry_policy
        self._clock = clock
        self._metrics = metrics
        self._publish = publish
        self._topic = topic
        self._refused = RefusedRows(source.name, publish, dead_letters, metrics)
        self._published = published
        self._lookback_ms = lookback_ms
        self._delay_ms = delay_ms
        self._minutes: dict[str, Minutes] | None = None
        self._pending: deque[Candle] = deque(maxlen=_MAX_PENDING)
        self._arrived = asyncio.Event()

    def add(self, candle: Candle) -> None:
        """Queue a closed candle of the stream; it is published soon, unless it is on the topic already."""
        self._pending.append(candle)
        self._arrived.set()

    async def run(self, is_leader: Callable[[], bool]) -> None:
        """Publish while this worker leads, until cancelled."""
        self._minutes = None
        while True:
            if not is_leader():
                self._minutes = None
                self._pending.clear()
                await self._clock.sleep_until(floor_to(self._clock.now_ms(), MINUTE_MS) + MINUTE_MS)
                continue
            await self.fetch()
            minute_ms = floor_to(self._clock.now_ms() - self._delay_ms, MINUTE_MS)
            await self._publish_pending_until(minute_ms + MINUTE_MS + self._delay_ms, is_leader)

    async def fetch(self) -> int:
        """Request and publish every market's missing closed candles; return their number."""
        minutes = await self._load()
        budget_s = self._clock.real_seconds(MINUTE_MS / 1000) * BUDGET_SHARE
        deadline = asyncio.get_running_loop().time() + budget_s
        slots = asyncio.Semaphore(_CONCURRENT_MARKETS)

        async def fetch_market(market: Market) -> int:
            async with slots:
                return await self._market(market, minutes[market.symbol], deadline)

        counts = await asyncio.gather(*(fetch_market(market) for market in self._markets))
        return sum(counts)

    async def publish_pending(self) -> int:
        """Publish the queued candles that are not on the topic; return their number."""
        minutes = await self._load()
        pending = list(self._pending)
        self._pending.clear()
        fresh = [candle for candle in pending if minutes[candle.symbol].take(candle.open_time_ms)]
        await self._send(fresh)
        return len(fresh)

    async def _load(self) -> dict[str, Minutes]:
        if self._minutes is None:
            symbols = [market.symbol for market in self._markets]
            known = await self._published(symbols, self._clock.now_ms() + HOUR_MS)
            if known:
                oldest = min(minutes.next_ms for minutes in known.values())
                log.info("resuming candles of %d markets at %s", len(known), to_rfc3339(oldest))
            first_ms = floor_to(self._clock.now_ms() - self._lookback_ms, HOUR_MS)
            self._minutes = {symbol: known.get(symbol) or Minutes(first_ms) for symbol in symbols}
        return self._minutes

    async def _publish_pending_until(self, event_ms: int, is_leader: Callable[[], bool]) -> None:
        over = asyncio.create_task(self._clock.sleep_until(event_ms))
        try:
            while not over.done():
                while self._pending and is_leader():
                    await self.publish_pending()
                self._arrived.clear()
                arrived = asyncio.create_task(self._arrived.wait())
                try:
                    await asyncio.wait({over, arrived}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    arrived.cancel()
            over.result()
        finally:
            over.cancel()

    async def _market(self, market: Market, minutes: Minutes, deadline: float) -> int:
        count = given_up = 0
        while starts := minutes.due(now_ms := self._clock.now_ms()):
            start_ms = starts[0]
            budget_s = deadline - asyncio.get_running_loop().time()
            if budget_s <= 0:
                break  # the next minute's requests continue

            refused: list[Refused] = []

            async def request(
                timeout_s: float, start_ms: int = start_ms, now_ms: int = now_ms, refused: list[Refused] = refused
            ) -> list[Candle]:
                refused.clear()  # of an earlier attempt
                return await self._source.candles(
                    market, start_ms, now_ms, timeout_s, lambda row, error: refused.append((row, error))
                )

            outcome = await self._retry_policy.call(request, budget_s, CANDLES, market.symbol)
            if outcome.value is None:
                self._metrics.source_errors.labels(self._source.name, outcome.status).inc()
                break
            page = outcome.value
            fresh = [candle for candle in page if candle.open_time_ms >= start_ms and minutes.take(candle.open_time_ms)]
            await self._send(fresh)
            count += len(fresh)
            await self._refused.publish(market, refused, now_ms)
            if not page or len(page) + len(refused) < self._source.candles_per_call:
                given_up += minutes.mark_requested(start_ms, now_ms, now_ms)
                break
            given_up += minutes.mark_requested(start_ms, max(page[-1].open_time_ms, start_ms) + MINUTE_MS, now_ms)
        if given_up:
            self._metrics.candles_given_up.inc(given_up)
            log.info("%s: %s has no candle for %d minutes", market.symbol, self._source.name, given_up)
        return count

    async def _send(self, candles: Sequence[Candle]) -> None:
        if candles:
            await self._publish(self._topic, [(one.symbol.encode(), encode(one), ()) for one in candles])
            self._metrics.candles.inc(len(candles))


async def published_minutes(
    kafka: KafkaSettings,
    topic: str,
    symbols: Sequence[str],
    latest_ms: int,
    *,
    on_skipped: SkippedRecords = ignore_skipped,
) -> dict[str, Minutes]:
    """Read the minutes on the topic of each symbol that has a candle there; gaps of its last `INSIDE_MS` are open.

    Candles that break a rule are ignored, and so are those that end after `latest_ms`, because a single one far in the
    future would end the market's candles.

    Args:
        kafka: the brokers.
        topic: of the candles.
        symbols: of the markets.
        latest_ms: event time well after the clock's, which may have started slightly behind.
        on_skipped: see `TopicReader`.

    Raises:
        ConfigurationError: no broker answers.
    """
    async with TopicReader(kafka, topic, on_skipped=on_skipped) as reader:
        starts = await reader.starts()
        found: defaultdict[str, set[int]] = defaultdict(set)
        spans: dict[int, tuple[int, int]] = {}
        async for tail, froms, ends in reader.backwards(_TAILS):
            async for record, candle in reader.decoded(
                Candle, froms, ends, check=lambda candle: candle_rules.check(candle, latest_ms)
            ):
                open_ms = candle.open_time_ms
                found[candle.symbol].add(open_ms)
                low, high = spans.get(record.partition, (open_ms, open_ms))
                spans[record.partition] = (min(low, open_ms), max(high, open_ms))
            whole = {tp.partition for tp in froms if froms[tp] == starts[tp]}
            covered = all(high - low >= INSIDE_MS for part, (low, high) in spans.items() if part not in whole)
            if found.keys() >= set(symbols) and (covered or tail == _TAILS[-2]):
                break
        return {symbol: Minutes.known(found[symbol], INSIDE_MS) for symbol in symbols if symbol in found}
