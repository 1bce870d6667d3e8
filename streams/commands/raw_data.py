"""Ticks out of HDFS's raw_data: files over WebHDFS, read with pyarrow, each row as the tick that it was.

Of a row, the columns that raw_data derives are left out; sources are put together from their columns. It must never
import batch, which writes the table: the columns' names are what both know.
"""

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import requests
import stamina
from hdfs import InsecureClient
from hdfs.util import HdfsError

from config.sections import HdfsSettings
from marketdata.errors import InvalidValueError, StorageError
from marketdata.parquet import read_parquet
from marketdata.records import SourceState, Tick
from marketdata.times import HOUR_MS, from_rfc3339, to_rfc3339
from streams.commands.arguments import Span

T = TypeVar("T")

_ERRORS = (HdfsError, requests.RequestException, pa.ArrowException, OSError)
_TRIES = 4
_TIMEOUT_S = 30
_SLICE = 1_000  # rows made into ticks at once
_DATE = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
_HOUR = re.compile(r"hour=(\d{1,2})")
_STATUS = "_status"
_OF_A_SOURCE = ("status", "observed_at", "received_at", "staleness_ms")
_PLAIN = tuple(
    name for name in Tick.__struct_fields__ if name not in {"timestamp", "trade_timestamp", "sources", "flags"}
)


@dataclass(frozen=True, slots=True)
class StoredHour:
    """The files that hold one hour's ticks."""

    start_ms: int
    files: tuple[str, ...]


class RawData:
    """Reads the table; blocking, for a thread."""

    def __init__(self, settings: HdfsSettings) -> None:
        session = requests.Session()
        session.trust_env = False  # loopback and cluster addresses must not go through a proxy of the environment
        self._client = InsecureClient(settings.webhdfs, user=settings.user, timeout=_TIMEOUT_S, session=session)
        self._address = settings.webhdfs
        self.folder = settings.raw_data

    def hours(self, span: Span) -> list[StoredHour]:
        """The hours that meet a span, in order.

        Raises:
            StorageError: HDFS does not answer.
        """
        found = []
        for date, day in self._folders(self.folder, _DATE):
            for hour, folder in self._folders(day, _HOUR):
                start_ms = from_rfc3339(f"{date}T{int(hour):02d}:00:00Z", folder)
                if span.meets(start_ms, start_ms + HOUR_MS):
                    names = sorted(name for name in self._names(folder) if name.endswith(".parquet"))
                    found.append(StoredHour(start_ms, tuple(posixpath.join(folder, name) for name in names)))
        return sorted(found, key=lambda hour: hour.start_ms)

    def ticks(self, hour: StoredHour, span: Span) -> list[Tick]:
        """The ticks of an hour within a span, in the order of their time, then of their market.

        Raises:
            StorageError: a file cannot be read, or holds no ticks.
        """
        tables = [self._call(file, lambda file=file: self._table(file)) for file in hour.files]  # type: ignore[misc]
        if not tables:
            return []
        where = hour.files[0]
        try:
            rows = _with_ms(pa.concat_tables(tables, promote_options="default"))
            rows = rows.sort_by([("timestamp", "ascending"), ("symbol", "ascending")])
            sources = [name.removesuffix(_STATUS) for name in rows.column_names if name.endswith(_STATUS)]
            return [
                _tick(row, sources)
                for batch in rows.to_batches(_SLICE)
                for row in batch.to_pylist()
                if span.holds(row["timestamp"])
            ]
        except (KeyError, pa.ArrowException, TypeError, InvalidValueError) as error:
            raise StorageError(f"{where}: not ticks of raw_data: {error!r}") from error

    def _table(self, file: str) -> pa.Table:
        with self._client.read(file) as stream:
            content = stream.read()
        return read_parquet(content)

    def _folders(self, parent: str, named: re.Pattern[str]) -> list[tuple[str, str]]:
        """What `named` finds in the names of a folder's folders, and their paths."""
        matches = [(named.fullmatch(name), name) for name in self._names(parent)]
        return [(match.group(1), posixpath.join(parent, name)) for match, name in matches if match is not None]

    def _names(self, folder: str) -> list[str]:
        """The names in a folder; none where it is not there."""

        def names() -> list[str]:
            if self._client.status(folder, strict=False) is None:
                return []
            return list(self._client.list(folder))

        return self._call(folder, names)

    def _call(self, what: str, action: Callable[[], T]) -> T:
        try:
            # The blocks of a file that is replaced vanish under its reader: it is read again, whole.
            for attempt in stamina.retry_context(on=_ERRORS, attempts=_TRIES, wait_initial=0.1, wait_max=1.0):
                with attempt:
                    return action()
        except _ERRORS as error:
            raise StorageError(f"hdfs.webhdfs: {self._address}: {what} cannot be read: {error}") from error
        raise AssertionError  # the loop returns or raises


def _with_ms(rows: pa.Table) -> pa.Table:
    """The same rows, with times as integers of ms."""
    for number, column in enumerate(rows.schema):
        if pa.types.is_timestamp(column.type):
            ms = rows[column.name].cast(pa.timestamp("ms", tz="UTC"), safe=False).cast(pa.int64())
            rows = rows.set_column(number, column.name, ms)
    return rows


def _tick(row: dict[str, Any], sources: Sequence[str]) -> Tick:
    # A clean tick's id ends with its time as it was written: with it, the bytes come out as they went in.
    timestamp = row["tick_id"].partition("|")[2]
    if from_rfc3339(timestamp) != row["timestamp"]:
        raise InvalidValueError("tick_id", row["tick_id"], f"symbol|timestamp of {to_rfc3339(row['timestamp'])}")
    return Tick(
        **{name: row[name] for name in _PLAIN},
        timestamp=timestamp,
        trade_timestamp=_time(row["trade_timestamp"]),
        sources={name: _state(row, name) for name in sources if row[name + _STATUS] is not None},
        flags=tuple(row["flags"] or ()),
    )


def _state(row: dict[str, Any], source: str) -> SourceState:
    status, observed, received, staleness = (row[f"{source}_{name}"] for name in _OF_A_SOURCE)
    return SourceState(status=status, observed_at=_time(observed), received_at=_time(received), staleness_ms=staleness)


def _time(ms: int | None) -> str | None:
    return None if ms is None else to_rfc3339(ms)
