"""Each fault of the simulated exchange has its documented effect on a client."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest

from marketdata.times import HOUR_MS, MINUTE_MS
from simulator.faults import FAULTS
from tests.support.exchange_server import NOON, Exchange, running_exchange
from tests.support.paths import DOCS

BOOK = "/binance/api/v3/ticker/bookTicker"
MARKETS = "/coingecko/api/v3/coins/markets"


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    async with running_exchange(now_ms=NOON + 30_000) as running:
        yield running


async def _raw(exchange: Exchange, path: str) -> tuple[int, str, bytes, str | None]:
    async with exchange.client.get(exchange.address + path) as response:
        kind = response.headers["Content-Type"].partition(";")[0]
        return response.status, kind, await response.read(), response.headers.get("Retry-After")


async def test_429_becomes_418_when_ignored(exchange: Exchange) -> None:
    await exchange.fault("429", match="bookTicker", count=1, retry_after_s=10)
    answers = [await _raw(exchange, BOOK) for _ in range(3)]
    assert [(status, retry) for status, _, _, retry in answers] == [(429, "10"), (429, "10"), (418, "120")]
    assert json.loads(answers[0][2])["code"] == -1003
    await exchange.client.delete(f"{exchange.address}/control/faults")
    assert (await _raw(exchange, BOOK))[0] == 200


async def test_429_ends_after_its_retry_after(exchange: Exchange) -> None:
    await exchange.fault("429", match="bookTicker", count=1, retry_after_s=10)
    assert (await _raw(exchange, BOOK))[0] == 429
    await exchange.clock(advance_ms=10_000)
    assert (await _raw(exchange, BOOK))[0] == 200


@pytest.mark.parametrize(
    ("fault", "status", "kind", "part"),
    [
        ("403", 403, "text/html", b"<html>"),
        ("418", 418, "application/json", b"-1003"),
        ("451", 451, "application/json", b"restricted location"),
        ("500", 500, "application/json", b"-1000"),
        ("502", 502, "text/html", b"Bad Gateway"),
        ("503", 503, "application/json", b"-1001"),
        ("401", 401, "application/json", b"-2015"),
        ("throttled", 429, "text/plain", b"Throttled"),
    ],
)
async def test_binance_refuses(exchange: Exchange, fault: str, status: int, kind: str, part: bytes) -> None:
    await exchange.fault(fault, match="/binance/", count=1)
    answered = await _raw(exchange, BOOK)
    assert answered[:2] == (status, kind)
    assert part in answered[2]
    assert (await _raw(exchange, f"{MARKETS}?vs_currency=usd"))[0] == 200


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        ("429", 429, {"status": {"error_code": 429, "error_message": "You've exceeded the Rate Limit."}}),
        ("500", 500, {"status": {"error_code": 500, "error_message": "Internal Server Error"}}),
    ],
)
async def test_coingecko_refuses_in_its_own_format(exchange: Exchange, fault: str, status: int, body: object) -> None:
    await exchange.fault(fault, match="/coingecko/", retry_after_s=7)
    answered = await _raw(exchange, f"{MARKETS}?vs_currency=usd")
    assert answered[0] == status
    assert json.loads(answered[2]) == body
    assert answered[3] == ("7" if status == 429 else None)
    assert (await _raw(exchange, BOOK))[0] == 200


async def test_coingecko_requires_a_key(exchange: Exchange) -> None:
    await exchange.fault("401", match="/coingecko/")
    status, _, body, _ = await _raw(exchange, f"{MARKETS}?vs_currency=usd")
    assert status == 401
    assert json.loads(body)["error"]["status"]["error_code"] == 10012


async def test_garbage_is_not_json_and_a_cut_response_fails(exchange: Exchange) -> None:
    await exchange.fault("garbage", match=BOOK, count=1)
    status, kind, body, _ = await _raw(exchange, BOOK)
    assert (status, kind) == (200, "application/json")
    with pytest.raises(ValueError, match=r"utf-8|JSON|Expecting"):
        json.loads(body)
    await exchange.fault("cut", match=BOOK, count=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await _raw(exchange, BOOK)
    assert (await _raw(exchange, BOOK))[0] == 200


async def test_a_slow_response_exceeds_the_clients_timeout(exchange: Exchange) -> None:
    await exchange.fault("slow", match=BOOK, delay_s=30, count=1)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(_raw(exchange, BOOK), timeout=0.2)
    assert (await _raw(exchange, BOOK))[0] == 200


async def test_crossed_and_zero_quotes(exchange: Exchange) -> None:
    await exchange.fault("crossed", match="ETHUSDT", count=1)
    _, book, _ = await exchange.get(BOOK, symbol="ETHUSDT")
    assert float(book["bidPrice"]) > float(book["askPrice"])
    await exchange.fault("zero", count=1)
    _, book, _ = await exchange.get(BOOK, symbol="ETHUSDT")
    assert {book[name] for name in ("bidPrice", "bidQty", "askPrice", "askQty")} == {"0.00000000"}
    _, book, _ = await exchange.get(BOOK, symbol="ETHUSDT")
    assert 0 < float(book["bidPrice"]) < float(book["askPrice"])


async def test_missing_candles(exchange: Exchange) -> None:
    query = {"symbol": "BTCUSDT", "interval": "1m", "limit": "10", "endTime": str(NOON - 1)}
    path = "/binance/api/v3/klines"
    _, whole, _ = await exchange.get(path, **query)
    gone_ms = NOON - 5 * MINUTE_MS
    await exchange.fault("missing_candles", match="BTCUSDT", from_ms=gone_ms, to_ms=gone_ms + 2 * MINUTE_MS, count=1)
    _, holed, _ = await exchange.get(path, **query)
    assert holed == [row for row in whole if row[0] not in {gone_ms, gone_ms + MINUTE_MS}]
    await exchange.fault("missing_candles", count=1)
    _, holed, _ = await exchange.get(path, **query)
    assert len(holed) < len(whole)
    assert (await exchange.get(path, **query))[1] == whole


async def test_nulls_in_selected_fields_of_selected_coins(exchange: Exchange) -> None:
    await exchange.fault("nulls", fields=["market_cap", "high_24h"], ids=["bitcoin"], count=1)
    _, rows, _ = await exchange.get(MARKETS, vs_currency="usd")
    by_id = {row["id"]: row for row in rows}
    assert by_id["bitcoin"]["market_cap"] is None
    assert by_id["bitcoin"]["high_24h"] is None
    assert by_id["bitcoin"]["current_price"] > 0
    assert by_id["ethereum"]["market_cap"] > 0


async def test_a_missing_coin(exchange: Exchange) -> None:
    await exchange.fault("missing_coin", ids=["bitcoin"], count=1)
    _, rows, _ = await exchange.get(MARKETS, vs_currency="usd")
    assert [row["id"] for row in rows] == ["ethereum"]


async def test_coingecko_frozen(exchange: Exchange) -> None:
    _, before, _ = await exchange.get(MARKETS, vs_currency="usd")
    await exchange.fault("frozen")
    await exchange.clock(advance_ms=3 * HOUR_MS)
    _, frozen, _ = await exchange.get(MARKETS, vs_currency="usd")
    assert frozen == before
    async with exchange.client.delete(f"{exchange.address}/control/faults?fault=frozen") as response:
        assert await response.json() == {"cleared": 1}
    _, after, _ = await exchange.get(MARKETS, vs_currency="usd")
    assert after[0]["last_updated"] > before[0]["last_updated"]


async def test_faults_are_listed_counted_and_checked(exchange: Exchange) -> None:
    await exchange.fault("500", match=BOOK, count=2)
    await _raw(exchange, BOOK)
    _, listed, _ = await exchange.get("/control/faults")
    assert listed["faults"] == [{"number": 1, "fault": "500", "match": BOOK, "remaining": 1, "hits": 1}]
    assert set(listed["known"]) == set(FAULTS)
    for wrong in ({"fault": "flood"}, {"fault": "500", "count": 0}, {"fault": "500", "match": 3}):
        async with exchange.client.post(f"{exchange.address}/control/faults", json=wrong) as response:
            assert response.status == 400


def test_each_fault_is_documented() -> None:
    section = (DOCS / "exchange.md").read_text().split("\n| fault |")[1]
    cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert set(re.findall(r"`([^`]+)`", " ".join(cells))) == set(FAULTS)
