"""A backfill that ends before the exchange listed its markets is refused before Spark starts."""

import asyncio

import pytest
from aiohttp import web

from batch.jobs import run
from clients.stop_signals import StopFlag
from config import Settings
from config.sections import BinanceSettings
from marketdata.errors import ArgumentError
from marketdata.times import HOUR_MS, from_rfc3339
from tests.support.scripted_server import ScriptedServer, running_server

END = "2024-08-05T12:00:00Z"
END_MS = from_rfc3339(END)
INVALID = {"code": -1121, "msg": "Invalid symbol."}


class EmptyHdfs:
    """HDFS without tables."""

    def __init__(self, _settings: object) -> None:
        pass

    def wait(self) -> None:
        pass

    def files(self, *_folder: object, **_options: object) -> list[object]:
        return []


class SparkStartedError(Exception):
    pass


def start_spark(*_arguments: object, **_options: object) -> None:
    raise SparkStartedError


def kline(open_ms: int, step_ms: int) -> list[object]:
    return [open_ms, "10", "12", "9", "11", "3.5", open_ms + step_ms - 1, "35", 7, "1", "10", "0"]


async def backfill(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "WebHdfs", EmptyHdfs)
    monkeypatch.setattr(run, "spark_session", start_spark)
    settings = Settings(markets=["BTC-USD", "ETH-USD"], binance=BinanceSettings(base_url=server.url))
    await asyncio.to_thread(
        lambda: run.run_backfill(settings, StopFlag(), hours=48, minutes=0, to_ms=END_MS, archive=None)
    )


@pytest.mark.parametrize("unknown", [[], ["BTCUSDT"]])
async def test_a_range_before_the_listing_is_refused(unknown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        if request.query.get("symbol") in unknown:
            return web.json_response(INVALID, status=400)
        return web.json_response([] if "klines" in request.path else {"symbols": []})

    async with running_server() as server:
        server.handler = respond
        with pytest.raises(ArgumentError) as refused:
            await backfill(server, monkeypatch)
    expected = "--to: '2024-08-05T12:00:00.000Z': expected a time after the exchange listed BTC-USD, ETH-USD"
    assert str(refused.value) == expected
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("listed", ["BTCUSDT", "ETHUSDT"])
async def test_one_listed_market_is_enough(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        if "klines" not in request.path:
            return web.json_response({"symbols": []})
        return web.json_response([kline(END_MS - HOUR_MS, HOUR_MS)] if request.query["symbol"] == listed else [])

    async with running_server() as server:
        server.handler = respond
        with pytest.raises(SparkStartedError):
            await backfill(server, monkeypatch)
