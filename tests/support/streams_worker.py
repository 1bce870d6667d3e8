"""What the tests of the streams worker share: feeding a topic, reading it to its end, running workers, its features."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from aiokafka.structs import ConsumerRecord

from clients.kafka.reader import TopicReader
from config import Settings
from devstack.stack import ROOT
from marketdata.codec import decode
from marketdata.features import MarketFeatures
from marketdata.records import FeatureRow, Record, Tick
from marketdata.topics import TopicRole
from streams.kafka.sender import Sender
from tests.support.stack import ExchangeUnderTest, Program, environment_of, eventually_async, free_ports, running

R = TypeVar("R", bound=Record)

FAUST = [sys.executable, "-m", "faust", "-A", "streams"]
SLOWLY_MOVING = [sys.executable, "-m", "tests.support.slowly_moving", "-A", "streams"]
REFUSING_ASSIGNMENT = [sys.executable, "-m", "tests.support.refusing_assignment", "-A", "streams"]
STOP_S = 5.0


def without_exchanges(settings: Settings) -> Settings:
    """A worker that only works on what is on its topics."""
    return settings.model_copy(
        update={
            "binance": settings.binance.model_copy(update={"enabled": False}),
            "coingecko": settings.coingecko.model_copy(update={"enabled": False}),
            "clock": settings.clock.model_copy(update={"source": "system"}),
            "streams": settings.streams.model_copy(update={"poll_interval_s": 3_600.0}),
        }
    )


def fed(settings: Settings, exchange: ExchangeUnderTest, feed: str, speed: float = 60.0, **streams: Any) -> Settings:
    """A worker's settings with this exchange's feeds, at its speed."""
    return settings.model_copy(
        update={
            "binance": settings.binance.model_copy(
                update={"base_url": exchange.binance, "stream_url": exchange.binance.replace("http:", "ws:")}
            ),
            "coingecko": settings.coingecko.model_copy(
                update={"base_url": exchange.coingecko, "calls_per_minute": 500, "calls_per_month": None}
            ),
            "clock": settings.clock.model_copy(update={"source": "exchange", "speed": speed}),
            "streams": settings.streams.model_copy(update={"feed": feed, **streams}),
        }
    )


def one_of_many(settings: Settings, number: int, folder: Path) -> Settings:
    """The settings of one of several workers: a data folder and a web port of its own."""
    changed = {"data_dir": folder / f"data{number}", "web_port": free_ports(1)[0]}
    return settings.model_copy(update={"streams": settings.streams.model_copy(update=changed)})


@contextmanager
def worker(settings: Settings, log: Path, stop_s: float = STOP_S, faust: Sequence[str] = FAUST) -> Iterator[Program]:
    """`faust -A streams worker` for as long as the context lasts."""
    with running([*faust, "worker", "-l", "info"], log, environment_of(settings), stop_s=stop_s) as program:
        yield program


async def page(settings: Settings, path: str) -> tuple[int, str]:
    """Status and text of a worker's page; 0 where nobody listens."""
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        try:
            answer = await client.get(f"http://127.0.0.1:{settings.streams.web_port}{path}")
        except httpx.HTTPError:
            return 0, ""
        return answer.status_code, answer.text


async def counted(settings: Settings, name: str) -> dict[str, float]:
    """A counter of a worker's, by its labels as text."""
    _status, text = await page(settings, "/metrics")
    return {
        labels: float(value) for labels, value in re.findall(rf"^{name}_total(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    }


async def are_ready(workers: list[Settings]) -> None:
    async def all_ready() -> bool:
        return all([(await page(one, "/health/ready"))[0] == 200 for one in workers])

    await eventually_async(all_ready, 60, f"{len(workers)} workers ready", every_s=0.3)


def command(settings: Settings, *words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    """`faust -A streams WORDS` to its end, which must come with this exit code and no traceback."""
    done = subprocess.run(
        [*FAUST, *words],
        env=environment_of(settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def lines(done: "subprocess.CompletedProcess[str]") -> list[Any]:
    """What a command printed with `--json`."""
    return [json.loads(line) for line in done.stdout.splitlines()]


async def send(settings: Settings, role: TopicRole, items: Sequence[tuple[bytes | None, bytes | None]]) -> None:
    """Deliver records, in order within a partition."""
    async with Sender(settings.kafka) as sender:
        await sender.publish(settings.topic(role).name, [(key, value, ()) for key, value in items])


async def everything(settings: Settings, role: TopicRole) -> list[ConsumerRecord]:
    """Every record that is on a topic now."""
    async with TopicReader(settings.kafka, settings.topic(role).name, wait_s=30.0) as reader:
        froms, ends = await reader.tails(None)
        return [record async for record in reader.between(froms, ends)]


async def decoded(settings: Settings, role: TopicRole, cls: type[R]) -> list[R]:
    """The same, decoded."""
    return [decode(cls, record.value) for record in await everything(settings, role)]


def reference(ticks: Sequence[Tick]) -> dict[str, FeatureRow]:
    """The features of each market after these ticks, without a worker."""
    states: dict[str, MarketFeatures] = {}
    for one in ticks:
        state = states.setdefault(one.symbol, MarketFeatures(one.symbol))
        value = one.traded_volume and one.vwap and one.traded_volume * one.vwap
        state.add(one.timestamp_ms, one.bid_price, one.bid_qty, one.ask_price, one.ask_qty, one.traded_volume, value)
    return {symbol: state.result() for symbol, state in states.items()}


def newest_rows(rows: Sequence[FeatureRow]) -> dict[str, FeatureRow]:
    """Each market's."""
    return {row.symbol: row for row in sorted(rows, key=lambda one: (one.timestamp_ms, one.revision))}


def hold_all(rows: Sequence[FeatureRow], ticks: Sequence[Tick]) -> bool:
    """True when the newest rows hold every tick of theirs."""
    newest, wanted = newest_rows(rows), reference(ticks)
    return newest.keys() == wanted.keys() and all(
        (newest[symbol].timestamp, newest[symbol].windows["24h"].n_ticks) == (row.timestamp, row.windows["24h"].n_ticks)
        for symbol, row in wanted.items()
    )


def assert_features(rows: Sequence[FeatureRow], ticks: Sequence[Tick]) -> None:
    """The newest row of each market is that of the reference, and no row stands twice."""
    identities = Counter((row.symbol, row.timestamp, row.revision) for row in rows)
    assert [identity for identity, count in identities.items() if count > 1] == []
    newest = newest_rows(rows)
    for symbol, expected in reference(ticks).items():
        got = newest[symbol]
        assert (got.timestamp, got.mid, got.spread_bps) == (expected.timestamp, expected.mid, expected.spread_bps)
        for name, window in expected.windows.items():
            for field in window.__struct_fields__:
                value = getattr(window, field)
                wanted = None if value is None else pytest.approx(value, rel=1e-9)
                assert getattr(got.windows[name], field) == wanted, (symbol, name, field)
