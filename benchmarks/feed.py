"""Synthetic ticks for the benchmarks, sent as fast as the broker accepts them or at a given rate.

A market's ticks always go to the same partition.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Self

import msgspec
from aiokafka import AIOKafkaProducer

from clients.kafka.connection import client_options
from config import Settings
from config.sections import KafkaSettings
from marketdata.codec import encode
from marketdata.records import SourceState, Tick
from marketdata.times import HOUR_MS, MINUTE_MS, to_rfc3339

START_MS = 1_722_816_000_000  # 2024-08-05
MARKETS = 100
PER_SECOND = 10  # default ticks per market and second of event time

Payload = tuple[int, bytes, bytes]
"""Number of the market, key, value."""
_INTERVAL_S = 0.01
_BATCH_BYTES = 500_000


def symbol(market: int) -> str:
    return f"M{market:04d}-USD"


def full_tick(market: int, timestamp_ms: int, number: int) -> Tick:
    """Return a tick with every field that the collector fills, about 720 bytes."""
    timestamp = to_rfc3339(timestamp_ms)
    state = SourceState(status="ok", observed_at=timestamp, received_at=timestamp, staleness_ms=0)
    bid = 60_000 + number % 977 * 0.01
    return Tick(
        symbol=symbol(market),
        tick_id=Tick.make_id(symbol(market), timestamp),
        timestamp=timestamp,
        quote="USD",
        price=bid,
        price_usd=bid,
        volume_24h=1.5e10,
        market_cap=1.2e12,
        price_change_24h=-12.5,
        price_change_percentage_24h=-0.2,
        high_24h=6.1e4,
        low_24h=5.9e4,
        trade_timestamp=timestamp,
        bid_price=bid,
        bid_qty=1.25,
        ask_price=bid + 0.5,
        ask_qty=2.5,
        sources={"binance": state, "coingecko": state},
    )


def _whole(market: int, timestamp_ms: int, number: int) -> bytes:
    return encode(full_tick(market, timestamp_ms, number))


def _small(market: int, timestamp_ms: int, number: int) -> bytes:
    """The same tick without sources and 24 h statistics, about 340 bytes, as from a feed of quotes."""
    timestamp, bid = to_rfc3339(timestamp_ms), 60_000 + number % 977 * 0.01
    return msgspec.json.encode(
        {
            "symbol": symbol(market),
            "schema_version": 1,
            "tick_id": Tick.make_id(symbol(market), timestamp),
            "timestamp": timestamp,
            "quote": "USD",
            "price": bid,
            "price_usd": bid,
            "volume_24h": 1.5e10,
            "market_cap": 1.2e12,
            "trade_timestamp": timestamp,
            "bid_price": bid,
            "bid_qty": 1.25,
            "ask_price": bid + 0.5,
            "ask_qty": 2.5,
        }
    )


def steady(
    count: int, *, markets: int = MARKETS, whole: bool = False, start_ms: int = START_MS, step_ms: int | None = None
) -> Iterator[Payload]:
    """Yield `count` ticks, round-robin over the markets; the ticks of one market are `step_ms` apart."""
    make = _whole if whole else _small
    step = 1000 // PER_SECOND if step_ms is None else step_ms
    for number in range(count):
        market = number % markets
        yield market, symbol(market).encode(), make(market, start_ms + number // markets * step, number)


def a_day(markets: int) -> Iterator[Payload]:
    """Yield a day of event time that fills the slots of all windows: every 10 min, in the last hour every minute."""
    rare = 24 * 6 - 6
    yield from steady(rare * markets, markets=markets, step_ms=10 * MINUTE_MS)
    yield from steady(60 * markets, markets=markets, start_ms=START_MS + 23 * HOUR_MS, step_ms=MINUTE_MS)


class Feeder:
    """Sends payloads in record batches. An async context manager."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._partitions = kafka.partitions
        self._producer = AIOKafkaProducer(**client_options(kafka), max_batch_size=_BATCH_BYTES)

    async def __aenter__(self) -> Self:
        await self._producer.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._producer.stop()

    async def send(self, topic: str, payloads: Iterator[Payload]) -> int:
        """Send all payloads, wait for the acknowledgements, and return their number."""
        batches = {partition: self._producer.create_batch() for partition in range(self._partitions)}
        counts = dict.fromkeys(batches, 0)
        futures = []
        sent = 0
        for market, key, value in payloads:
            partition = market % self._partitions
            while batches[partition].append(key=key, value=value, timestamp=None) is None:
                futures.append(await self._producer.send_batch(batches[partition], topic, partition=partition))
                batches[partition], counts[partition] = self._producer.create_batch(), 0
            counts[partition] += 1
            sent += 1
        for partition, count in counts.items():
            if count:
                futures.append(await self._producer.send_batch(batches[partition], topic, partition=partition))
        await asyncio.gather(*futures)
        return sent

    async def pace(self, topic: str, rate: int, until: Callable[[], bool], *, markets: int = MARKETS) -> int:
        """Send `rate` ticks per second with current timestamps, every 10 ms, until `until()`; return their number."""
        payloads = steady(10**12, markets=markets, start_ms=int(time.time() * 1000), step_ms=1000 * markets // rate)
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        while not until():
            due = int((loop.time() - began) * rate)
            if due > sent:
                sent += await self.send(topic, islice(payloads, due - sent))
            await asyncio.sleep(_INTERVAL_S)
        return sent


def preload(settings: Settings, topic: str, payloads: Iterator[Payload]) -> int:
    """Publish ticks to an existing topic; return their number."""

    async def run() -> int:
        async with Feeder(settings.kafka) as feeder:
            return await feeder.send(topic, payloads)

    return asyncio.run(run())
