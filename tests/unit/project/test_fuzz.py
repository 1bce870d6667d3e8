"""A portion of `make fuzz`: nothing but the declared errors escapes the handlers of records."""

import logging
from collections.abc import Iterator

import pytest

from tests.fuzz.__main__ import fuzz
from tests.fuzz.handlers import HANDLERS

CASES = 2_500
SEED = 7


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)  # skipped records are logged
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", HANDLERS)
def test_no_record_ends_a_handler(name: str) -> None:
    outcomes = fuzz(name, CASES * HANDLERS[name][1] // 100, SEED)
    accepted = {"codec": "decoded", "views": "applied", "raw": "type"}.get(name, "accepted")
    assert outcomes[accepted] > 0
