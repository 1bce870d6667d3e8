"""The exchange's clock: runs at its speed between two looks, never backwards, and lives through a silent exchange."""

import pytest

from clients.clock import ExchangeClock
from marketdata.errors import RetryableSourceError


class Exchange:
    """A scripted server and machine time."""

    def __init__(self) -> None:
        self.machine_s = 100.0
        self.server_ms = 1_000_000
        self.looks = 0
        self.up = True

    def fetch(self) -> int:
        self.looks += 1
        if not self.up:
            raise RetryableSourceError("down", "clock")
        return self.server_ms

    def clock(self, speed: float) -> ExchangeClock:
        return ExchangeClock(self.fetch, speed, monotonic=lambda: self.machine_s, resync_s=30.0)


def test_it_runs_at_the_speed_of_the_replay() -> None:
    exchange = Exchange()
    clock = exchange.clock(60.0)
    exchange.machine_s += 2.0
    assert clock.now_ms() == 1_000_000 + 120_000
    assert clock.real_seconds(60.0) == 1.0


def test_it_takes_the_servers_time_again_and_never_runs_backwards() -> None:
    exchange = Exchange()
    clock = exchange.clock(1.0)
    exchange.machine_s += 29.0
    assert clock.now_ms() == 1_029_000
    exchange.machine_s += 2.0
    exchange.server_ms = 1_020_000  # the server says less than we have told already
    assert clock.now_ms() == 1_029_000
    exchange.machine_s += 12.0
    assert clock.now_ms() == 1_032_000


def test_it_goes_on_while_the_exchange_is_silent() -> None:
    exchange = Exchange()
    clock = exchange.clock(1.0)
    exchange.up = False
    exchange.machine_s += 40.0
    assert clock.now_ms() == 1_040_000


def test_without_a_first_answer_there_is_no_clock() -> None:
    exchange = Exchange()
    exchange.up = False
    with pytest.raises(RetryableSourceError, match="down"):
        exchange.clock(1.0)
