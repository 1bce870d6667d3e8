"""The raw stream on a real Kafka, HDFS and Spark: each tick is stored once, and hourly rows equal the formulas."""

import asyncio
import base64
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from msgspec.structs import replace

from batch.jobs.verify import differences
from clients.webhdfs import connect
from config import Settings
from marketdata.codec import encode
from marketdata.records import Candle, PartStatus, Tick
from marketdata.times import HOUR_MS, MINUTE_MS, from_rfc3339, to_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import Activity, ProductPart
from tests.support.hour_tables import as_row
from tests.support.hourly_reference import hour_rows
from tests.support.kafka_records import ROLES, dead_letters, make_topics, publish, publish_raw
from tests.support.spark import random_candle, random_tick
from tests.support.stack import ROOT, eventually, read_table, running
from tests.support.streams_worker import decoded

START_MS = from_rfc3339("2024-08-05T00:00:00Z")
SYMBOLS = ("BTC-USD", "ETH-EUR")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "batch", *words]


def run(env: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*words), env=env, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def records(seed: int, from_minute: int, to_minute: int) -> tuple[list[Tick], list[Candle]]:
    """Make a tick and a candle for 90 % of the minutes of each market."""
    rng = random.Random(seed)
    ticks, candles = [], []
    for minute in range(from_minute, to_minute):
        at = START_MS + minute * MINUTE_MS
        for symbol in SYMBOLS:
            if rng.random() < 0.9:
                ticks.append(random_tick(rng, symbol, at))
            if rng.random() < 0.9:
                candles.append(random_candle(rng, symbol, at))
    return ticks, candles


def stored_ids(settings: Settings) -> Counter[str]:
    rows = read_table(settings, settings.hdfs.raw_data)
    return Counter(rows["tick_id"]) if len(rows) else Counter()


def assert_each_once(settings: Settings, ticks: list[Tick]) -> None:
    assert stored_ids(settings) == Counter({tick.tick_id: 1 for tick in ticks})


