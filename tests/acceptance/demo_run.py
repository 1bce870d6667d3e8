"""One run of `python -m devstack demo`, and all its output."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from clients.kafka.reader import TopicReader
from clients.process import bound
from config import Settings
from devstack.stack import ROOT
from marketdata.topics import TopicRole
from tests.support.kafka_records import publish_raw
from tests.support.stack import eventually, free_ports, read_table, settings_with

HOURS = 3

BAD_RECORDS = {  # payload: reason of its dead letter
    b"not json at all": "json",
    b'{"symbol":"BTC-USD","tick_id":"a","timestamp":"2024-08-05T00:00:00.000Z","quote":"USD","price":"high"}': "type",
    b'{"symbol":"BTC-USD","tick_id":"b","timestamp":"yesterday","quote":"USD","price":1.0}': "value",
    b'{"symbol":"BTC-USD","tick_id":"BTC-USD|2024-08-05T00:00:01.000Z","timestamp":"2024-08-05T00:00:01.000Z","quote":"USD","bid_price":2.0,'
    b'"bid_qty":1.0,"ask_price":1.0,"ask_qty":1.0}': "crossed_quote",
    b'{"symbol":"BTC-USD","tick_id":"BTC-USD|2024-08-05T00:00:02.000Z","timestamp":"2024-08-05T00:00:02.000Z",'
    b'"quote":"USD"}': "no_data",
}


@dataclass
class Outcome:
    """The output of the run: topics, tables, status, printed lines, times in seconds."""

    settings: Settings
    ticks: list[tuple[str, int, int, bytes]]
    clean: list[dict[str, Any]]
    dead: list[dict[str, Any]]
    candles: list[dict[str, Any]]
    features: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    raw: pd.DataFrame
    minutes: pd.DataFrame
    hourly: pd.DataFrame
    first_prediction_s: float
    status: dict[str, Any]
    stop_s: float
    exit_code: int
    left: list[str]
    printed: str

    @property
    def live_hours(self) -> list[int]:
        """Start times of the hours that closed during the run, in ms; missing minutes of the first were fetched."""
        return sorted({int(at.timestamp() * 1000) for at in self.hourly[self.hourly.origin == "live"].hour_start})


async def _read_topic(settings: Settings, name: str) -> list[tuple[str, int, int, bytes]]:
    async with TopicReader(settings.kafka, name, wait_s=30.0) as reader:
        froms, ends = await reader.tails(None)
        return [(name, record.partition, record.offset, record.value) async for record in reader.between(froms, ends)]


def read_topic(settings: Settings, role: TopicRole) -> list[tuple[str, int, int, bytes]]:
    """Topic, partition, offset and value of every current record."""
    return asyncio.run(_read_topic(settings, settings.topic(role).name))


def decoded(settings: Settings, role: TopicRole) -> list[dict[str, Any]]:
    return [json.loads(value) for _, _, _, value in read_topic(settings, role)]


def _descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@contextmanager
def demo_run(folder: Path) -> Iterator[Outcome]:
    """Start the demo on free ports and its own folders, wait until `HOURS` hours are scored, read everything, stop it.

    `BAD_RECORDS` are published to `cryptoTopic` during the run. No process is left when the context ends.
    """
    kafka, hdfs, webhdfs, exchange, web = free_ports(5)
    changes = {
        "BDI_PROFILE": "demo",
        "BDI_KAFKA__BROKERS": f"127.0.0.1:{kafka}",
        "BDI_HDFS__URL": f"hdfs://127.0.0.1:{hdfs}",
        "BDI_HDFS__WEBHDFS": f"http://127.0.0.1:{webhdfs}",
        "BDI_DEVSTACK__EXCHANGE_PORT": str(exchange),
        "BDI_DEVSTACK__STATE_DIR": str(folder / "stack"),
        "BDI_STREAMS__DATA_DIR": str(folder / "streams"),
        "BDI_STREAMS__WEB_PORT": str(web),
        "BDI_BINANCE__BASE_URL": f"http://127.0.0.1:{exchange}/binance",
        "BDI_COINGECKO__BASE_URL": f"http://127.0.0.1:{exchange}/coingecko/api/v3",
    }
    settings = settings_with(changes, "demo")
    env = {key: value for key, value in os.environ.items() if not key.startswith("BDI_")} | changes
    log = folder / "demo.log"
    began = time.monotonic()
    with log.open("wb") as output:
        demo = subprocess.Popen(
            bound([sys.executable, "-m", "devstack", "demo"]),
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    family: list[psutil.Process] = []
    try:

        def alive(what: str) -> None:
            assert demo.poll() is None, f"the demo ended before {what}:\n{log.read_text()[-4000:]}"

        def first_prediction() -> bool:
            alive("its first prediction")
            return "first prediction" in log.read_text()

        eventually(first_prediction, 400, "the first prediction")
        first_prediction_s = time.monotonic() - began
        publish_raw(settings, TopicRole.TICKS, [(b"BTC-USD", payload) for payload in BAD_RECORDS])

        def enough_scores() -> bool:
            alive("its scores")
            champions = [
                score
                for score in decoded(settings, TopicRole.PREDICTION_SCORES)
                if score["role"] == "champion" and score["origin"] == "live"
            ]
            return len({score["target_start"] for score in champions}) >= HOURS

        eventually(enough_scores, 420, f"scores of {HOURS} hours", every_s=2.0)
        ticks = read_topic(settings, TopicRole.TICKS)
        published = {json.loads(value)["tick_id"] for _, _, _, value in ticks if value not in BAD_RECORDS}

        def all_stored() -> bool:
            alive("every tick was stored")
            dead_letters = len(decoded(settings, TopicRole.DEAD_LETTERS))
            return len(published & set(read_table(settings, settings.hdfs.raw_data).tick_id)) + dead_letters >= len(
                ticks
            )

        eventually(all_stored, 120, "every tick of cryptoTopic in raw_data or the dead letters", every_s=2.0)
        status = json.loads(
            subprocess.run(
                [sys.executable, "-m", "devstack", "status", "--json"],
                cwd=ROOT,
                env=env,
                capture_output=True,
                check=True,
                timeout=60,
            ).stdout
        )
        # Against the data flow: the demo continues to publish, and what a record is made from must be read after it.
        read = {role: decoded(settings, role) for role in reversed(TopicRole) if role is not TopicRole.TICKS}
        tables = {
            name: read_table(settings, path)
            for name, path in (
                ("raw", settings.hdfs.raw_data),
                ("minutes", settings.hdfs.minute_candles),
                ("hourly", settings.hdfs.hourly_metrics),
            )
        }
        family = _descendants(demo.pid)
        stopping = time.monotonic()
        demo.send_signal(signal.SIGINT)
        exit_code = demo.wait(timeout=60)
        stop_s = time.monotonic() - stopping
        _, left = psutil.wait_procs(family, timeout=2)
        yield Outcome(
            settings=settings,
            ticks=ticks,
            clean=read[TopicRole.TICKS_CLEAN],
            dead=read[TopicRole.DEAD_LETTERS],
            candles=read[TopicRole.CANDLES],
            features=read[TopicRole.FEATURES],
            predictions=read[TopicRole.PREDICTIONS],
            scores=read[TopicRole.PREDICTION_SCORES],
            **tables,
            first_prediction_s=first_prediction_s,
            status=status,
            stop_s=stop_s,
            exit_code=exit_code,
            left=[" ".join(process.cmdline()) for process in left],
            printed=log.read_text(),
        )
    finally:
        if demo.poll() is None:
            family = _descendants(demo.pid)
            demo.kill()
            demo.wait(timeout=30)
        for process in family:
            if process.is_running():
                process.kill()
