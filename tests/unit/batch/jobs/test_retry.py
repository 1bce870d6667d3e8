"""A backfill that repeats itself until the exchange accepts it: pauses, lines, stop."""

import asyncio
import os
import signal

import httpx
import pytest

from batch.jobs.retry import until_done
from batch.klines.download import download_klines
from batch.klines.history import History
from batch.klines.plan import make_plan
from clients.stop_signals import StopFlag
from config.sections import BinanceSettings
from exchanges.binance.kline_client import KlineClient
from marketdata.errors import ConfigurationError, FatalSourceError, RetryableSourceError, SourceError, StorageError
from marketdata.markets import Market
from tests.support.exchange_server import NOON, Exchange, running_exchange
from tests.support.fake_clock import FakeClock


def waiting(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("waiting: ")]


@pytest.mark.parametrize(("fault", "kind"), [("451", "geo_blocked"), ("403", "forbidden")])
async def test_the_history_is_loaded_once_the_exchange_accepts_requests(
    fault: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_exchange() as exchange:
        await exchange.fault(fault, match="/api/v3/klines")
        found = await asyncio.to_thread(_load_after_three_refusals, exchange, kind)
    assert len(found.klines["BTC-USD", "1h"]) == 24 + 2
    (line,) = waiting(capsys)
    host = exchange.address.removeprefix("http://")
    assert line.startswith(f"waiting: backfill: binance: GET http://{host}/binance/api/v3/klines?symbol=BTCUSDT")
    assert f": HTTP {fault}" in line
    assert (
        "set binance.base_url to a host that accepts requests from this network, or exchanges.proxy; retrying after "
        in line
    )
    assert line.endswith(" s, later after up to 1 h")


def _load_after_three_refusals(exchange: Exchange, kind: str) -> History:
    settings = BinanceSettings(base_url=f"{exchange.address}/binance")
    plan = make_plan([Market("BTC", "USD")], {}, {}, hours=3, minutes=0, to_ms=NOON)
    attempts: list[str] = []
    loaded: list[History] = []

    def attempt() -> int:
        try:
            with httpx.Client(trust_env=False) as http:
                client = KlineClient(http, settings, sleep=lambda _s: None)
                loaded.append(download_klines(client, plan.spans, lambda: False))
        except SourceError as error:
            attempts.append(error.kind)
            if len(attempts) == 3:
                exchange.state.faults.clear()
            raise
        return 0

    clock = FakeClock()
    assert until_done("backfill", attempt, StopFlag(), sleep=clock.sleep) == 0
    assert attempts == [kind] * 3
    assert [15 <= s <= 30 * 2**n for n, s in enumerate(clock.sleeps)] == [True] * 3
    return loaded[0]


def test_a_line_is_written_for_each_change_and_pauses_grow_up_to_an_hour(capsys: pytest.CaptureFixture[str]) -> None:
    refused = FatalSourceError("binance: HTTP 451", "geo_blocked")
    unreachable = RetryableSourceError("binance: no such host", "connection")
    no_hdfs = StorageError("hdfs.webhdfs:\nno answer")
    errors = [*[refused] * 9, unreachable, unreachable, no_hdfs, refused]
    clock, left = FakeClock(), iter(errors)

    def attempt() -> int:
        for error in left:
            raise error
        return 7

    failed: list[str] = []
    assert until_done("backfill", attempt, StopFlag(), sleep=clock.sleep, failed=failed.append) == 7
    assert failed == [str(error) for error in errors]
    texts = [line.partition("; retrying")[0] for line in waiting(capsys)]
    assert texts == [
        f"waiting: backfill: {' '.join(str(error).split())}" for error in (refused, unreachable, no_hdfs, refused)
    ]
    assert len(clock.sleeps) == len(errors)
    assert all(1_800 <= pause <= 3_600 for pause in clock.sleeps[7:])


def test_wrong_settings_are_not_repeated() -> None:
    def attempt() -> int:
        raise ConfigurationError("markets: none")

    with pytest.raises(ConfigurationError):
        until_done("backfill", attempt, StopFlag(), sleep=pytest.fail)


def test_a_signal_during_a_pause_ends_the_program() -> None:
    stop = StopFlag()

    def attempt() -> int:
        stop.running(lambda: None)  # as while Spark runs
        raise StorageError("no answer")

    with stop.signals(), pytest.raises(SystemExit) as ended:
        until_done("backfill", attempt, stop, sleep=lambda _s: os.kill(os.getpid(), signal.SIGTERM))
    assert ended.value.code == 0


def test_an_attempt_that_a_signal_stopped_is_not_repeated() -> None:
    stop = StopFlag()

    def attempt() -> int:
        stop.running(lambda: None)
        os.kill(os.getpid(), signal.SIGTERM)
        raise StorageError("backfill: stopped")

    with stop.signals(), pytest.raises(StorageError):
        until_done("backfill", attempt, stop, sleep=pytest.fail)
