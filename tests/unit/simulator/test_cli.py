"""The simulated exchange as a program: readiness, restart, stop, invalid options; and the bundled sample."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from devstack import sample
from marketdata.errors import InvalidValueError
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, from_rfc3339
from simulator.cli import main
from simulator.clock import ReplayClock, StateFile
from simulator.history import MarketHistory
from tests.support.exchange_server import DAY
from tests.support.fake_clock import FakeClock
from tests.support.paths import ROOT


@contextmanager
def _program(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-m", "simulator.cli", "--data", str(sample.SAMPLE), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            yield program, json.loads(program.stdout.readline())
        finally:
            program.kill()


def _clock(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}/control/clock", timeout=10) as response:
        clock: dict[str, Any] = json.load(response)
        return clock


def test_it_prints_its_address_stops_at_once_and_resumes_its_time(tmp_path: Path) -> None:
    kept = tmp_path / "state" / "exchange.json"
    options = ("--start", "2024-08-05T00:00:00Z", "--speed", "3600", "--state-file", str(kept))
    with _program(*options) as (program, ready):
        assert ready["address"].startswith("http://127.0.0.1:")
        assert ready["symbols"] == ["BTCEUR", "BTCUSDT", "ETHEUR", "ETHUSDT", "XRPEUR", "XRPUSDT"]
        clock = _clock(ready["address"])
        assert clock["speed"] == 3600
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=10) == 0
    stopped_ms = json.loads(kept.read_text())["now_ms"]
    assert stopped_ms >= clock["now_ms"] >= DAY
    assert list(kept.parent.iterdir()) == [kept]
    with _program(*options) as (program, ready):
        assert ready["now_ms"] >= stopped_ms
        program.send_signal(signal.SIGINT)
        assert program.wait(timeout=10) == 0


def test_invalid_options_are_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 1
    assert "klines_1m" in capsys.readouterr().err
    assert main(["--data", str(sample.SAMPLE), "--start", "2031-01-01T00:00:00Z"]) == 1
    assert "within the data" in capsys.readouterr().err
    (tmp_path / "state").write_text("{}")
    assert main(["--data", str(sample.SAMPLE), "--state-file", str(tmp_path / "state")]) == 1
    assert "state-file" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--data", str(sample.SAMPLE), "--port", str(port)]) == 1
    assert "choose another --port" in capsys.readouterr().err


def test_the_clock_runs_at_its_speed_until_the_end_of_the_data() -> None:
    real = FakeClock()
    clock = ReplayClock(DAY, DAY, DAY + HOUR_MS, 60.0, monotonic=real.monotonic)
    real.now_s = 10.0
    assert clock.now_ms() == DAY + 10 * MINUTE_MS
    clock.steer(speed=0)
    real.now_s = 20.0
    assert clock.now_ms() == DAY + 10 * MINUTE_MS
    clock.steer(advance_ms=5 * MINUTE_MS, speed=120.0)
    real.now_s = 30.0
    assert clock.now_ms() == DAY + 35 * MINUTE_MS
    real.now_s = 60.0
    assert clock.now_ms() == DAY + HOUR_MS
    assert clock.ended
    assert clock.played_ms() == 95 * MINUTE_MS
    with pytest.raises(InvalidValueError, match="now_ms"):
        clock.steer(now_ms=DAY - 1)


def test_the_state_file_is_replaced_atomically(tmp_path: Path) -> None:
    kept = StateFile(tmp_path / "deep" / "state.json")
    assert kept.read_ms() is None
    for now_ms in (1, 2):
        kept.write_ms(now_ms)
        assert kept.read_ms() == now_ms


def test_the_sample_matches_its_checksums_and_readme() -> None:
    lines = (sample.SAMPLE / sample.CHECKSUMS).read_text().splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    files = sorted(sample.SAMPLE.glob("klines_*/*.parquet"))
    assert sorted(listed) == sorted(path.relative_to(sample.SAMPLE).as_posix() for path in files)
    for path in files:
        name = path.relative_to(sample.SAMPLE).as_posix()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name]
    assert sum(path.stat().st_size for path in files) <= sample.MAX_BYTES
    for part in sample.PARTS:
        times = pq.read_table(sample.SAMPLE / part.name)["timestamp"].to_pylist()
        step_ms = HOUR_MS if part.interval == "1h" else MINUTE_MS
        assert times[0] == from_rfc3339(part.start)
        assert times[-1] == from_rfc3339(part.end) - step_ms
        assert len(times) == {"1h": 19_343, "1m": 24_480}[part.interval]


def test_the_samples_hours_aggregate_its_minutes() -> None:
    history = MarketHistory.load(sample.SAMPLE, seed=1)
    for symbol in ("BTCUSDT", "ETHUSDT", "XRPUSDT", "XRPEUR"):
        grouped, counts = history.minutes(symbol, DAY, DAY + 3 * DAY_MS).grouped(HOUR_MS)
        hours = history.hours(symbol, DAY, DAY + 3 * DAY_MS)
        assert set(counts.tolist()) == {60}
        for mine, theirs in zip(grouped.prices(), hours.prices(), strict=True):
            assert mine.tolist() == theirs.tolist()
        assert grouped.volume == pytest.approx(hours.volume, rel=1e-12)


def test_the_sample_is_cut_from_a_folder_of_the_same_layout(tmp_path: Path) -> None:
    assert sample.make(sample.SAMPLE, tmp_path) == sum(path.stat().st_size for path in tmp_path.glob("*/*.parquet"))
    for part in sample.PARTS:
        assert pq.read_table(tmp_path / part.name).equals(pq.read_table(sample.SAMPLE / part.name))
    with pytest.raises(InvalidValueError, match="BTCUSDT 1h"):
        sample.make(tmp_path / "nothing", tmp_path / "to")
