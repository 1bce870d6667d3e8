"""Reads downloaded kline archives: zip files of one CSV each, named SYMBOL-INTERVAL-DATE.zip, with a checksum file.

The columns are those of the REST klines; header rows are optional. Times are µs from 2025 on and ms before. Source:
https://github.com/binance/binance-public-data and the files themselves.
"""

import csv
import hashlib
import io
import logging
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from batch.klines.history import History
from batch.progress import write_progress
from exchanges.binance.klines import Kline, csv_row, parse_row
from exchanges.refused_rows import log_refused
from marketdata.errors import ArgumentError, InvalidValueError, StorageError
from marketdata.markets import Market

_log = logging.getLogger(__name__)

_NAME = re.compile(r"([A-Z0-9]+)-(1m|1h)-(?P<month>\d{4}-\d{2})(?P<day>-\d{2})?\.(?i:zip)")
_DIGEST = re.compile(rb"\s*([0-9a-fA-F]{64})(?![0-9a-fA-F])")
_MAX_CHECKSUM_BYTES = 4096
_MAX_CSV_BYTES = 64 << 20  # a month of one-minute klines has 6 MB
_HEADER = re.compile(r"[^0-9]*[A-Za-z][^0-9]*")  # no open time
# What zipfile raises for files that are truncated, encrypted, corrupt, or compressed in another way.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError),
    *(OSError, ValueError, csv.Error, OverflowError, struct.error),
)


def archives(folder: Path, markets: Sequence[Market]) -> list[tuple[Path, Market, str]]:
    """Return the archives of the markets below a folder, with market and interval, in the order of reading.

    Raises:
        ArgumentError: there are none.
    """
    by_name = {market.binance: market for market in markets}
    found = []
    for path in folder.rglob("*.[zZ][iI][pP]"):
        match = _NAME.fullmatch(path.name)
        if match and match[1] in by_name:
            found.append(((match["month"], match["day"] is None, path), by_name[match[1]], match[2]))
    found.sort(key=lambda item: item[0])
    if not found:
        expected = f"a folder with kline archives, files like {markets[0].binance}-1m-2024-08.zip"
        raise ArgumentError("--archive", str(folder), expected)
    return [(path, market, interval) for (_, _, path), market, interval in found]


def _check_digest(path: Path) -> None:
    """Compare a file with the SHA-256 of its checksum file, if there is one."""
    checksum = path.with_name(path.name + ".CHECKSUM")
    if not checksum.is_file():
        return
    with checksum.open("rb") as file:
        digest = _DIGEST.match(file.read(_MAX_CHECKSUM_BYTES))
    expected = digest[1].decode().lower() if digest else "64 hexadecimal digits"
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if expected != actual:
        msg = f"{path}: SHA-256 is {actual}, expected {expected} of {checksum.name}; download it again"
        raise StorageError(msg)


def _read_csv(path: Path) -> str:
    """The text of the CSV file in an archive; entries of macOS are ignored."""
    with zipfile.ZipFile(path) as zipped:
        names = [name for name in zipped.namelist() if _is_csv(name)]
        if len(names) != 1:
            msg = f"{path}: {len(names)} CSV files; expected one"
            raise StorageError(msg)
        with zipped.open(names[0]) as member:
            content = member.read(_MAX_CSV_BYTES + 1)
    if len(content) > _MAX_CSV_BYTES:
        msg = f"{path}: {names[0]}: expected at most {_MAX_CSV_BYTES:,} bytes, decompressed"
        raise StorageError(msg)
    return content.decode("utf-8-sig")


def _is_csv(name: str) -> bool:
    file = PurePosixPath(name)
    return file.suffix.lower() == ".csv" and not file.name.startswith("._") and "__MACOSX" not in file.parts


@dataclass(frozen=True, slots=True)
class Archive:
    """The contents of one archive: klines in file order, and line and error of each row that is not a kline."""

    klines: list[Kline]
    refused: list[str]


def read_archive(path: Path, interval: str) -> Archive:
    """Read one archive. Blank lines and header rows are skipped, wherever they are.

    Raises:
        StorageError: the file cannot be read, its checksum differs, or it is not a zip of one CSV; the message names
            the file and the reason.
    """
    klines: list[Kline] = []
    refused: list[str] = []
    try:
        _check_digest(path)
        reader = csv.reader(io.StringIO(_read_csv(path), newline=""))
        for row in reader:
            if not any(value.strip() for value in row) or _HEADER.fullmatch(row[0]):
                continue
            try:
                klines.append(parse_row(csv_row(row), interval))
            except InvalidValueError as error:
                refused.append(f"line {reader.line_num}: {error}")
    except _UNREADABLE as error:
        msg = f"{path}: {error or type(error).__name__}; expected a zip of one CSV file"
        raise StorageError(msg) from error
    return Archive(klines, refused)


def read_archives(folder: Path, markets: Sequence[Market], stopped: Callable[[], bool]) -> History:
    """Read all archives of the markets below a folder.

    Of several klines of the same market and time the last one is kept. Archives are read by month, and in a month the
    daily ones before the monthly one, which the exchange publishes last; then by path. Klines that replace others with
    different values are counted and logged by file.

    Rows that are not klines, and files that cannot be read, are left out, logged and counted.

    Raises:
        ArgumentError: there are no archives.
        StorageError: `stopped` returned True.
    """
    found: dict[tuple[str, str], dict[int, Kline]] = {}
    failed: list[str] = []
    n_refused = n_conflicting = 0
    files = archives(folder, markets)
    for done, (path, market, interval) in enumerate(files, start=1):
        if stopped():
            msg = "backfill: stopped; nothing of this run was stored"
            raise StorageError(msg)
        try:
            archive = read_archive(path, interval)
        except StorageError as error:
            _log.error("%s", error)
            failed.append(str(path))
        else:
            log_refused(_log, str(path), archive.refused)
            n_refused += len(archive.refused)
            rows = found.setdefault((market.symbol, interval), {})
            conflicting = 0
            for kline in archive.klines:
                conflicting += rows.setdefault(kline.open_ms, kline) != kline
                rows[kline.open_ms] = kline
            if conflicting:
                _log.warning("%s: %d klines replace earlier ones of the same time", path, conflicting)
            n_conflicting += conflicting
        write_progress("backfill archives", done, len(files))
    return History.of(found, {}, n_refused=n_refused, failed=failed, n_conflicting=n_conflicting)
