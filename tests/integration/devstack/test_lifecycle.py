"""Start and stop: no process outlives its parent, data survives restarts, a failed start prints the reason."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from devstack.jars import read_lock
from devstack.stack import ROOT
from devstack.state import SCRATCH, load_state
from tests.support.stack import environment_of, eventually, free_ports, settings_with

DEVSTACK = (sys.executable, "-m", "devstack")
EXCHANGE_ALONE = ("--without", "kafka", "--without", "hdfs")
# As the demo after its start, with the exchange as the only part.
RESTARTS_EXCHANGE = """
import asyncio, signal
from pathlib import Path
from config import load_settings
from devstack.demo import Restarts
from devstack.java import Java
from devstack.stack import Stack, build_parts
from devstack.state import supervisor_lock

async def main():
    settings = load_settings("local")
    folder = settings.devstack.state_dir
    stop, started = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with supervisor_lock(folder) as state:
        stack = Stack(state, folder, print, {})
        parts = build_parts(settings, Java(Path("/nowhere"), 17), frozenset({"kafka", "hdfs"}))
        await stack.start(parts, settings.devstack.startup_s)
        started.set()
        restarts = asyncio.create_task(Restarts(stack, print, settings.devstack.startup_s).run(started))
        await stop.wait()
        restarts.cancel()
        await asyncio.gather(restarts, return_exceptions=True)
        await stack.stop()

asyncio.run(main())
"""


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a separate stack, not started; what a test leaves running is stopped."""
    kafka, namenode, webhdfs, exchange, web = free_ports(5)
    settings = settings_with(
        {
            "BDI_KAFKA__BROKERS": f"127.0.0.1:{kafka}",
            "BDI_HDFS__URL": f"hdfs://127.0.0.1:{namenode}",
            "BDI_HDFS__WEBHDFS": f"http://127.0.0.1:{webhdfs}",
            "BDI_DEVSTACK__EXCHANGE_PORT": str(exchange),
            "BDI_DEVSTACK__STATE_DIR": str(tmp_path / "state"),
            "BDI_STREAMS__WEB_PORT": str(web),
            "BDI_STREAMS__DATA_DIR": str(tmp_path / "streams"),
            "BDI_FORECASTING__PLOT_PATH": str(tmp_path / "latest.png"),
        }
    )
    environ = environment_of(settings)
    yield environ
    run(environ, "down")


def run(env: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*DEVSTACK, *words], env=env, cwd=ROOT, capture_output=True, text=True, check=False)


def state_dir(env: dict[str, str]) -> Path:
    return Path(env["BDI_DEVSTACK__STATE_DIR"])


def pids(env: dict[str, str]) -> list[int]:
    state = load_state(state_dir(env))
    assert state is not None
    return [part.process.pid for part in state.parts.values() if part.process is not None]


def all_gone(processes: Sequence[int]) -> bool:
    alive = []
    for pid in processes:
        with suppress(psutil.NoSuchProcess):
            alive.append(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return not any(alive)


def test_up_and_down_leave_nothing(env: dict[str, str]) -> None:
    started = run(env, "up", *EXCHANGE_ALONE)
    assert started.returncode == 0, started.stderr
    assert "exchange  ready at http://127.0.0.1:" in started.stdout
    children = pids(env)
    assert len(children) == 1
    status = json.loads(run(env, "status", "--json").stdout)
    assert status["exchange"]["healthy"]
    assert status["exchange"]["pid"] == children[0]
    stopped = run(env, "down")
    assert stopped.returncode == 0, stopped.stderr
    assert all_gone(children)
    assert run(env, "down").stdout == "nothing is running\n"


def test_no_child_outlives_a_killed_supervisor(env: dict[str, str]) -> None:
    assert run(env, "up", *EXCHANGE_ALONE).returncode == 0
    children = pids(env)
    state = load_state(state_dir(env))
    assert state is not None
    psutil.Process(state.supervisor.pid).kill()
    eventually(lambda: all_gone(children), 10, "the children of a killed supervisor are gone")


def test_a_signal_during_up_stops_what_it_started(env: dict[str, str]) -> None:
    starting = subprocess.Popen(
        [*DEVSTACK, "up", *EXCHANGE_ALONE], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

    def supervisor() -> psutil.Process | None:
        state = load_state(state_dir(env))
        assert starting.poll() is None
        return None if state is None else state.supervisor.alive()

    daemon = eventually(supervisor, 60, "the supervisor runs", every_s=0.01)
    starting.send_signal(signal.SIGTERM)
    _, err = starting.communicate(timeout=30)
    assert (starting.returncode, err) == (143, b"")
    assert daemon is not None
    assert not daemon.is_running()
    assert all_gone(pids(env))
    assert "Traceback" not in (state_dir(env) / "logs" / "supervisor.log").read_text()


def test_an_exit_is_reported_in_the_status(env: dict[str, str]) -> None:
    assert run(env, "up", *EXCHANGE_ALONE).returncode == 0
    psutil.Process(pids(env)[0]).kill()

    def reported() -> bool:
        state = load_state(state_dir(env))
        return state is not None and state.parts["exchange"].state == "failed"

    eventually(reported, 10, "the exit of the exchange is in the state")
    status = json.loads(run(env, "status", "--json").stdout)
    assert status["exchange"] == {
        "address": f"http://127.0.0.1:{env['BDI_DEVSTACK__EXCHANGE_PORT']}",
        "healthy": False,
        "pid": None,
        "detail": "ended with exit code -9",
    }


@pytest.mark.parametrize("end", ["down", "kill"])
def test_a_killed_part_is_restarted_and_ends_with_its_supervisor(env: dict[str, str], tmp_path: Path, end: str) -> None:
    with (tmp_path / "supervisor.log").open("wb") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-uc", RESTARTS_EXCHANGE], env=env, cwd=ROOT, stdout=log, stderr=log
        )

    def healthy() -> int | None:
        assert supervisor.poll() is None, (tmp_path / "supervisor.log").read_text()
        state = load_state(state_dir(env))
        part = state.parts.get("exchange") if state is not None else None
        return part.process.pid if part and part.process and part.state == "healthy" else None

    first = eventually(healthy, 60, "the exchange is healthy") or 0
    psutil.Process(first).kill()
    second = eventually(lambda: (pid := healthy()) != first and pid, 60, "the exchange is healthy again") or 0
    status = json.loads(run(env, "status", "--json").stdout)
    assert status["exchange"]["healthy"]
    assert status["exchange"]["pid"] == second
    reported = (tmp_path / "supervisor.log").read_text()
    assert "exchange ended with exit code -9; last log line: " in reported
    assert "; restart in 1 s (1 of 5)" in reported
    assert "exchange healthy again at http://127.0.0.1:" in reported
    if end == "down":
        with subprocess.Popen([*DEVSTACK, "down"], env=env, cwd=ROOT) as down:
            assert supervisor.wait(30) == 0  # reaped here; before that, `down` sees it as running
        assert down.returncode == 0
        assert all_gone([first, second])
    else:
        supervisor.kill()
        supervisor.wait()
        eventually(lambda: all_gone([first, second]), 10, "the new exchange is gone with its supervisor")


def test_a_port_in_use_is_a_one_line_error(env: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(env["BDI_DEVSTACK__EXCHANGE_PORT"])))
        taken.listen()
        result = run(env, "up", *EXCHANGE_ALONE)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "is in use" in line
    assert "BDI_DEVSTACK__EXCHANGE_PORT" in line


