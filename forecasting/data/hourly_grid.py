"""Hourly rows of one market as arrays on a gapless grid of hours.

Missing values are NaN; they are never replaced by a number. Hours without a row are marked absent.
"""

import hashlib
import io
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from marketdata.errors import ForecastError, StorageError
from marketdata.parquet import read_parquet
from marketdata.times import HOUR_MS, to_datetime, to_rfc3339
from marketdata.vocabulary import Origin

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NUMBERS = (
    "avg_price",
    "last_price",
    "high_price",
    "low_price",
    "avg_spread",
    "total_liquidity",
    "avg_volatility",
    "avg_volume",
    "n_ticks",
    "coverage",
)
_PRICES = ("avg_price", "last_price", "high_price", "low_price")
COLUMNS = ("symbol", "hour_start", *NUMBERS, "origin", "basis")


@dataclass(frozen=True)
class Hours:
    """Every hour from the first to the last row, shape (hours,) each.

    start_ms: start of the hour. present: a row with average and last price exists. live: the row contains ticks. basis:
    `ticks`, `candles_1m`, `candles_1h`, or an empty string if absent. The numbers are those of
    `marketdata.records.HourlyRow`, NaN if null or absent.
    """

    symbol: str
    start_ms: Ints
    present: Bools
    live: Bools
    basis: npt.NDArray[np.str_]
    avg_price: Floats
    last_price: Floats
    high_price: Floats
    low_price: Floats
    avg_spread: Floats
    total_liquidity: Floats
    avg_volatility: Floats
    avg_volume: Floats
    n_ticks: Floats
    coverage: Floats

    def __len__(self) -> int:
        return len(self.start_ms)

    @property
    def end_ms(self) -> int:
        """End of the newest hour."""
        return int(self.start_ms[-1]) + HOUR_MS

    def slice(self, first: int, stop: int) -> "Hours":
        """The hours [first, stop) of the grid."""
        values = {f.name: getattr(self, f.name)[first:stop] for f in fields(self) if f.name != "symbol"}
        return Hours(symbol=self.symbol, **values)


def month_table(data: bytes, path: str, symbol: str) -> pa.Table:
    """Return the rows of one market in a file of hourly_metrics, with the columns COLUMNS.

    Raises:
        StorageError: the file is not Parquet, a column is missing, or the rows are not unique and sorted by hour.
    """
    try:
        schema = pq.read_schema(io.BytesIO(data))
        missing = [name for name in COLUMNS if name not in schema.names]
        if missing:
            raise StorageError(f"{path}: columns: {missing} missing; expected those of HourlyRow")
        table = read_parquet(data, COLUMNS)
    except pa.ArrowInvalid as error:
        raise StorageError(f"{path}: not a Parquet file: {error}") from error
    table = table.filter(pc.equal(table["symbol"], symbol))
    if not pa.types.is_timestamp(table.schema.field("hour_start").type):
        raise StorageError(f"{path}: hour_start: {table.schema.field('hour_start').type}: expected a UTC timestamp")
    starts = _starts(table)
    if starts.size and (np.any(np.diff(starts) <= 0) or np.any(starts % HOUR_MS)):
        raise StorageError(f"{path}: hour_start: rows of {symbol} not unique, sorted and on the hour")
    return table


def _starts(table: pa.Table) -> Ints:
    milliseconds = pc.cast(table["hour_start"], pa.timestamp("ms", "UTC"), safe=False)
    return np.asarray(pc.cast(milliseconds, pa.int64()).to_numpy(), dtype=np.int64)


def to_hours(table: pa.Table, symbol: str) -> Hours:
    """Put the rows of one market on the grid of all hours from the first to the last.

    Raises:
        ForecastError: there are no rows.
        StorageError: an hour occurs twice, or a price is not positive.
    """
    if table.num_rows == 0:
        raise ForecastError(f"hourly_metrics: no rows of {symbol}: expected at least one (backfill first)")
    starts = _starts(table)
    if np.any(np.diff(starts) <= 0):
        raise StorageError(f"hourly_metrics: hour_start: rows of {symbol} not unique and sorted")
    slots = (starts - starts[0]) // HOUR_MS
    size = int(slots[-1]) + 1

    def on_grid(name: str) -> Floats:
        grid = np.full(size, np.nan)
        column = pc.cast(table[name], pa.float64())
        grid[slots] = column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
        return grid

    numbers = {name: on_grid(name) for name in NUMBERS}
    for name in _PRICES:
        if np.any(numbers[name] <= 0):
            raise StorageError(f"hourly_metrics: {name}: a row of {symbol} is not positive; expected a price or null")
    basis = np.full(size, "", dtype="<U10")
    basis[slots] = table["basis"].to_pylist()
    live = np.zeros(size, dtype=bool)
    live[slots] = np.asarray(table["origin"].to_pylist()) == Origin.LIVE
    present = np.isfinite(numbers["avg_price"]) & np.isfinite(numbers["last_price"])
    grid_ms = starts[0] + HOUR_MS * np.arange(size, dtype=np.int64)
    return Hours(symbol=symbol, start_ms=grid_ms, present=present, live=live, basis=basis, **numbers)


def digest(table: pa.Table) -> str:
    """SHA-256 of the rows' values, independent of files and chunks."""
    sink = io.BytesIO()
    plain = table.select(list(COLUMNS)).combine_chunks().replace_schema_metadata(None)
    with pa.ipc.new_stream(sink, plain.schema) as writer:
        writer.write_table(plain)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def to_parquet(table: pa.Table) -> bytes:
    """Return the rows as one Parquet file (zstd)."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def month_file(hour_start_ms: int) -> str:
    """Name of the hourly_metrics file that contains an hour."""
    return f"hourly-{to_datetime(hour_start_ms):%Y-%m}.parquet"


def describe(table: pa.Table) -> dict[str, object]:
    """Return a manifest of the rows: count, range, digest, and count by basis."""
    starts = _starts(table)
    basis, counts = np.unique(np.asarray(table["basis"].to_pylist(), dtype="<U10"), return_counts=True)
    return {
        "rows": int(table.num_rows),
        "first_hour": to_rfc3339(int(starts[0])),
        "last_hour": to_rfc3339(int(starts[-1])),
        "sha256": digest(table),
        "by_basis": {str(name): int(count) for name, count in zip(basis, counts, strict=True)},
    }
