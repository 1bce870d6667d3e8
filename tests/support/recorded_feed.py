"""A stream feed whose ticks and candles are kept, for tests against an exchange or a script on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from exchanges.binance.stream import BinanceStream
from exchanges.binance.symbols import Symbols
from marketdata.codec import decode
from marketdata.markets import Market
from marketdata.records import Candle, Tick
from streams.collection.ports import SleepingClock
from streams.collection.streamer import StreamFeed
from streams.collection.tick_builder import Bounds
from streams.kafka.records import OutgoingRecord
from streams.metrics import Metrics
from tests.support.exchange_server import Exchange

PATIENCE_S = 40.0


class ServerClock:
    """The clock of the simulated exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._clock = exchange.state.clock

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def real_seconds(self, event_s: float) -> float:
        return event_s / max(self._clock.speed, 1e-3)

    async def sleep_until(self, event_ms: int) -> None:
        while self.now_ms() < event_ms:  # noqa: ASYNC110  waits for time itself
            await asyncio.sleep(0.005)


class Fed:
    """A feed and what came out of it."""

    def __init__(
        self, url: str, clock: SleepingClock, markets: Sequence[Market], symbols: Symbols | None = None, **changed: Any
    ) -> None:
        self.metrics = Metrics()
        self.ticks: list[Tick] = []
        self.candles: list[Candle] = []
        self.leads = True
        self.delay_s = 0.0
        self.waiting = 0
        given: dict[str, Any] = {"interval_ms": 1_000, "polls_ms": None, "silence_s": 30.0, "life_ms": 86_400_000}
        self.feed = StreamFeed(
            markets=markets,
            source=BinanceStream(url, markets, symbols),
            clock=clock,
            metrics=self.metrics,
            publish=self.publish,
            topic="cryptoTopic",
            on_candle=self.candles.append,
            bounds=Bounds(),
            others={"coingecko": "not_polled"},
            **(given | changed),
        )

    async def publish(self, topic: str, items: Sequence[OutgoingRecord]) -> None:
        assert topic == "cryptoTopic"
        self.waiting += len(items)
        await asyncio.sleep(self.delay_s)
        self.ticks += [decode(Tick, value) for _key, value, _headers in items if value is not None]

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"bitcoin_stream_{name}", {"source": "binance"} | labels) or 0.0

    def connects(self, reason: str) -> float:
        return self.counted("connects_total", reason=reason)

    def failures(self, kind: str) -> float:
        labels = {"source": "binance", "kind": kind}
        return self.metrics.registry.get_sample_value("bitcoin_source_errors_total", labels) or 0.0

    def paused(self) -> float:
        labels = {"source": "binance", "operation": "stream"}
        return self.metrics.registry.get_sample_value("bitcoin_source_pause_seconds", labels) or 0.0

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():  # noqa: ASYNC110  any condition
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pytest.fail(f"not within {PATIENCE_S} s: {what}; {self.metrics.exposition().decode()}")


@asynccontextmanager
async def feeding(fed: Fed) -> AsyncIterator[Fed]:
    task = asyncio.create_task(fed.feed.run(lambda: fed.leads))
    try:
        yield fed
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
