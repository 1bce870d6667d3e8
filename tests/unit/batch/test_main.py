"""The command line of the batch jobs: markets of a backfill."""

from typing import Any

import pytest

from batch.__main__ import main


@pytest.fixture
def backfilled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The markets of each backfill that was started."""
    started: list[tuple[str, ...]] = []

    def run_backfill(settings: Any, _stop: Any, **_options: Any) -> int:
        started.append(settings.markets)
        return 0

    monkeypatch.setattr("batch.jobs.run.run_backfill", run_backfill)
    return started


def test_symbols_of_a_backfill_are_read_in_any_case_and_need_not_be_forecast(
    backfilled: list[tuple[str, ...]],
) -> None:
    assert main(["backfill", "--symbols", "eth-usd, w-usdt"]) == 0
    assert backfilled == [("ETH-USD", "W-USDT")]


def test_a_wrong_symbol_of_a_backfill_is_one_line_with_close_matches(
    backfilled: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backfill", "--symbols", "ETHUSD"]) == 2
    assert backfilled == []
    error = capsys.readouterr().err
    assert error.startswith("batch backfill: --symbols: 'ETHUSD': markets: symbol: 'ETHUSD': expected BASE-QUOTE")
    assert error.endswith("; close matches: ETH-USD\n")
    assert error.count("\n") == 1
