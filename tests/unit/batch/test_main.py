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


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("backfill", "--hours", "-1"),
            "argument --hours: '-1': expected a whole number from 1 to 175200 (see --help)",
        ),
        (("backfill", "--hours", "0"), "argument --hours: '0': expected a whole number from 1 to 175200 (see --help)"),
        (("backfill", "--minutes", "1e9"), "argument --minutes: '1e9': expected a whole number from 0 to 10512000"),
        (("backfill", "--to", "tomorrow"), "--to: 'tomorrow': expected RFC 3339 with an offset"),
        (
            ("backfill", "--to", "2999-01-01T00:00:00Z"),
            "--to: '2999-01-01T00:00:00.000Z': expected a time after 2017-08",
        ),
        (
            ("backfill", "--to", "2017-08-01T00:00:00Z"),
            "--to: '2017-08-01T00:00:00.000Z': expected a time after 2017-08",
        ),
        (("backfill", "--symbols", ""), "--symbols: '': (): expected one or more distinct symbols"),
        (
            ("hourly", "--from", "2024-08-05T00:00:00Z", "--to", "2024-08-05T00:00:00Z"),
            "--to: '2024-08-05T00:00:00Z': ",
        ),
        (("hourly", "--from", "0001-01-01T00:00:00+23:59"), "--from: '0001-01-01T00:00:00+23:59': expected "),
    ],
    ids=" ".join,
)
def test_a_wrong_range_is_one_line_with_exit_code_2_before_spark_starts(
    words: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BDI_CLOCK__SOURCE", "system")
    monkeypatch.setattr("batch.jobs.run.spark_session", None)
    monkeypatch.setattr("batch.jobs.run.WebHdfs", None)
    monkeypatch.setattr("batch.jobs.run.StatusPublisher", None)
    try:
        code: object = main([*words])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"batch {words[0]}: {line}" in error
