"""What tests need to run on the real stack: waiting for a condition, and programs that end with the test run."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pandas as pd
import pytest
from pydantic import BaseModel, SecretStr

from clients.process import bound
from clients.webhdfs import connect
from config import Settings, load_settings
from devstack.process import tail
from devstack.stack import ROOT
from devstack.state import load_state
from devstack.supervisor import require_java
from marketdata.parquet import read_parquet
from simulator.control import HEADER

T = TypeVar("T")
_LOOK_S = 0.05


def eventually(predicate: Callable[[], T], deadline_s: float, what: str, *, every_s: float = _LOOK_S) -> T:
    """Look again until `predicate` gives something true; fail with `what` when `deadline_s` has passed."""
    deadline = time.monotonic() + deadline_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {deadline_s:g} s: {what}; last seen: {value!r}")
        time.sleep(every_s)


async def eventually_async(
    predicate: Callable[[], Awaitable[T]], deadline_s: float, what: str, *, every_s: float = _LOOK_S
) -> T:
    """`eventually` for coroutines."""
    deadline = time.monotonic() + deadline_s
    while True:
        value = await predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {deadline_s:g} s: {what}; last seen: {value!r}")
        await asyncio.sleep(every_s)


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that nobody listens on now."""
    with ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


def settings_with(environ: Mapping[str, str], profile: str = "local") -> Settings:
    """The settings that a program with these variables, and no others of ours, would read."""
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith("BDI_")]:
            patch.delenv(key)
        for key, value in environ.items():
            patch.setenv(key, value)
        return load_settings(profile)


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that make a child program read exactly these settings; over this process's other variables."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("BDI_")}
    environ["BDI_PROFILE"] = settings.profile
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            for field in type(value).model_fields:
                inner = getattr(value, field)
                if inner is not None:
                    environ[f"BDI_{name}__{field}".upper()] = _as_text(inner)
        elif name == "markets":
            environ["BDI_MARKETS"] = ",".join(value)
        elif name != "profile":
            environ[f"BDI_{name}".upper()] = _as_text(value)
    return environ


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool | tuple | list | dict):
        return json.dumps(value)
    return str(value)


@dataclass(frozen=True)
class Program:
    """A program that runs beside a test; its output is in `log`."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def check_running(self) -> None:
        """Fail, with the end of its log, where it has ended."""
        if self.process.poll() is not None:
            end = "\n".join(tail(self.log))
            pytest.fail(f"{self.process.args!r} ended with exit code {self.process.returncode}:\n{end}")


@contextmanager
def running(
    command: Sequence[str], log: Path, env: Mapping[str, str], *, stop_s: float = 20.0, end: int = signal.SIGTERM
) -> Iterator[Program]:
    """Run `command` for as long as the context lasts; it dies with the test run, and is killed after `stop_s`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            bound(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=dict(env), cwd=ROOT
        )
    try:
        yield Program(process, log)
    finally:
        if process.poll() is None:
            process.send_signal(end)
        try:
            process.wait(stop_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"{command!r} did not stop within {stop_s:g} s:\n" + "\n".join(tail(log)))


def read_table(settings: Settings, path: str) -> pd.DataFrame:
    """All rows of the Parquet files below an HDFS folder, as any plain reader sees them; empty where there are none.

    As Spark and pyarrow do, names that start with `_` or `.` are left out.
    """
    client = connect(settings.hdfs)
    if client.status(path, strict=False) is None:
        return pd.DataFrame()
    frames = []
    for folder, folders, files in client.walk(path):
        folders[:] = [name for name in folders if name[0] not in "_."]
        if any(part[0] in "_." for part in folder.removeprefix(path).split("/") if part):
            continue
        for name in files:
            if name.endswith(".parquet") and name[0] not in "_.":
                with client.read(f"{folder}/{name}") as reader:
                    frames.append(read_parquet(reader.read()).to_pandas(use_threads=False))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


