"""Fixtures of the real stack: one Kafka and HDFS a test run, fresh topics and folders a test."""

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from config import Settings
from devstack.state import load_state
from devstack.supervisor import require_java
from tests.stack import (
    ExchangeUnderTest,
    StackUnderTest,
    environment_of,
    eventually,
    free_ports,
    running,
    settings_with,
)

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackUnderTest]:
    """Kafka and HDFS on free ports in a temporary folder; they end with the test run, however that ends."""
    folder = tmp_path_factory.mktemp("stack")
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
        patch.setenv("JAVA_HOME", str(require_java().home))  # Spark runs inside the tests as well
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


@pytest.fixture
def settings(stack: StackUnderTest, tmp_path: Path) -> Settings:
    """The stack's settings with topics, consumer groups and folders that this test alone uses."""
    unique = f"t{uuid.uuid4().hex[:10]}"
    base = stack.settings
    return base.model_copy(
        update={
            "topics": base.topics.model_copy(update={"prefix": f"{unique}-"}),
            "hdfs": base.hdfs.model_copy(update={"root": f"/{unique}"}),
            "streams": base.streams.model_copy(
                update={"app_id": unique, "data_dir": tmp_path / "streams", "web_port": free_ports(1)[0]}
            ),
        }
    )


@pytest.fixture
def child_env(settings: Settings) -> dict[str, str]:
    """The environment in which a child program reads this test's settings."""
    return environment_of(settings)


@pytest.fixture(scope="module")
def start_exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ExchangeUnderTest]]:
    """Starts simulated exchanges: `start_exchange(start="2024-08-05T00:00:00Z", speed=60)`; they end with the module.

    Keywords are the long options of `python -m devstack exchange`; those not named are the settings' defaults.
    """
    with ExitStack() as programs:

        def start(**options: object) -> ExchangeUnderTest:
            folder = tmp_path_factory.mktemp("exchange")
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
            program = programs.enter_context(
                running(command, folder / "exchange.log", environment_of(settings_with({})))
            )

            def address() -> str | None:
                program.check_running()
                for line in program.output().splitlines():
                    if line.startswith("{") and "address" in line:
                        return str(json.loads(line)["address"])
                return None

            return ExchangeUnderTest(eventually(address, 60, "the exchange's readiness line") or "", program)

        yield start


@pytest.fixture
def exchange(request: pytest.FixtureRequest, start_exchange: Callable[..., ExchangeUnderTest]) -> ExchangeUnderTest:
    """A simulated exchange of its own; options by `@pytest.mark.parametrize("exchange", [{…}], indirect=True)`."""
    options: dict[str, object] = getattr(request, "param", {})
    return start_exchange(**options)
