"""Kline archives that were downloaded: zips of one CSV each, named SYMBOL-INTERVAL-DATE.zip, with a checksum beside.

Columns are those of the REST klines. There may be a header row; times are µs from 2025 on and ms before, told apart by
their size. Source: the archive's published description and its files.
"""

import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from exchanges.binance.klines import Kline, csv_row, parse_row
from marketdata.errors import InvalidValueError, StorageError
from marketdata.markets import Market

_NAME = re.compile(r"([A-Z0-9]+)-(1m|1h)-\d{4}-\d{2}(-\d{2})?\.zip")


def archives(folder: Path, markets: Sequence[Market]) -> list[tuple[Path, Market, str]]:
    """The zips below a folder that hold one of the markets' candles, with market and interval.

    Raises:
        StorageError: there is none.
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


def _checked(path: Path) -> bytes:
    content = path.read_bytes()
    beside = path.with_name(path.name + ".CHECKSUM")
    if beside.is_file():
        words = beside.read_text(encoding="utf-8").split()
        told = words[0].lower() if words else ""
        actual = hashlib.sha256(content).hexdigest()
        if told != actual:
            msg = f"{path}: SHA-256 is {actual}, expected {told or 'one'} of {beside.name}; fetch it again"
            raise StorageError(msg)
    return content


def read_archive(path: Path, interval: str) -> Iterator[Kline]:
    """The candles of one zip, in the file's order.

    Raises:
        StorageError: the checksum beside it does not fit, it is no such zip, or a row is not a kline (named by line).
    """
    try:
        with zipfile.ZipFile(io.BytesIO(_checked(path))) as zipped:
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
