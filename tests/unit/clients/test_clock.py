"""The exchange's clock advances at its speed between two requests, never backwards, and while no answer comes."""

import httpx
import pytest

from clients.clock import ExchangeClock, build_clock
from marketdata.errors import RetryableSourceError
from tests.support.fake_clock import FakeClock
from tests.support.stack import settings_with


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
def test_the_first_answer_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, wait_s: float, answers_after: int, has_clock: bool
) -> None:
    settings = settings_with({"BDI_CLOCK__SOURCE": "exchange", "BDI_CLOCK__SPEED": "1"})
    requested: list[str] = []

    def get(url: str, **_options: object) -> httpx.Response:
        requested.append(url)
        if len(requested) <= answers_after:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"serverTime": 1_722_816_000_000}, request=httpx.Request("GET", url))

    monkeypatch.setattr(httpx, "get", get)
    if has_clock:
        assert build_clock(settings, wait_s=wait_s).now_ms() >= 1_722_816_000_000
    else:
        with pytest.raises(RetryableSourceError, match="/api/v3/time: no exchange time: ConnectError"):
            build_clock(settings, wait_s=wait_s)
    assert len(requested) == 1 if wait_s == 0 else len(requested) >= 2
