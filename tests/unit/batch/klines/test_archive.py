"""Downloaded kline archives: header, ms or µs, checksums, and errors that name the file and line."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from batch.klines.archive import archives, read_archive, read_archives
from marketdata.errors import StorageError
from marketdata.markets import Market
from marketdata.times import MINUTE_MS, from_rfc3339

NOON = from_rfc3339("2025-02-01T12:00:00Z")
BTC = Market.parse("BTC-USD")
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
    assert [k.open_ms for k in read_archive(path, "1m")] == [NOON, NOON + MINUTE_MS]


def test_a_wrong_checksum_is_an_error(tmp_path: Path) -> None:
    path = make(tmp_path, [row(NOON, 1)])
    path.with_name(f"{path.name}.CHECKSUM").write_text("0" * 64 + "  x\n")
    with pytest.raises(StorageError, match=r"SHA-256 is .* expected 0000"):
        list(read_archive(path, "1m"))


def test_an_invalid_row_is_reported_with_its_line(tmp_path: Path) -> None:
    path = make(tmp_path, [row(NOON, 1), "1,2,3"])
    with pytest.raises(StorageError, match="line 2"):
        list(read_archive(path, "1m"))


def test_a_truncated_zip_is_an_error(tmp_path: Path) -> None:
    path = make(tmp_path, [row(NOON, 1)], checksum=False)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StorageError, match="expected a zip of one CSV file"):
        list(read_archive(path, "1m"))


def test_only_archives_of_the_markets_are_read_and_the_last_file_wins(tmp_path: Path) -> None:
    make(tmp_path, [row(NOON, 1)], "BTCUSDT-1m-2025-01.zip")
    corrected = row(NOON, 1).replace(",3.5,", ",4.5,")
    make(tmp_path, [corrected], "BTCUSDT-1m-2025-02-01.zip")
    make(tmp_path, [row(NOON, 1)], "DOGEUSDT-1m-2025-02.zip")
    assert [market for _, market, _ in archives(tmp_path, [BTC])] == [BTC, BTC]
    history = read_archives(tmp_path, [BTC], lambda: False)
    assert [k.volume for k in history.klines["BTC-USD", "1m"]] == [4.5]


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"BTCUSDT-1m-2024-08\.zip"):
        archives(tmp_path, [BTC])