def hourly(settings: Settings) -> dict[tuple[str, int], dict[str, Any]]:
    rows = read_table(settings, settings.hdfs.hourly_metrics)
    found = {}
    for row in rows.astype(object).where(pd.notna(rows), None).to_dict("records"):
        found[row["symbol"], row["hour_start"].value // 1_000_000] = row
    assert len(found) == len(rows), "duplicate hourly row"
    return found


def assert_hours(settings: Settings, ticks: list[Tick], candles: list[Candle], hours: int) -> None:
    """Assert that exactly the first `hours` hours are stored, each equal to the formulas."""
    expected = {
        (row.symbol, from_rfc3339(row.hour_start)): as_row(row)
        for row in hour_rows(ticks, candles)
        if from_rfc3339(row.hour_start) < START_MS + hours * HOUR_MS
    }
    found = hourly(settings)
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        row.pop("hour_start")
        assert differences(found[key], row) == [], key


def test_ticks_and_hours_are_stored_once_and_replays_change_nothing(
    settings: Settings, child_env: dict[str, str]
) -> None:
    # The broker compresses with the codecs of its jars, and Spark decompresses with those of PySpark's.
    make_topics(settings, codecs={TopicRole.TICKS_CLEAN: "lz4", TopicRole.CANDLES: "zstd"})
    ticks, candles = records(1, 0, 130)
    publish(settings, [*ticks, *candles])
    assert run(child_env, "raw", "--once").returncode == 0
    assert_each_once(settings, ticks)
    assert_hours(settings, ticks, candles, 2)

    # Publish records again and a late tick of a closed hour, and delete the checkpoint.
    rng = random.Random(2)
    late = [random_tick(rng, "BTC-USD", START_MS + 7 * MINUTE_MS + 30_000)]
    publish(settings, [*ticks[:40], *late, *candles[:40]])
    client = connect(settings.hdfs)
    assert client.delete(settings.hdfs.checkpoints, recursive=True)
    assert run(child_env, "raw", "--once").returncode == 0
    assert_each_once(settings, [*ticks, *late])
    assert_hours(settings, [*ticks, *late], candles, 2)

    minutes = read_table(settings, settings.hdfs.minute_candles)
    assert len(minutes) == len(candles)
    assert not minutes.duplicated(["symbol", "open_time"]).any()

    checked = run(child_env, "verify", "--json")
    report = json.loads(checked.stdout)
    assert (checked.returncode, report["problems"]) == (0, [])
    assert report["counts"] == {
        "minute_candles": len(candles),
        "hourly_metrics": len(hourly(settings)),
        "raw_data": len(ticks) + 1,
    }
    assert client.list(f"{settings.hdfs.root}/_staging") == []
    assert client.list(f"{settings.hdfs.root}/_locks") == []


def test_a_killed_stream_resumes_without_loss_or_duplicates(
    settings: Settings, child_env: dict[str, str], tmp_path: Path
) -> None:
    make_topics(settings)
    env = {**child_env, "BDI_BATCH__TRIGGER_S": "0.1", "BDI_BATCH__MAX_OFFSETS_PER_TRIGGER": "40"}
    ticks, candles = records(3, 0, 125)
    publish(settings, [*ticks, *candles])
    with running(command("raw"), tmp_path / "killed.log", env, end=signal.SIGKILL) as program:

        def second_batch_stored() -> bool:
            program.check_running()
            return "batch 1: " in program.output()

        eventually(second_batch_stored, 120, "the second batch stored")
        children = psutil.Process(program.process.pid).children(recursive=True)
        assert children, "the JVM is a child of the program"
        program.process.kill()  # at an arbitrary moment
        eventually(lambda: not any(map(alive, children)), 20, "no JVM left of a killed program")
    assert 0 < len(stored_ids(settings)) < len(ticks)
    assert run(child_env, "raw", "--once").returncode == 0
    assert_each_once(settings, ticks)
    assert_hours(settings, ticks, candles, 2)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_invalid_records_become_dead_letters_and_valid_ones_are_stored(
    settings: Settings, child_env: dict[str, str]
) -> None:
    make_topics(settings)
    ticks, candles = records(6, 0, 65)
    good = encode(candles[0])
    far = "2099-01-01T00:00:00.000Z"
    no_candles = {
        b"no candle": ("json", "payload"),
        b'{"schema_version": 1, "symbol": "BTC-USD"}': ("missing_field", "open_time"),
        good.replace(b'"schema_version":1', b'"schema_version":2'): ("schema_version", "schema_version"),
        good.replace(b'"interval":"1m"', b'"interval":"5m"'): ("type", "interval"),
        b"\xff\xfe\x00": ("json", "payload"),
        encode(replace(candles[0], symbol="btc-usd")): ("symbol", "symbol"),
        encode(replace(candles[0], high=-1.0)): ("not_positive", "high"),
        encode(replace(candles[0], open_time=to_rfc3339(START_MS + 1))): ("grid", "open_time"),
        encode(replace(candles[0], open_time=far)): ("future", "open_time"),
    }
    far_tick = replace(ticks[0], timestamp=far, tick_id=Tick.make_id(ticks[0].symbol, far))
    no_ticks = {
        b"\xff\xfe\x00garbage": ("json", "payload"),
        b'{"schema_version": 1, "price": "dear"}': ("type", "price"),
        encode(far_tick): ("future", "timestamp"),
        encode(replace(ticks[0], symbol="btc-usd")): ("symbol", "symbol"),
        encode(replace(ticks[0], quote="EUR")): ("quote", "quote"),
        encode(replace(ticks[0], tick_id="x")): ("tick_id", "tick_id"),
        encode(replace(ticks[0], price=1.0, price_usd=None)): ("price_alias", "price_usd"),
        encode(replace(ticks[0], bid_price=0.0)): ("not_positive", "bid_price"),
        encode(replace(ticks[0], bid_price=2.0, ask_price=1.0)): ("crossed_quote", "ask_price"),
        encode(replace(ticks[0], low_24h=2.0, high_24h=1.0)): ("crossed_range", "high_24h"),
        encode(replace(ticks[0], volume_24h=-1.0)): ("negative", "volume_24h"),
        encode(replace(ticks[0], n_trades=10**20)): ("absurd", "n_trades"),
        encode(replace(ticks[0], price=None, price_usd=None, ask_price=None)): ("no_data", "price"),
    }
    bad = {**no_candles, **no_ticks}
    publish(settings, [*ticks[:40], *candles[:40]])
    publish_raw(
        settings, TopicRole.CANDLES, [(None if value == b"no candle" else b"BTC-USD", value) for value in no_candles]
    )
    publish_raw(settings, TopicRole.TICKS_CLEAN, [(b"BTC-USD", value) for value in no_ticks])
    publish(settings, [*ticks[40:], *candles[40:]])
    done = run(child_env, "raw", "--once")
    assert done.returncode == 0, done.stderr
    assert f"{len(bad)} refused" in done.stderr
    refused = dead_letters(settings)
    assert {base64.b64decode(record.payload): (record.reason, record.field) for record in refused} == bad
    assert len(refused) == len(bad)
    assert Counter(record.topic for record in refused) == {
        settings.topic(TopicRole.CANDLES).name: len(no_candles),
        settings.topic(TopicRole.TICKS_CLEAN).name: len(no_ticks),
    }
    assert {record.key for record in refused} == {None, "BTC-USD"}
    assert_each_once(settings, ticks)
    assert_hours(settings, ticks, candles, 1)  # a time in the future does not close the current hour
    assert len(read_table(settings, settings.hdfs.minute_candles)) == len(candles)
    publish_raw(settings, TopicRole.TICKS_CLEAN, [(b"BTC-USD", b"none alone")])  # a batch with invalid records only
    assert run(child_env, "raw", "--once").returncode == 0
    assert len(dead_letters(settings)) == len(bad) + 1


def statuses(settings: Settings, part: ProductPart) -> list[PartStatus]:
    found = asyncio.run(decoded(settings, TopicRole.PART_STATUS, PartStatus))
    # Instances may be on several partitions, which are read one after another.
    return sorted((status for status in found if status.part == part), key=lambda status: status.reported_at)


def test_a_running_stream_stops_cleanly_and_shares_the_lease(
    settings: Settings, child_env: dict[str, str], tmp_path: Path
) -> None:
    make_topics(settings, (*ROLES, TopicRole.PART_STATUS))
    ticks, candles = records(5, 0, 65)
    with running(command("raw"), tmp_path / "raw.log", {**child_env, "BDI_BATCH__TRIGGER_S": "0.5"}) as program:
        publish(settings, [*ticks, *candles])

        def stored() -> bool:
            program.check_running()
            return len(stored_ids(settings)) == len(ticks)

        eventually(stored, 120, "all ticks stored")
        assert run(child_env, "hourly").returncode == 0  # a second writer of hourly_metrics, while the first streams
        eventually(lambda: statuses(settings, ProductPart.RAW)[-1].lag == 0, 30, "no lag in the status of raw")
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(10) == 0
    assert_hours(settings, ticks, candles, 1)
    assert_each_once(settings, ticks)
    raw = statuses(settings, ProductPart.RAW)
    assert {status.state for status in raw} == {Activity.WAITING, Activity.RUNNING, Activity.STOPPED}
    assert any(status.last_success for status in raw)
    hours = [status.state for status in statuses(settings, ProductPart.HOURLY)]
    assert {Activity.RUNNING, Activity.DONE, Activity.STOPPED} <= set(hours)  # `raw` and `hourly` report them
    assert raw[-1].state is hours[-1] is Activity.STOPPED


def test_a_missing_topic_is_one_clear_line(settings: Settings, child_env: dict[str, str]) -> None:
    failed = run({**child_env, "BDI_HDFS__WAIT_S": "2"}, "raw", "--once")
    assert failed.returncode == 1
    assert "ticks-clean" in failed.stderr.strip().splitlines()[-1]
    assert "Traceback" not in failed.stderr


def test_verify_of_an_empty_store_fails(settings: Settings, child_env: dict[str, str]) -> None:
    checked = run(child_env, "verify")
    assert checked.returncode == 1
    assert f"nothing is stored in {settings.hdfs.url}{settings.hdfs.root}" in checked.stdout
    assert "ok" not in checked.stdout.split()
    report = json.loads(run(child_env, "verify", "--json").stdout)
    assert (report["ok"], report["empty"], report["problems"]) == (False, True, [])
