"""The exchange's clock advances at its speed between two requests, never backwards, and while no answer comes."""

import asyncio
import errno
import os

import httpx
import pytest
from aiohttp import web

from clients.clock import ExchangeClock, build_clock
from config import Settings
from marketdata.errors import RetryableSourceError
from tests.support.fake_clock import FakeClock
from tests.support.scripted_server import running_server
from tests.support.stack import settings_with


def settings_of(url: str) -> Settings:
    return settings_with({"BDI_CLOCK__SOURCE": "exchange", "BDI_CLOCK__SPEED": "1", "BDI_BINANCE__BASE_URL": url})


class Exchange:
    """A scripted server and machine time."""

    def __init__(self) -> None:
        self.machine = FakeClock()
        self.server_ms = 1_000_000
        self.requests = 0
        self.up = True

    def fetch(self) -> int:
        self.requests += 1
        if not self.up:
            raise RetryableSourceError("down", "clock")
        return self.server_ms

    def clock(self, speed: float) -> ExchangeClock:
        return ExchangeClock(self.fetch, speed, monotonic=self.machine.monotonic, resync_s=30.0)


def test_it_runs_at_the_speed_of_the_replay() -> None:
    exchange = Exchange()
    clock = exchange.clock(60.0)
    exchange.machine.now_s += 2.0
    assert clock.now_ms() == 1_000_000 + 120_000
    assert clock.real_seconds(60.0) == 1.0


def test_it_resynchronises_and_never_runs_backwards() -> None:
    exchange = Exchange()
    clock = exchange.clock(1.0)
    exchange.machine.now_s += 29.0
    assert clock.now_ms() == 1_029_000
    exchange.machine.now_s += 2.0
    exchange.server_ms = 1_020_000  # less than the clock has returned already
    assert clock.now_ms() == 1_029_000
    exchange.machine.now_s += 12.0
    assert clock.now_ms() == 1_032_000


@pytest.mark.parametrize("jump_ms", [-3_600_000, 86_400_000])
def test_a_confirmed_jump_of_the_exchange_is_followed_and_logged(
    jump_ms: int, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = Exchange()
    exchange.server_ms = 1_722_816_000_000
    clock = exchange.clock(1.0)
    before_ms = clock.now_ms()
    exchange.machine.now_s += 31.0
    exchange.server_ms += 31_000 + jump_ms
    assert clock.now_ms() == before_ms + 31_000 + jump_ms
    exchange.machine.now_s += 2.0
    assert clock.now_ms() == before_ms + 33_000 + jump_ms
    assert [record.getMessage() for record in caplog.records] == [
        f"exchange time jumped by {jump_ms / 1000:+.0f} s, to {exchange.server_ms} ms"
    ]


@pytest.mark.parametrize(("second_ms", "expected_ms"), [(31_000, 31_000), (-9_000_000, 31_000)])
def test_an_unconfirmed_jump_of_the_exchange_is_ignored(
    second_ms: int, expected_ms: int, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = Exchange()
    start_ms = exchange.server_ms = 1_722_816_000_000
    clock = exchange.clock(1.0)
    answers = iter((start_ms + 5_000_000, start_ms + second_ms))
    exchange.fetch = lambda: next(answers)  # type: ignore[method-assign]
    clock._fetch_ms = exchange.fetch
    exchange.machine.now_s += 31.0
    assert clock.now_ms() == start_ms + expected_ms
    (record,) = caplog.records
    assert "is ignored" in record.getMessage()


def test_it_advances_while_the_exchange_does_not_answer() -> None:
    exchange = Exchange()
    clock = exchange.clock(1.0)
    exchange.up = False
    exchange.machine.now_s += 40.0
    assert clock.now_ms() == 1_040_000


def test_without_a_first_answer_there_is_no_clock() -> None:
    exchange = Exchange()
    exchange.up = False
    with pytest.raises(RetryableSourceError, match="down"):
        exchange.clock(1.0)


@pytest.mark.parametrize(("wait_s", "answers_after", "has_clock"), [(0.0, 1, False), (20.0, 1, True), (0.5, 99, False)])
async def test_the_first_answer_is_waited_for(wait_s: float, answers_after: int, has_clock: bool) -> None:
    async with running_server() as server:
        server.respond(200, {"serverTime": 1_722_816_000_000})
        answer = server.handler
        server.respond(503)

        async def later(request: web.Request) -> web.StreamResponse:
            assert answer is not None
            return await answer(request) if len(server.requests) > answers_after else web.Response(status=503)

        server.handler = later
        settings = settings_of(server.url)
        if has_clock:
            clock = await asyncio.to_thread(build_clock, settings, wait_s=wait_s)
            assert clock.now_ms() >= 1_722_816_000_000
        else:
            with pytest.raises(RetryableSourceError, match="no exchange time: HTTPStatusError"):
                await asyncio.to_thread(build_clock, settings, wait_s=wait_s)
        assert len(server.requests) == 1 if wait_s == 0 else len(server.requests) >= 2


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>",
        "[]",
        "{}",
        '{"serverTime": null}',
        '{"serverTime": "1722816000000"}',
        '{"serverTime": 1e400}',
        '{"serverTime": 0}',
        '{"serverTime": -1}',
        '{"serverTime": 99999999999999999}',
        '{"serverTime": 1722816000000, "x": "' + "x" * (65 << 10) + '"}',
        "[" * 100_000,
    ],
    ids=lambda body: body[:40],
)
async def test_an_answer_without_a_plausible_time_is_refused(body: str) -> None:
    async with running_server() as server:
        server.respond(200, text=body)
        with pytest.raises(RetryableSourceError) as caught:
            await asyncio.to_thread(build_clock, settings_of(server.url))
    assert caught.value.kind == "clock"
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("status", [403, 404, 418, 429, 451, 500])
async def test_no_status_ends_a_clock_that_runs(status: int) -> None:
    async with running_server() as server:
        server.respond(200, {"serverTime": 1_722_816_000_000})
        clock = await asyncio.to_thread(build_clock, settings_of(server.url), resync_s=0.0)
        server.respond(status)
        before = await asyncio.to_thread(clock.now_ms)
        assert await asyncio.to_thread(clock.now_ms) >= before >= 1_722_816_000_000


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENETUNREACH, errno.EACCES])
def test_an_error_of_the_operating_system_ends_no_clock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_words: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(httpx.Client, "stream", fail)
    with pytest.raises(RetryableSourceError, match=os.strerror(number)):
        build_clock(settings_of("http://127.0.0.1:9"))
