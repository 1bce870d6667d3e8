"""Reads downloaded kline archives: zip files of one CSV each, named SYMBOL-INTERVAL-DATE.zip, with a checksum file.

The columns are those of the REST klines; a header row is optional. Times are µs from 2025 on and ms before. Source:
https://github.com/binance/binance-public-data and the files themselves.
"""

import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from batch.klines.history import History
from batch.progress import write_progress
from exchanges.binance.klines import Kline, csv_row, parse_row
from marketdata.errors import InvalidValueError, StorageError
from marketdata.markets import Market

_NAME = re.compile(r"([A-Z0-9]+)-(1m|1h)-\d{4}-\d{2}(-\d{2})?\.zip")


def archives(folder: Path, markets: Sequence[Market]) -> list[tuple[Path, Market, str]]:
    """Return the archives of the markets below a folder, with market and interval.

    Raises:
        StorageError: there are none.
    """
    by_name = {market.binance: market for market in markets}
    found = []
    for path in sorted(folder.rglob("*.zip")):
        match = _NAME.fullmatch(path.name)
        if match and match[1] in by_name:
            found.append((path, by_name[match[1]], match[2]))
    if not found:
        msg = f"--archive: {folder}: no kline archives; expected files like {markets[0].binance}-1m-2024-08.zip"
        raise StorageError(msg)
    return found


def _read_checked(path: Path) -> bytes:
    content = path.read_bytes()
    checksum = path.with_name(path.name + ".CHECKSUM")
    if checksum.is_file():
        words = checksum.read_text(encoding="utf-8").split()
        expected = words[0].lower() if words else ""
        actual = hashlib.sha256(content).hexdigest()
        if expected != actual:
            msg = f"{path}: SHA-256 is {actual}, expected {expected or 'one'} of {checksum.name}; download it again"
            raise StorageError(msg)
    return content


def read_archive(path: Path, interval: str) -> Iterator[Kline]:
    """Yield the klines of one archive in file order.

    Raises:
        StorageError: the checksum does not match, the file is not a zip of one CSV, or a row is not a kline.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(_read_checked(path))) as zipped:
            names = [name for name in zipped.namelist() if name.endswith(".csv")]
            if len(names) != 1:
                msg = f"{path}: {len(names)} CSV files; expected one"
                raise StorageError(msg)
            text = zipped.read(names[0]).decode("utf-8")
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        msg = f"{path}: {error}; expected a zip of one CSV file"
        raise StorageError(msg) from error
    for line, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        if line == 1 and row and not row[0].isdigit():
            continue  # a header row
        try:
            kline = parse_row(csv_row(row), interval)
        except InvalidValueError as error:
            msg = f"{path}: line {line}: {error}"
            raise StorageError(msg) from error
        yield kline


def read_archives(folder: Path, markets: Sequence[Market], stopped: Callable[[], bool]) -> History:
    """Read all archives of the markets below a folder; of duplicate klines the one of the last file is kept.

    Raises:
        StorageError: there are no archives, an archive is invalid, or `stopped` returned True.
    """
    found: dict[tuple[str, str], dict[int, Kline]] = {}
    files = archives(folder, markets)
    for done, (path, market, interval) in enumerate(files, start=1):
        if stopped():
            msg = "backfill: stopped; nothing of this run was stored"
            raise StorageError(msg)
        found.setdefault((market.symbol, interval), {}).update({k.open_ms: k for k in read_archive(path, interval)})
        write_progress("backfill archives", done, len(files))
    return History.of(found, {})
