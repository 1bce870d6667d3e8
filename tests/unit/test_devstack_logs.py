"""Logs of programs that run for months stay small, and what the demo asks of others ends in one clear line."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from aiohttp import web

from config import Settings
from devstack.demo import has_models
from devstack.events import EventTeller
from devstack.process import Child, keep_small, tail
from marketdata.errors import StackError
from tests.stack import eventually_async, free_ports, settings_with

MOST_BYTES = 20_000
TALKS = """
import sys, time
for number in range(1_000_000):
    print("line", number, flush=True)
    if number % 50 == 0:
        time.sleep(0.001)
"""


async def test_a_log_is_moved_and_begun_anew_while_its_program_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "talks.log"
    child = await Child.start("talks", (sys.executable, "-c", TALKS), env=os.environ, cwd=tmp_path, log=log)
    kept = asyncio.create_task(keep_small(log, MOST_BYTES, 0.005))
    largest = 0
    try:

        async def long_enough() -> bool:
            nonlocal largest
            largest = max(largest, log.stat().st_size)
            told = [line for line in tail(log, 3) if line.startswith("line ")]
            return len(told) > 1 and int(told[-2].split()[1]) > 50_000

        await eventually_async(long_enough, 60, "much said", every_s=0.01)
    finally:
        kept.cancel()
        await child.stop(1.0)
    assert largest < 50_000 * len("line 12345\n") / 2
    before = log.with_name("talks.log.1")
    assert before.stat().st_size > MOST_BYTES
    # The new file begins with no hole: what is written lands at its new end.
    assert log.read_bytes()[:1] != b"\0"
    assert int(before.read_text().splitlines()[-2].split()[1]) > 0


async def test_a_broker_that_is_away_is_one_clear_line() -> None:
    (port,) = free_ports(1)
    settings = settings_with({"BDI_KAFKA__BROKERS": f"127.0.0.1:{port}"})
    teller = EventTeller(settings, lambda _line: None, lambda: None)
    try:
        with pytest.raises(StackError, match=rf"kafka.brokers: 127.0.0.1:{port}: .* cannot be followed"):
            await teller.open()
    finally:
        await teller.close()


async def asked(settings: Settings, answer: web.Response | None) -> bool:
    """`has_models` where WebHDFS gives this answer, or none."""

    async def handle(_request: web.Request) -> web.Response:
        assert answer is not None
        return answer

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        if answer is None:
            await runner.cleanup()
        return await has_models(settings.model_copy(update={"hdfs": settings.hdfs.model_copy(update={"webhdfs": url})}))
    finally:
        await runner.cleanup()


def told(*names: str) -> web.Response:
    return web.json_response({"FileStatuses": {"FileStatus": [{"pathSuffix": name} for name in names]}})


async def test_models_are_there_where_each_symbol_has_a_champion() -> None:
    settings = settings_with({"BDI_FORECASTING__SYMBOLS": "BTC-USD"})
    assert await asked(settings, told("m1"))
    assert not await asked(settings, told())
    assert not await asked(settings, web.json_response({}, status=404))


@pytest.mark.parametrize(
    "answer",
    [None, web.Response(status=503), web.Response(text="<html>"), web.json_response({}), web.json_response([])],
    ids=["nobody", "503", "no JSON", "no list", "an array"],
)
async def test_a_webhdfs_that_does_not_tell_is_one_clear_line(answer: web.Response | None) -> None:
    with pytest.raises(StackError, match=r"hdfs\.webhdfs: .*: which models are there is not told"):
        await asked(settings_with({"BDI_FORECASTING__SYMBOLS": "BTC-USD"}), answer)
