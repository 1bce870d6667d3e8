"""Rows of candles that are not valid: left out, counted, logged, and published as dead letters once."""

import base64
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from exchanges.binance.rest import Binance
from exchanges.http import JsonClient
from exchanges.retry_policy import RetryPolicy
from marketdata.codec import decode
from marketdata.markets import Market
from marketdata.records import Candle, DeadLetter
from marketdata.times import MINUTE_MS
from streams.collection.candle_gaps import Minutes
from streams.collection.candles import CandleCollector
from streams.kafka.records import OutgoingRecord
from streams.metrics import Metrics
from tests.support.fake_clock import FakeClock
from tests.support.paths import ROOT
from tests.support.scripted_server import ScriptedServer

BTC, ETH = Market("BTC", "USD"), Market("ETH", "USD")
ROWS: list[list[Any]] = json.loads((ROOT / "tests/data/payloads/klines_short_close_1m.json").read_text())
START_MS = ROWS[0][0]


class Published:
    """Records by topic."""

    def __init__(self) -> None:
        self.records: defaultdict[str, list[bytes]] = defaultdict(list)

    async def __call__(self, topic: str, items: Sequence[OutgoingRecord]) -> None:
        self.records[topic] += [value for _key, value, _headers in items if value is not None]

    @property
    def candles(self) -> list[tuple[str, int]]:
        decoded = [decode(Candle, value) for value in self.records["candles"]]
        return [(candle.symbol, candle.open_time_ms) for candle in decoded]

    @property
    def letters(self) -> list[DeadLetter]:
        return [decode(DeadLetter, value) for value in self.records["dead-letters"]]


def collector(
    server: ScriptedServer, client: httpx.AsyncClient, published: Published, clock: FakeClock, metrics: Metrics
) -> CandleCollector:
    async def on_topic(symbols: Sequence[str], _latest_ms: int) -> dict[str, Minutes]:
        return {symbol: Minutes(START_MS) for symbol in symbols}

    return CandleCollector(
        markets=[BTC, ETH],
        source=Binance(JsonClient("binance", server.url, client), 6000),
        retry_policy=RetryPolicy("binance"),
        clock=clock,
        metrics=metrics,
        publish=published,
        topic="candles",
        dead_letters="dead-letters",
        published=on_topic,
        lookback_ms=0,
    )


async def test_a_short_candle_is_a_dead_letter_and_the_next_one_is_published(
    server: ScriptedServer, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    server.respond(body=ROWS)
    published, clock, metrics = Published(), FakeClock(START_MS + 2 * MINUTE_MS, speed=60), Metrics()
    collecting = collector(server, client, published, clock, metrics)
    for _minute in range(4):  # the missing minute is requested again
        await collecting.fetch()
        clock.ms += MINUTE_MS
    assert sorted(published.candles) == [(symbol, START_MS + MINUTE_MS) for symbol in ("BTC-USD", "ETH-USD")]
    letters = sorted(published.letters, key=lambda letter: letter.symbol)
    assert [letter.topic for letter in letters] == ["binance:BTC-USD:1m", "binance:ETH-USD:1m"]
    assert {(letter.offset, letter.reason, letter.field) for letter in letters} == {
        (START_MS, "value", "klines[0].close_time")
    }
    assert json.loads(base64.b64decode(letters[0].payload)) == ROWS[0]
    assert metrics.registry.get_sample_value("bitcoin_source_refused_rows_total", {"source": "binance"}) == 2
    assert caplog.text.count("row left out: klines[0].close_time") == 2


@pytest.mark.parametrize("row", [[], {}, None, "x", [1], [-1, 2], [2**70], [["nested"]], ROWS[0][:8], [START_MS + 1]])
async def test_no_row_stops_the_candles_of_a_market(
    server: ScriptedServer, client: httpx.AsyncClient, row: Any
) -> None:
    server.respond(body=[row, ROWS[1]])
    published, clock, metrics = Published(), FakeClock(START_MS + 2 * MINUTE_MS, speed=60), Metrics()
    assert await collector(server, client, published, clock, metrics).fetch() == 2
    assert len(published.letters) == 2
    assert sorted(published.candles) == [(symbol, START_MS + MINUTE_MS) for symbol in ("BTC-USD", "ETH-USD")]


async def test_a_full_page_with_a_refused_row_is_followed_by_the_next_page(
    server: ScriptedServer, client: httpx.AsyncClient
) -> None:
    rows = [
        [START_MS + at * MINUTE_MS, *ROWS[1][1:6], START_MS + (at + 1) * MINUTE_MS - 1, *ROWS[1][7:]]
        for at in range(1000)
    ]
    rows[500] = rows[500][:3]
    server.respond(body=rows)
    published, clock = Published(), FakeClock(START_MS + 2000 * MINUTE_MS, speed=60)
    await collector(server, client, published, clock, Metrics()).fetch()
    starts = [int(request.query["startTime"]) for request in server.requests if "BTC" in request.query["symbol"]]
    assert starts[:2] == [START_MS, START_MS + 1000 * MINUTE_MS]
