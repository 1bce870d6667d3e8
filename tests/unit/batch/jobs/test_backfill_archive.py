"""Backfill from archives of which none can be read: one line each, exit code 1, no Spark."""

from typing import Any

import pytest

from batch.jobs import run
from clients.stop_signals import StopFlag
from config import Settings
from tests.support.paths import ROOT


class NoHdfs:
    """HDFS that is available and not used."""

    def __init__(self, _settings: Any) -> None:
        pass

    def wait(self) -> None:
        pass


@pytest.mark.parametrize("name", ["corrupt_member", "encrypted"])
def test_archives_that_cannot_be_read_end_backfill_with_exit_code_1(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "WebHdfs", NoHdfs)
    folder = str(ROOT / "tests" / "data" / "archive" / name)
    code = run.run_backfill(
        Settings(markets=["BTC-USD"]), StopFlag(), hours=None, minutes=None, to_ms=1_704_153_600_000, archive=folder
    )
    assert code == 1
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert caplog.messages[0].startswith(f"{folder}/BTCUSDT-1m-2024-01.zip: ")
    assert "1 files not read" in caplog.messages[1]