@dataclass(frozen=True)
class StackUnderTest:
    """A running Kafka and HDFS. `env` makes child programs find it, `settings` is the same for this process."""

    settings: Settings
    env: dict[str, str]
    state_dir: Path


@dataclass(frozen=True)
class ExchangeUnderTest:
    """A running simulated exchange and its base URLs."""

    address: str
    program: Program

    @property
    def binance(self) -> str:
        return f"{self.address}/binance"

    @property
    def coingecko(self) -> str:
        return f"{self.address}/coingecko/api/v3"

    def control(self, method: str, path: str, **body: object) -> None:
        """Send a request to a control endpoint, such as `faults`; keywords are its JSON object."""
        url, headers = f"{self.address}/control/{path}", {HEADER: "test"}
        httpx.request(method, url, headers=headers, json=body or None, trust_env=False).raise_for_status()


@contextmanager
def running_stack(folder: Path) -> Iterator[StackUnderTest]:
    """Kafka and HDFS on free ports, their data in `folder`; they end with the context, however that ends."""
    kafka, namenode, webhdfs, web, exchange = free_ports(5)
    settings = settings_with(
        {
            "BDI_KAFKA__BROKERS": f"127.0.0.1:{kafka}",
            "BDI_HDFS__URL": f"hdfs://127.0.0.1:{namenode}",
            "BDI_HDFS__WEBHDFS": f"http://127.0.0.1:{webhdfs}",
            "BDI_STREAMS__WEB_PORT": str(web),
            "BDI_STREAMS__DATA_DIR": str(folder / "streams"),
            "BDI_DEVSTACK__EXCHANGE_PORT": str(exchange),
            "BDI_DEVSTACK__STATE_DIR": str(folder / "state"),
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_HOME", str(require_java().home))  # Spark runs inside this process as well
        env = environment_of(settings)
        state_dir = settings.devstack.state_dir
        command = [sys.executable, "-m", "devstack", "up", "--foreground", "--without", "exchange"]
        with running(command, folder / "devstack.log", env) as program:

            def healthy() -> bool:
                program.check_running()
                state = load_state(state_dir)
                parts = state.parts if state is not None else {}
                return bool(parts) and all(part.state == "healthy" for part in parts.values())

            eventually(healthy, settings.devstack.startup_s, "Kafka and HDFS healthy")
            yield StackUnderTest(settings, env, state_dir)


def alone(settings: Settings, data_dir: Path) -> Settings:
    """The stack's settings with topics, consumer groups and folders that nobody else uses."""
    unique = f"t{uuid.uuid4().hex[:10]}"
    return settings.model_copy(
        update={
            "topics": settings.topics.model_copy(update={"prefix": f"{unique}-"}),
            "hdfs": settings.hdfs.model_copy(update={"root": f"/{unique}"}),
            "streams": settings.streams.model_copy(
                update={"app_id": unique, "data_dir": data_dir, "web_port": free_ports(1)[0]}
            ),
        }
    )


@contextmanager
def running_exchange(folder: Path, **options: object) -> Iterator[ExchangeUnderTest]:
    """A simulated exchange on a free port; its log and clock are kept in `folder`.

    Keywords are the long options of `python -m devstack exchange`; those not named are the settings' defaults.
    """
    own = settings_with({}).devstack
    words: dict[str, object] = {
        "data": own.exchange_data,
        "start": own.exchange_start,
        "speed": own.exchange_speed,
        "port": free_ports(1)[0],
        "state-file": folder / "state.json",
        "seed": own.exchange_seed,
    }
    words.update({name.replace("_", "-"): value for name, value in options.items()})
    command = [sys.executable, "-m", "devstack", "exchange"]
    for name, value in words.items():
        command += [f"--{name}", str(value)]
    with running(command, folder / "exchange.log", environment_of(settings_with({}))) as program:

        def address() -> str | None:
            program.check_running()
            for line in program.output().splitlines():
                if line.startswith("{") and "address" in line:
                    return str(json.loads(line)["address"])
            return None

        yield ExchangeUnderTest(eventually(address, 60, "the exchange's readiness line") or "", program)
