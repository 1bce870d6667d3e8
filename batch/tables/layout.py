"""Layout of the three Parquet tables: columns, keys, sort order, and which file a row belongs to.

A table's rows are split into slots of time, one file each. This module uses no Spark.
"""

from collections.abc import Callable
from dataclasses import dataclass

from batch.schemas import CANDLES, HOURLY, RAW, column_names
from config import Settings
from marketdata.hourly import BASIS_RANK
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, floor_to, from_rfc3339, to_datetime

_BASIS_CASES = " ".join(f"WHEN '{basis}' THEN {rank}" for basis, rank in BASIS_RANK.items())


@dataclass(frozen=True, slots=True)
class Table:
    """A table of Parquet files, one file per slot of time.

    Attributes:
        name: table name, also the name of its lock.
        folder: path on HDFS.
        ddl: columns, as Spark DDL.
        key: columns that identify a row.
        order: columns that a file is sorted by.
        time: column that determines a row's slot.
        slot_sql: Spark SQL expression of a row's slot name; safe to use in a path.
        prefer: ORDER BY expression; of rows with equal keys the first is kept. `_new` is 1 for a row being merged.
        slot_of: slot name of a time in ms.
        file_of: path of a slot's file.
        step_ms: length of a slot in ms, or a divisor of it.
    """

    name: str
    folder: str
    ddl: str
    key: tuple[str, ...]
    order: tuple[str, ...]
    time: str
    slot_sql: str
    prefer: str
    slot_of: Callable[[int], str]
    file_of: Callable[[str], str]
    step_ms: int

    @property
    def columns(self) -> tuple[str, ...]:
        return column_names(self.ddl)

    def slots(self, from_ms: int, to_ms: int) -> list[str]:
        """Names of the slots that overlap [from_ms, to_ms)."""
        starts = range(floor_to(from_ms, self.step_ms), to_ms, self.step_ms)
        return list(dict.fromkeys(self.slot_of(at) for at in starts))


def _raw_file(folder: str, slot: str, minutes: int) -> str:
    date, hour, minute = slot.rsplit("-", 2)
    name = "ticks.parquet" if minutes == 60 else f"ticks-{minute}.parquet"  # noqa: PLR2004  one file per hour
    return f"{folder}/date={date}/hour={int(hour)}/{name}"


def raw_data(settings: Settings) -> Table:
    """Enriched ticks, one file per hour or per `batch.raw_slot_minutes`; the first row of a tick_id is kept."""
    folder, minutes = settings.hdfs.raw_data, settings.batch.raw_slot_minutes
    return Table(
        name="raw_data",
        folder=folder,
        ddl=RAW,
        key=("tick_id",),
        order=("symbol", "timestamp", "tick_id"),
        time="timestamp",
        slot_sql=(
            "concat(date_format(timestamp, 'yyyy-MM-dd-HH-'), "
            f"lpad(cast(minute(timestamp) div {minutes} * {minutes} AS STRING), 2, '0'))"
        ),
        prefer="_new",
        slot_of=lambda ms: (
            to_datetime(ms).strftime("%Y-%m-%d-%H-") + f"{to_datetime(ms).minute // minutes * minutes:02d}"
        ),
        file_of=lambda slot: _raw_file(folder, slot, minutes),
        step_ms=MINUTE_MS * minutes if 60 % minutes == 0 else MINUTE_MS,
    )


def hour_of_raw_file(file: str) -> int | None:
    """Return the hour (start time, ms) that a file of raw_data belongs to; None for a path without date and hour."""
    parts = dict(part.split("=", 1) for part in file.split("/") if "=" in part)
    if "date" not in parts or "hour" not in parts:
        return None
    return from_rfc3339(f"{parts['date']}T{int(parts['hour']):02d}:00:00Z")


def minute_candles(settings: Settings) -> Table:
    """Closed one-minute candles, one file per day; a stored row is never replaced."""
    folder = settings.hdfs.minute_candles
    return Table(
        name="minute_candles",
        folder=folder,
        ddl=CANDLES,
        key=("symbol", "open_time"),
        order=("symbol", "open_time"),
        time="open_time",
        slot_sql="date_format(open_time, 'yyyy-MM-dd')",
        prefer="_new",
        slot_of=lambda ms: to_datetime(ms).strftime("%Y-%m-%d"),
        file_of=lambda slot: f"{folder}/candles-{slot}.parquet",
        step_ms=DAY_MS,
    )


def hourly_metrics(settings: Settings) -> Table:
    """Hourly rows, one file per month; the row of the higher basis is kept, of equal bases the newer one."""
    folder = settings.hdfs.hourly_metrics
    return Table(
        name="hourly_metrics",
        folder=folder,
        ddl=HOURLY,
        key=("symbol", "hour_start"),
        order=("symbol", "hour_start"),
        time="hour_start",
        slot_sql="date_format(hour_start, 'yyyy-MM')",
        prefer=f"CASE basis {_BASIS_CASES} END DESC, _new DESC",
        slot_of=lambda ms: to_datetime(ms).strftime("%Y-%m"),
        file_of=lambda slot: f"{folder}/hourly-{slot}.parquet",
        step_ms=HOUR_MS,
    )
