"""Downloaded kline archives: header, ms or µs, checksums, and errors that name the file and line."""

import hashlib
import random
import re
import shutil
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from batch.jobs.backfill import summary
from batch.klines.archive import archives, read_archive, read_archives
from marketdata.errors import ArgumentError, StorageError
from marketdata.markets import Market
from marketdata.times import MINUTE_MS, from_rfc3339
from tests.support.paths import ROOT

NOON = from_rfc3339("2025-02-01T12:00:00Z")
BTC = Market.parse("BTC-USD")
DATA = ROOT / "tests" / "data" / "archive"
FIRST = from_rfc3339("2024-01-01T00:00:00Z")
HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)


def row(at_ms: int, factor: int) -> str:
    return f"{at_ms * factor},10,12,9,11,3.5,{(at_ms + MINUTE_MS) * factor - 1},35,7,1,10,0"


def make(folder: Path, lines: list[str], name: str = "BTCUSDT-1m-2025-02-01.zip", *, checksum: bool = True) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr(name.replace(".zip", ".csv"), "\n".join(lines) + "\n")
    if checksum:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name(f"{name}.CHECKSUM").write_text(f"{digest}  {name}\n")
    return path


@pytest.mark.parametrize("factor", [1, 1000])
@pytest.mark.parametrize("header", [[], [HEADER]])
def test_milliseconds_and_microseconds_with_and_without_a_header(
    tmp_path: Path, factor: int, header: list[str]
) -> None:
    path = make(tmp_path, [*header, row(NOON, factor), row(NOON + MINUTE_MS, factor)])
    assert [k.open_ms for k in read_archive(path, "1m").klines] == [NOON, NOON + MINUTE_MS]


def test_a_wrong_checksum_is_an_error(tmp_path: Path) -> None:
    path = make(tmp_path, [row(NOON, 1)])
    path.with_name(f"{path.name}.CHECKSUM").write_text("0" * 64 + "  x\n")
    with pytest.raises(StorageError, match=r"SHA-256 is .* expected 0000"):
        read_archive(path, "1m")


def test_an_invalid_row_is_left_out_and_reported_with_its_line(tmp_path: Path) -> None:
    path = make(tmp_path, [row(NOON, 1), "1,2,3", row(NOON + MINUTE_MS, 1), "", row(NOON + 1, 1)])
    archive = read_archive(path, "1m")
    assert [k.open_ms for k in archive.klines] == [NOON, NOON + MINUTE_MS]
    assert [line.split(":")[0] for line in archive.refused] == ["line 2", "line 5"]


def test_a_truncated_zip_is_an_error(tmp_path: Path) -> None:
    path = make(tmp_path, [row(NOON, 1)], checksum=False)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StorageError, match="expected a zip of one CSV file"):
        read_archive(path, "1m")


def test_only_archives_of_the_markets_are_read_and_the_last_file_wins(tmp_path: Path) -> None:
    make(tmp_path, [row(NOON, 1)], "BTCUSDT-1m-2025-01.zip")
    corrected = row(NOON, 1).replace(",3.5,", ",4.5,")
    make(tmp_path, [corrected], "BTCUSDT-1m-2025-02-01.zip")
    make(tmp_path, [row(NOON, 1)], "DOGEUSDT-1m-2025-02.zip")
    assert [market for _, market, _ in archives(tmp_path, [BTC])] == [BTC, BTC]
    history = read_archives(tmp_path, [BTC], lambda: False)
    assert [k.volume for k in history.klines["BTC-USD", "1m"]] == [4.5]


@pytest.mark.parametrize("folders", [("", ""), ("daily", "monthly"), ("z-daily", "monthly")])
def test_of_klines_that_differ_the_last_one_of_the_monthly_archive_is_kept(
    tmp_path: Path, folders: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(exist_ok=True)
    later = row(NOON + MINUTE_MS, 1)
    make(tmp_path / folders[0], [row(NOON, 1), later], "BTCUSDT-1m-2025-02-01.zip")
    monthly = [row(NOON, 1).replace(",3.5,", f",{volume},") for volume in (4.5, 5.5)]
    make(tmp_path / folders[1], [*monthly, later], "BTCUSDT-1m-2025-02.zip")
    history = read_archives(tmp_path, [BTC], lambda: False)
    assert [k.volume for k in history.klines["BTC-USD", "1m"]] == [5.5, 3.5]
    assert history.n_conflicting == 2
    (message,) = caplog.messages
    assert "BTCUSDT-1m-2025-02.zip: 2 klines replace earlier ones of the same time" in message
    assert "2 klines given again with other values, the last ones kept" in summary(history, 0, NOON)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"--archive: .*BTCUSDT-1m-2024-08\.zip"):
        archives(tmp_path, [BTC])


@pytest.mark.parametrize(
    "name", ["bom_header", "blank_tail", "header_twice", "upper_csv", "macos_zip", "float_count", "checksum_latin1"]
)
def test_unusual_archives_are_read_as_if_well_formed(name: str) -> None:
    history = read_archives(DATA / name, [BTC], lambda: False)
    opens = [k.open_ms for k in history.klines["BTC-USD", "1m"]]
    n_rows = {"header_twice": 2, "checksum_latin1": 1}.get(name, 3)
    assert opens == [FIRST + minute * MINUTE_MS for minute in range(n_rows)]
    assert (history.n_refused, history.failed) == (0, ())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("all_zero_row", "open: .*expected a number > 0"), ("low_above_open", "low: .*expected a number <= open")],
)
def test_a_row_that_is_not_valid_is_left_out_and_logged_with_file_and_line(
    name: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    history = read_archives(DATA / name, [BTC], lambda: False)
    assert [k.open_ms for k in history.klines["BTC-USD", "1m"]] == [FIRST, FIRST + 2 * MINUTE_MS]
    assert (history.n_refused, history.failed) == (1, ())
    [message] = caplog.messages
    assert re.search(rf"{name}/BTCUSDT-1m-2024-01.zip: row left out: line 2: {expected}", message)
    assert "1 invalid rows left out" in summary(history, 0, FIRST)


@pytest.mark.parametrize(("name", "reason"), [("corrupt_member", "invalid distance"), ("encrypted", "is encrypted")])
def test_a_file_that_cannot_be_read_costs_no_other_file(
    name: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(DATA / name, tmp_path / "a")
    make(tmp_path, [row(NOON, 1)], "BTCUSDT-1m-2025-02.zip")
    history = read_archives(tmp_path, [BTC], lambda: False)
    assert [k.open_ms for k in history.klines["BTC-USD", "1m"]] == [NOON]
    assert history.failed == (str(tmp_path / "a" / "BTCUSDT-1m-2024-01.zip"),)
    [message] = caplog.messages
    assert message.startswith(history.failed[0])
    assert reason in message
    assert "\n" not in message
    assert f"1 files not read: {history.failed[0]}" in summary(history, 0, FIRST)


def test_decompression_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.klines.archive._MAX_CSV_BYTES", 1 << 20)
    path = tmp_path / "BTCUSDT-1m-2025-02.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("BTCUSDT-1m-2025-02.csv", "\n" * (100 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(StorageError, match="at most 1,048,576 bytes"):
            read_archive(path, "1m")
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_is_a_storage_error_or_is_read(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = make(tmp_path, [row(NOON + minute * MINUTE_MS, 1) for minute in range(50)], checksum=False)
    original = path.read_bytes()
    for _case in range(20):
        damaged = bytearray(original)
        for _byte in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])])
        with suppress(StorageError):
            read_archive(path, "1m")
