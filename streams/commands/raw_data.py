"""Ticks from the table raw_data on HDFS, read over WebHDFS: each row becomes the tick that it was made from.

Columns that raw_data derives are ignored; the states of the sources are assembled from their columns. Nothing but the
names of the columns is shared with batch, which writes the table.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clients.webhdfs import WebHdfs
from config.sections import HdfsSettings
from marketdata.errors import InvalidValueError, StorageError
from marketdata.records import SourceState, Tick
from marketdata.times import HOUR_MS, from_rfc3339, to_rfc3339
from streams.commands.arguments import Span

_BATCH_ROWS = 1_000  # rows converted to ticks at once
_DATE = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
_HOUR = re.compile(r"hour=(\d{1,2})")
_STATUS = "_status"
_STATE_COLUMNS = ("status", "observed_at", "received_at", "staleness_ms")
_UNCHANGED = tuple(
    name for name in Tick.__struct_fields__ if name not in {"timestamp", "trade_timestamp", "sources", "flags"}
)


@dataclass(frozen=True, slots=True)
class StoredHour:
    """The files with the ticks of one hour."""

    start_ms: int
    files: tuple[str, ...]


class RawData:
    """Reads the table. Blocking: call it in a thread."""

    def __init__(self, settings: HdfsSettings) -> None:
        self._hdfs = WebHdfs(settings)
        self.folder = settings.raw_data

    def hours(self, span: Span) -> list[StoredHour]:
        """The hours that overlap a span, in order.

        Raises:
            StorageError: HDFS does not answer.
        """
        found = []
        for date, day in self._folders(self.folder, _DATE):
            for hour, folder in self._folders(day, _HOUR):
                start_ms = from_rfc3339(f"{date}T{int(hour):02d}:00:00Z", folder)
                if span.meets(start_ms, start_ms + HOUR_MS):
                    files = self._hdfs.files(folder, ".parquet")
                    found.append(StoredHour(start_ms, tuple(file.path for file in files)))
        return sorted(found, key=lambda hour: hour.start_ms)

    def ticks(self, hour: StoredHour, span: Span) -> list[Tick]:
        """The ticks of an hour within a span, ordered by time and market.

        Raises:
            StorageError: a file cannot be read, or contains other rows than ticks.
        """
        tables = [self._hdfs.read_table(file) for file in hour.files]
        if not tables:
            return []
        where = hour.files[0]
        try:
            rows = _with_ms(pa.concat_tables(tables, promote_options="default"))
            rows = rows.sort_by([("timestamp", "ascending"), ("symbol", "ascending")])
            sources = [name.removesuffix(_STATUS) for name in rows.column_names if name.endswith(_STATUS)]
            return [
                _tick(row, sources)
                for batch in rows.to_batches(_BATCH_ROWS)
                for row in batch.to_pylist()
                if span.holds(row["timestamp"])
            ]
        except (KeyError, pa.ArrowException, TypeError, InvalidValueError) as error:
            raise StorageError(f"{where}: expected ticks of raw_data: {error!r}") from error

    def _folders(self, parent: str, pattern: re.Pattern[str]) -> list[tuple[str, str]]:
        """The folders whose names match `pattern`: its first group, and the path."""
        matches = [(pattern.fullmatch(name), name) for name in self._hdfs.folders(parent)]
        return [(match.group(1), f"{parent}/{name}") for match, name in matches if match is not None]


def _with_ms(rows: pa.Table) -> pa.Table:
    """The rows with times as integers (Unix time in ms)."""
    for number, column in enumerate(rows.schema):
        if pa.types.is_timestamp(column.type):
            ms = rows[column.name].cast(pa.timestamp("ms", tz="UTC"), safe=False).cast(pa.int64())
            rows = rows.set_column(number, column.name, ms)
    return rows


def _tick(row: dict[str, Any], sources: Sequence[str]) -> Tick:
    # A clean tick's id ends with its timestamp as it was written, so that encoding gives the same bytes again.
    timestamp = row["tick_id"].partition("|")[2]
    if from_rfc3339(timestamp) != row["timestamp"]:
        raise InvalidValueError("tick_id", row["tick_id"], f"symbol|timestamp of {to_rfc3339(row['timestamp'])}")
    return Tick(
        **{name: row[name] for name in _UNCHANGED},
        timestamp=timestamp,
        trade_timestamp=_time(row["trade_timestamp"]),
        sources={name: _state(row, name) for name in sources if row[name + _STATUS] is not None},
        flags=tuple(row["flags"] or ()),
    )


def _state(row: dict[str, Any], source: str) -> SourceState:
    status, observed, received, staleness = (row[f"{source}_{name}"] for name in _STATE_COLUMNS)
    return SourceState(status=status, observed_at=_time(observed), received_at=_time(received), staleness_ms=staleness)


def _time(ms: int | None) -> str | None:
    return None if ms is None else to_rfc3339(ms)
