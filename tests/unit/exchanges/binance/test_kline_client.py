"""The kline client waits for pauses and the weight limit in exchange time, with all threads, within its budget."""

import asyncio
from typing import Any

import httpx
import pytest

from config.sections import BinanceSettings
from exchanges.binance.kline_client import KlineClient
from exchanges.binance.klines import Kline
from marketdata.errors import FatalSourceError, RetryableSourceError
from marketdata.times import MINUTE_MS
from tests.support.exchange_server import NOON, Exchange, running_exchange
from tests.support.fake_clock import FakeClock
from tests.support.scripted_server import ScriptedServer


async def fetching(url: str, requests: int = 1, **given: Any) -> list[list[Kline]]:
    """The results of as many requests for three minutes, one after another."""

    def fetch() -> list[list[Kline]]:
        weight = given.pop("weight_per_minute", 6_000)
        settings = BinanceSettings(base_url=url, weight_per_minute=weight, timeout_s=5.0)
        with httpx.Client(trust_env=False, verify=False) as http:
            client = KlineClient(http, settings, **given)
            return [client.fetch("BTCUSDT", "1m", NOON - 3 * MINUTE_MS, NOON) for _ in range(requests)]

    return await asyncio.to_thread(fetch)


def at_sixty(exchange_s: float) -> float:
    return exchange_s / 60


@pytest.fixture
async def exchange() -> Any:
    async with running_exchange() as running:
        running.state.clock.steer(now_ms=NOON)
        yield running


def replay(exchange: Exchange) -> FakeClock:
    """A clock whose sleeps move the exchange's clock 60 times as far."""
    return FakeClock(
        on_sleep=lambda s: exchange.state.clock.steer(now_ms=exchange.state.clock.now_ms() + round(s * 60_000))
    )


async def test_a_replay_waits_for_a_rate_limit_in_exchange_time(exchange: Exchange) -> None:
    clock = replay(exchange)
    await exchange.fault("429", match="klines", count=1, retry_after_s=30)
    url = f"{exchange.address}/binance"
    [klines] = await fetching(url, real_seconds=at_sixty, monotonic=clock.monotonic, sleep=clock.sleep)
    assert len(klines) == 3
    assert clock.sleeps == [0.5]


async def test_a_program_that_ends_waits_for_no_pause(exchange: Exchange) -> None:
    await exchange.fault("429", match="klines", count=9, retry_after_s=100)
    stopped: list[float] = []
    with pytest.raises(RetryableSourceError, match="429"):
        await fetching(f"{exchange.address}/binance", sleep=stopped.append, stopped=lambda: bool(stopped))
    assert len(stopped) == 1


async def test_a_replay_waits_for_the_weight_limit_in_exchange_time(exchange: Exchange) -> None:
    clock = replay(exchange)
    first, second = await fetching(
        f"{exchange.address}/binance",
        requests=2,
        weight_per_minute=1,
        real_seconds=at_sixty,
        monotonic=clock.monotonic,
        sleep=clock.sleep,
    )
    assert first == second
    assert len(first) == 3
    assert clock.sleeps == [1.0]  # before the second request


@pytest.mark.parametrize(("status", "kind"), [(429, "rate_limited"), (418, "banned"), (503, "server_error")])
async def test_a_pause_that_takes_too_long_ends_the_fetch_at_once(
    server: ScriptedServer, status: int, kind: str
) -> None:
    clock = FakeClock()
    server.respond(status, body={"code": -1003, "msg": "banned"}, retry_after="259200")
    with pytest.raises(RetryableSourceError, match="retry after 3600 s") as caught:
        await fetching(server.url, monotonic=clock.monotonic, sleep=clock.sleep)
    assert caught.value.kind == kind
    assert clock.sleeps == []
    assert len(server.requests) == 1


async def test_other_threads_send_no_request_during_a_long_pause(server: ScriptedServer) -> None:
    clock = FakeClock()
    server.respond(418, body={"code": -1003, "msg": "banned"}, retry_after="259200")

    def fetch_twice() -> None:
        with httpx.Client(trust_env=False, verify=False) as http:
            client = KlineClient(
                http, BinanceSettings(base_url=server.url), monotonic=clock.monotonic, sleep=clock.sleep
            )
            for _thread in range(2):
                with pytest.raises(RetryableSourceError, match="banned"):
                    client.fetch("BTCUSDT", "1m", NOON - 3 * MINUTE_MS, NOON)

    await asyncio.to_thread(fetch_twice)
    assert len(server.requests) == 1


async def test_a_short_ban_is_waited_out(exchange: Exchange) -> None:
    clock = replay(exchange)
    await exchange.fault("418", match="klines", count=1, retry_after_s=60)
    url = f"{exchange.address}/binance"
    [klines] = await fetching(url, real_seconds=at_sixty, monotonic=clock.monotonic, sleep=clock.sleep)
    assert len(klines) == 3
    assert clock.sleeps == [1.0]


async def test_a_redirect_and_a_request_timeout_are_retried(server: ScriptedServer) -> None:
    row = [NOON - MINUTE_MS, "10", "12", "9", "11", "3.5", NOON - 1, "35", 7, "1", "10", "0"]
    server.respond(body=[row])
    statuses = [302, 408]
    respond = server.handler
    assert respond is not None

    async def refuse_first(request: Any) -> Any:
        response = await respond(request)
        if statuses:
            response.set_status(statuses.pop(0))
        return response

    server.handler = refuse_first
    [klines] = await fetching(server.url)
    assert [kline.open_ms for kline in klines] == [NOON - MINUTE_MS]
    assert len(server.requests) == 3


async def test_a_symbol_that_the_exchange_does_not_have_is_refused_with_its_code(exchange: Exchange) -> None:
    await exchange.fault("unlisted", symbols=["BTCUSDT"])
    with pytest.raises(FatalSourceError, match="symbol=BTCUSDT&interval=1m") as caught:
        await fetching(f"{exchange.address}/binance")
    assert (caught.value.kind, caught.value.code) == ("bad_request", -1121)


async def test_an_invalid_row_is_left_out_and_named(server: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    good = [NOON - 2 * MINUTE_MS, "10", "12", "9", "11", "3.5", NOON - MINUTE_MS - 1, "35", 7, "1", "10", "0"]
    server.respond(body=[good, [NOON - MINUTE_MS, "10", "12", "11", "11", "3.5", NOON - 1, "35", 7, "1", "10", "0"]])
    [klines] = await fetching(server.url)
    assert [kline.open_ms for kline in klines] == [NOON - 2 * MINUTE_MS]
    assert len(server.requests) == 1
    [message] = caplog.messages
    assert (
        f"{server.url}/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime={NOON - 3 * MINUTE_MS}: row left" in message
    )
    assert "klines[1].low: " in message
    assert message.endswith("expected a number <= open")


async def test_many_invalid_rows_are_counted_and_some_are_logged(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.respond(body=[[1]] * 1000)
    with httpx.Client(trust_env=False, verify=False) as http:
        client = KlineClient(http, BinanceSettings(base_url=server.url))
        assert await asyncio.to_thread(client.fetch, "BTCUSDT", "1m", NOON - 3 * MINUTE_MS, NOON) == []
        assert client.n_refused == 1000
    assert len(caplog.messages) == 11
    assert caplog.messages[-1].endswith("990 more rows left out")
