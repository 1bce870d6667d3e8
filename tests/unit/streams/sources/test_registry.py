"""The sources of a worker at a host with other pairs and limits: only its addresses are set."""

import pytest

from config import load_settings
from marketdata.markets import Market
from simulator.history import MarketHistory
from simulator.listing import HOSTS
from streams.collection.build import poll_plan_warnings
from streams.metrics import Metrics
from streams.sources.registry import build_exchanges
from streams.worker.state import WorkerState
from tests.support.exchange_server import DAY, MINUTE_MS, running_exchange, walk
from tests.support.fake_clock import FakeClock


async def test_a_worker_at_binance_us(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = {"BTCUSDT": (walk(DAY, 1440, MINUTE_MS, 60_000.0), walk(DAY, 0, MINUTE_MS, 1.0))}
    async with running_exchange(history=MarketHistory(stored, 7, host=HOSTS["us"])) as exchange:
        monkeypatch.setenv("BDI_BINANCE__BASE_URL", f"{exchange.address}/binance")
        monkeypatch.setenv("BDI_BINANCE__STREAM_URL", f"{exchange.address}/binance".replace("http", "ws"))
        monkeypatch.setenv("BDI_COINGECKO__ENABLED", "false")
        monkeypatch.setenv("BDI_MARKETS", "BTC-USD,ETH-USD")
        monkeypatch.setenv("BDI_STREAMS__FEED", "both")
        settings, clock, metrics = load_settings("local"), FakeClock(0, speed=60.0), Metrics()
        exchanges = build_exchanges(settings, metrics, clock.real_seconds)
        try:
            await exchanges.resolve()
            result = await exchanges.sources[0].poll(settings.parsed_markets, 5.0)
            warnings = poll_plan_warnings(settings, clock, WorkerState(metrics, exchanges))
        finally:
            await exchanges.close()
    assert exchanges.stream is not None
    assert exchanges.stream.streams(Market("BTC", "USD"))[0] == "btcusd@bookTicker"
    assert exchanges.stream.streams(Market("ETH", "USD")) == ()
    assert (set(result.quotes), result.unknown) == ({"BTC-USD"}, {"ETH-USD"})
    labels = {"source": "binance", "symbol": "ETH-USD"}
    assert metrics.registry.get_sample_value("bitcoin_source_unknown_symbols_total", labels) == 1
    assert exchanges.sources[0].budget.weight_per_minute == 1200
    assert warnings == []
