"""A scripted server and an HTTP client for each test."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.scripted_server import ScriptedServer, running_server


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with running_server() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as opened:
        yield opened
