"""Fetches each market's closed one-minute candles and publishes each once, from the last one that is on the topic.

What is on the topic is read from its tail whenever this worker begins to lead, so a restart, a crash or another worker
in between leaves neither a gap nor a second copy. It must never import Faust.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from config.sections import KafkaSettings
from marketdata.codec import decode, encode
from marketdata.errors import DecodeError
from marketdata.markets import Market
from marketdata.records import Candle
from marketdata.times import HOUR_MS, MINUTE_MS, floor_to, to_rfc3339
from streams.collector import Publisher, SleepingClock
from streams.metrics import Metrics
from streams.reading import TopicReader
from streams.sources.contracts import CandleSource
from streams.sources.guard import Guard

log = logging.getLogger(__name__)

DELAY_MS = 3_000  # of exchange time after the minute: the exchange closes a candle a moment late
BUDGET_SHARE = 0.8  # of a minute that all markets' requests may take
_TAILS = (200, 5_000, None)  # records looked at from the end of a partition until every market is found; None: all


class CandleCollector:
    """`last_open_ms` holds the newest published candle of each market, None while the topic was not read."""

    def __init__(
        self,
        *,
        markets: Sequence[Market],
        source: CandleSource,
        guard: Guard,
        clock: SleepingClock,
        metrics: Metrics,
        publish: Publisher,
        kafka: KafkaSettings,
        topic: str,
        lookback_ms: int,
    ) -> None:
        self._markets = markets
        self._source = source
        self._guard = guard
        self._clock = clock
        self._metrics = metrics
        self._publish = publish
        self._kafka = kafka
        self._topic = topic
        self._lookback_ms = lookback_ms
        self._last_open_ms: dict[str, int] | None = None

    async def run(self, is_leader: Callable[[], bool]) -> None:
        """Fetch after every minute while this worker leads; for ever."""
        self._last_open_ms = None
        while True:
            if not is_leader():
                self._last_open_ms = None
                await self._clock.sleep_until(floor_to(self._clock.now_ms(), MINUTE_MS) + MINUTE_MS)
                continue
            await self.fetch()
            minute_ms = floor_to(self._clock.now_ms() - DELAY_MS, MINUTE_MS)
            await self._clock.sleep_until(minute_ms + MINUTE_MS + DELAY_MS)

    async def fetch(self) -> int:
        """Publish every market's closed candles since its last; how many that were."""
        if self._last_open_ms is None:
            self._last_open_ms = await last_open_times(self._kafka, self._topic, [m.symbol for m in self._markets])
            if self._last_open_ms:
                oldest = to_rfc3339(min(self._last_open_ms.values()))
                log.info("candles of %d markets go on after %s", len(self._last_open_ms), oldest)
        budget_s = self._clock.real_seconds(MINUTE_MS / 1000) * BUDGET_SHARE
        counts = await asyncio.gather(*(self._market(market, self._last_open_ms, budget_s) for market in self._markets))
        return sum(counts)

    async def _market(self, market: Market, known: dict[str, int], budget_s: float) -> int:
        count = 0
        while True:
            now_ms = self._clock.now_ms()
            last = known.get(market.symbol)
            start_ms = floor_to(now_ms - self._lookback_ms, HOUR_MS) if last is None else last + MINUTE_MS
            if start_ms + MINUTE_MS > now_ms:
                return count

            async def ask(timeout_s: float, start_ms: int = start_ms, now_ms: int = now_ms) -> list[Candle]:
                return await self._source.candles(market, start_ms, now_ms, timeout_s)

            outcome = await self._guard.call(ask, budget_s)
            if outcome.value is None:
                self._metrics.source_errors.labels(self._source.name, outcome.status).inc()
                return count
            fresh = [candle for candle in outcome.value if candle.open_time_ms >= start_ms]
            if not fresh:
                return count
            await self._publish(self._topic, [(market.symbol.encode(), encode(candle), ()) for candle in fresh])
            known[market.symbol] = fresh[-1].open_time_ms
            count += len(fresh)
            self._metrics.candles.inc(len(fresh))


async def last_open_times(kafka: KafkaSettings, topic: str, symbols: Sequence[str]) -> dict[str, int]:
    """The newest candle's open time (ms) of each symbol that has one on the topic.

    Raises:
        ConfigurationError: the broker does not answer.
    """
    async with TopicReader(kafka, topic) as reader:
        starts = await reader.starts()
        found: dict[str, int] = {}
        for tail in _TAILS:
            froms, ends = await reader.tails(tail)
            found.clear()
            async for record in reader.between(froms, ends):
                try:
                    candle = decode(Candle, record.value)
                except DecodeError:
                    continue  # somebody else's record; readers of the topic refuse it
                found[candle.symbol] = max(found.get(candle.symbol, candle.open_time_ms), candle.open_time_ms)
            if found.keys() >= set(symbols) or froms == starts:
                break
        return {symbol: found[symbol] for symbol in symbols if symbol in found}
