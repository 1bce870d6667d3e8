"""Fixtures of the real stack: one Kafka and HDFS a test run, fresh topics and folders a test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from config import Settings
from tests.support.stack import (
    ExchangeUnderTest,
    StackUnderTest,
    alone,
    environment_of,
    running_exchange,
    running_stack,
)

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackUnderTest]:
    """Kafka and HDFS on free ports in a temporary folder; they end with the test run, however that ends."""
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def settings(stack: StackUnderTest, tmp_path: Path) -> Settings:
    """The stack's settings with topics, consumer groups and folders that this test alone uses."""
    return alone(stack.settings, tmp_path / "streams")


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
            return programs.enter_context(running_exchange(tmp_path_factory.mktemp("exchange"), **options))

        yield start


@pytest.fixture
def exchange(request: pytest.FixtureRequest, start_exchange: Callable[..., ExchangeUnderTest]) -> ExchangeUnderTest:
    """A simulated exchange of its own; options by `@pytest.mark.parametrize("exchange", [{…}], indirect=True)`."""
    options: dict[str, object] = getattr(request, "param", {})
    return start_exchange(**options)