def test_a_part_that_cannot_start_shows_its_log_and_leaves_nothing(env: dict[str, str]) -> None:
    result = run({**env, "BDI_DEVSTACK__EXCHANGE_DATA": "/nowhere"}, "up", *EXCHANGE_ALONE)
    assert result.returncode == 1
    assert "exchange: ended with exit code" in result.stderr
    assert "/nowhere" in result.stderr
    assert all_gone(pids(env))


def test_kafka_and_hdfs_keep_their_data_over_restarts(env: dict[str, str]) -> None:
    for _ in range(2):
        started = run(env, "up", "--without", "exchange")
        assert started.returncode == 0, started.stderr
        children = pids(env)
        assert len(children) == 3
        assert run(env, "down").returncode == 0
        assert all_gone(children)
        assert not (state_dir(env) / SCRATCH).exists()
        identity = (state_dir(env) / "kafka" / "data" / "meta.properties").read_text()
        name = (state_dir(env) / "hdfs" / "name" / "current" / "VERSION").read_text()
        kept = state_dir(env) / "kept.json"
        cluster = [line for line in identity.splitlines() if line.startswith("cluster.id")]
        namespace = [line for line in name.splitlines() if line.startswith(("namespaceID", "clusterID"))]
        if kept.exists():
            assert json.loads(kept.read_text()) == [cluster, namespace]
        kept.write_text(json.dumps([cluster, namespace]))


@pytest.mark.parametrize(("end", "exit_code"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_a_demo_that_is_stopped_during_its_start_leaves_nothing(
    env: dict[str, str], tmp_path: Path, end: signal.Signals, exit_code: int
) -> None:
    with (tmp_path / "demo.log").open("wb") as log:
        demo = subprocess.Popen([*DEVSTACK, "demo"], env=env, cwd=ROOT, stdout=log, stderr=log)

    def started() -> list[int]:
        state = load_state(state_dir(env))
        assert demo.poll() is None, (tmp_path / "demo.log").read_text()
        return pids(env) if state is not None and len(state.parts) == 4 else []

    children = eventually(lambda: len(started()) == 4 and started(), 60, "the demo runs its four parts")
    demo.send_signal(end)
    assert demo.wait(15) == exit_code
    eventually(lambda: all_gone(children or []), 2, "the demo's children are gone")


def test_an_altered_jar_is_downloaded_again_or_named(env: dict[str, str], tmp_path: Path) -> None:
    jars = tmp_path / "jars"
    source = settings_jars()
    for jar in read_lock():
        target = jars / jar.group_of_jars / jar.file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(source / jar.group_of_jars / jar.file_name)
    victim = read_lock()[-1]
    altered = jars / victim.group_of_jars / victim.file_name
    altered.unlink()
    altered.write_bytes(b"not a jar")
    nowhere = tmp_path / "ivysettings.xml"
    nowhere.write_text(
        '<ivysettings><settings defaultResolver="empty"/><resolvers>'
        f'<filesystem name="empty"><artifact pattern="{tmp_path}/none/[artifact]-[revision].[ext]"/></filesystem>'
        "</resolvers></ivysettings>"
    )
    result = run({**env, "BDI_DEVSTACK__JARS_DIR": str(jars), "BDI_DEVSTACK__IVY_SETTINGS": str(nowhere)}, "jars")
    assert result.returncode == 1
    assert f"jar {victim.coordinates} could not be fetched" in result.stderr
    assert not altered.exists()
    result = run({**env, "BDI_DEVSTACK__JARS_DIR": str(jars)}, "jars")
    assert result.returncode == 0, result.stderr
    assert "jars: 1 fetched" in result.stdout


def settings_jars() -> Path:
    from config.paths import jars_dir

    return jars_dir(settings_with({}))
