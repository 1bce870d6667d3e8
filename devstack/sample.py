"""Create the sample of real market history in the repository: `python -m devstack.sample --source DIR`.

Reproducible: the same source gives the same values. Values are copied, not derived.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from devstack.terminal import print_error, print_line
from marketdata.arguments import Parser
from marketdata.errors import BitcoinDataError, InvalidValueError
from marketdata.times import from_rfc3339

SAMPLE = Path(__file__).parent / "sample"
CHECKSUMS = "SHA256SUMS"
MAX_BYTES = 5_000_000
PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the sample: symbol, interval, and range of open times [start, end)."""

    symbol: str
    interval: str
    start: str
    end: str

    @property
    def name(self) -> str:
        """Path relative to the sample's folder."""
        last_day = "2024-08-14"
        return f"klines_{self.interval}/{self.symbol}-{self.interval}-{self.start[:10]}_{last_day}.parquet"


END = "2024-08-15T00:00:00Z"
PARTS = (
    *(Part(symbol, "1h", "2022-06-01T00:00:00Z", END) for symbol in ("BTCUSDT", "ETHUSDT", "XRPUSDT")),
    *(Part(symbol, "1m", "2024-07-29T00:00:00Z", END) for symbol in ("BTCUSDT", "ETHUSDT")),
)


def cut(source: Path, part: Part) -> pa.Table:
    """Return the rows of one part, ascending by timestamp, with the columns of ../shared/data.

    Raises:
        InvalidValueError: the source has no such rows.
    """
    files = sorted((source / f"klines_{part.interval}").glob(f"{part.symbol}-{part.interval}-*.parquet"))
    start_ms, end_ms = from_rfc3339(part.start), from_rfc3339(part.end)
    tables = []
    for path in files:
        table = pq.read_table(path, columns=["timestamp", *PRICES, "volume"])
        times = table["timestamp"]
        tables.append(table.filter(pc.and_(pc.greater_equal(times, start_ms), pc.less(times, end_ms))))
    table = pa.concat_tables(tables).sort_by("timestamp") if tables else pa.table({})
    if table.num_rows == 0:
        raise InvalidValueError("source", str(source), f"{part.symbol} {part.interval} from {part.start} to {part.end}")
    return table.replace_schema_metadata(None)


def write(table: pa.Table, path: Path) -> None:
    """Write one Parquet file: zstd, delta-encoded times, plain numbers (smaller than dictionaries)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=False,
        column_encoding={"timestamp": "DELTA_BINARY_PACKED"},
        row_group_size=table.num_rows,
    )


def checksums(folder: Path) -> str:
    """Return one line per file in the format of sha256sum."""
    paths = sorted(folder.glob("klines_*/*.parquet"))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    names = [path.relative_to(folder).as_posix() for path in paths]
    return "".join(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))


def make(source: Path, folder: Path) -> int:
    """Write the sample and its checksums; return its size in bytes.

    Raises:
        InvalidValueError: the source lacks a part, or the sample exceeds `MAX_BYTES`.
    """
    for part in PARTS:
        write(cut(source, part), folder / part.name)
    size = sum(path.stat().st_size for path in folder.glob("klines_*/*.parquet"))
    if size > MAX_BYTES:
        raise InvalidValueError("sample", f"{size} bytes", f"at most {MAX_BYTES}")
    (folder / CHECKSUMS).write_text(checksums(folder), encoding="utf-8")
    return size


def main(argv: Sequence[str]) -> int:
    """Create the sample and return the exit code."""
    parser = Parser(prog="devstack.sample", description="Create the sample of market history.")
    parser.add_argument("--source", type=Path, required=True, help="a folder with klines_1m/ and klines_1h/")
    parser.add_argument("--to", type=Path, default=SAMPLE, help="output folder (default: devstack/sample)")
    arguments = parser.parse_args(argv)
    try:
        size = make(arguments.source, arguments.to)
    except BitcoinDataError as error:
        print_error(f"devstack.sample: {error}")
        return 1
    print_line(f"{arguments.to}: {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
