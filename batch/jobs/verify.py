"""Checks the tables' guarantees with pyarrow and the formulas of `marketdata`, without Spark.

Guarantees: every tick is stored once and in the right file; candles and hourly rows are unique and sorted; enrichment
and hourly rows equal a recomputation by the same kernel; every closed hour has its row. Rows of an older definition
are counted, but not compared.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import to_builtins

from batch.schemas import SOURCES
from batch.tables.due_hours import contiguous_ranges, grace_ms
from batch.tables.layout import Table, hour_of_raw_file, hourly_metrics, minute_candles, raw_data
from batch.tables.lost_ranges import LostRange, read_lost_ranges
from batch.tables.stored_times import gap_ranges
from clients.webhdfs import WebHdfs
from config import Settings
from marketdata.enrichment import Enriched, enrich
from marketdata.hourly import BASIS_RANK, CANDLES, DEFINITION, TICKS, hour_rows
from marketdata.minutes import times_ms
from marketdata.records import SourceState, Tick
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, floor_to, to_rfc3339
from marketdata.vocabulary import Basis

_TOLERANCE = 1e-9
_MAX_SHOWN = 20
_ENRICHED_FIELDS = tuple(name for name in Enriched.__struct_fields__ if name not in {"date", "hour"})


@dataclass(slots=True)
class Report:
    """Result of a verification of the tables below `root`.

    Attributes:
        root: URL of the HDFS root.
        counts: number of rows by table.
        gaps: ranges of missing times by table and symbol; a gap is not a problem.
        lost: ranges of records that `raw` skipped, because they were not on their topic any more; not a problem.
        problems: one text per row that violates a guarantee.
        checked_hours: number of hourly rows recomputed.
        outdated: hours (start times, ms) of rows of an older definition; such a row is not a problem.
    """

    root: str
    counts: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, list[str]] = field(default_factory=dict)
    lost: list[LostRange] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    checked_hours: int = 0
    outdated: list[int] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """True if no rows are stored, for example because the root is wrong."""
        return not any(self.counts.values())

    @property
    def ok(self) -> bool:
        return not self.problems and not self.empty

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "empty": self.empty,
            "counts": self.counts,
            "checked_hours": self.checked_hours,
            "outdated_hours": len(self.outdated),
            "gaps": self.gaps,
            "lost": to_builtins(self.lost),
            "problems": self.problems,
        }

    def lines(self) -> Iterator[str]:
        """Yield the report as text lines."""
        for table, count in self.counts.items():
            yield f"{table}: {count} rows"
        yield f"hourly rows recomputed: {self.checked_hours}"
        if self.outdated:
            first, end = to_rfc3339(min(self.outdated)), to_rfc3339(max(self.outdated) + HOUR_MS)
            yield (
                f"hourly rows of an older definition: {len(self.outdated)}; recompute them by "
                f"`python -m batch hourly --from {first} --to {end}`"
            )
        for name, ranges in self.gaps.items():
            more = f" and {len(ranges) - _MAX_SHOWN} more" if len(ranges) > _MAX_SHOWN else ""
            yield f"gap {name}: {', '.join(ranges[:_MAX_SHOWN])}{more}"
        for one in self.lost[-_MAX_SHOWN:]:
            yield f"lost {one.text}"
        for problem in self.problems[:_MAX_SHOWN]:
            yield f"problem: {problem}"
        if self.ok:
            yield "ok: all guarantees hold"
        elif self.problems:
            yield f"{len(self.problems)} rows violate a guarantee"
        else:
            yield f"nothing is stored in {self.root}; run `batch raw` or `batch backfill` first"


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows as dicts, with timestamps as Unix ms."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64())
        columns[name] = column.to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _tuples(table: pa.Table) -> list[tuple[Any, ...]]:
    """Return rows as tuples, with timestamps as Unix ms."""
    return [tuple(row.values()) for row in _rows(table)]


def _optional_rfc3339(ms: int | None) -> str | None:
    return None if ms is None else to_rfc3339(ms)


def tick_of(row: Mapping[str, Any]) -> Tick:
    """Convert a row of raw_data back to its tick."""
    sources = {}
    for name in SOURCES:
        if row[f"{name}_status"] is not None:
            sources[name] = SourceState(
                status=row[f"{name}_status"],
                observed_at=_optional_rfc3339(row[f"{name}_observed_at"]),
                received_at=_optional_rfc3339(row[f"{name}_received_at"]),
                staleness_ms=row[f"{name}_staleness_ms"],
            )
    fields = {name: row[name] for name in Tick.__struct_fields__ if name in row}
    fields |= {
        "timestamp": to_rfc3339(row["timestamp"]),
        "trade_timestamp": _optional_rfc3339(row["trade_timestamp"]),
        "sources": sources,
        "flags": tuple(row["flags"] or ()),
    }
    return Tick(**fields)


def _joined(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """Return the rows of tables with the columns of `schema`, without the files' metadata."""
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return a text per field that differs from the expected value; floats are compared to nine digits."""
    different = []
    for name, want in expected.items():
        got = found[name]
        same = got == want
        if isinstance(want, float) and isinstance(got, int | float):
            same = math.isclose(got, want, rel_tol=_TOLERANCE, abs_tol=1e-18)
        if not same:
            different.append(f"{name} is {got!r}, expected {want!r}")
    return different


class Verifier:
    """Reads every table, oldest file first.

    In memory are two days of candles, one hour of ticks, all hourly rows, and the times of all candles.
    """

    def __init__(self, hdfs: WebHdfs, settings: Settings) -> None:
        self._hdfs = hdfs
        self._grace_ms = grace_ms(settings)
        self._raw, self._candles, self._hourly = raw_data(settings), minute_candles(settings), hourly_metrics(settings)
        self._raw_files: dict[int, list[str]] = {}
        self._candle_files: frozenset[str] = frozenset()
        self.report = Report(settings.hdfs.url + settings.hdfs.root)
        self._settings = settings

    def run(self) -> Report:
        """Check all tables and return the report."""
        self.report.lost = read_lost_ranges(self._hdfs, self._settings.hdfs)
        for name in self._files(self._raw.folder):
            hour = hour_of_raw_file(name)
            if hour is None:
                self.report.problems.append(f"{name}: expected a path with date=YYYY-MM-DD/hour=H")
            else:
                self._raw_files.setdefault(hour, []).append(name)
        minutes = self._check_candles()
        hourly = self._check_hourly()
        self._check_hours(minutes, hourly)
        return self.report

    def _files(self, folder: str) -> list[str]:
        return [file.path for file in self._hdfs.files(folder, ".parquet", recursive=True)]

    def _check_file(self, table: Table, name: str, rows: pa.Table) -> None:
        """Check that a file's rows are unique, sorted, and in the file that their time belongs to."""
        order = pc.sort_indices(rows, [(column, "ascending") for column in table.order]).to_numpy()
        if np.any(order != np.arange(len(order))):
            self.report.problems.append(f"{name}: not sorted by {', '.join(table.order)}")
        keys = rows.select(table.key)
        counted = keys.group_by(list(table.key), use_threads=False).aggregate([([], "count_all")])
        for *key, count in _tuples(counted.filter(pc.greater(counted["count_all"], 1))):
            self.report.problems += [f"{name}: duplicate row {tuple(key)}"] * (count - 1)
        starts = times_ms(rows[table.time]) // table.step_ms * table.step_ms
        for start in np.unique(starts).tolist():
            expected = table.file_of(table.slot_of(start))
            if expected != name:
                wrong = keys.filter(pa.array(starts == start))
                self.report.problems += [f"{name}: row {key} belongs in {expected}" for key in _tuples(wrong)]

    def _check_candles(self) -> dict[str, set[int]]:
        times: dict[str, set[int]] = {}
        count = 0
        self._candle_files = frozenset(self._files(self._candles.folder))
        for name in sorted(self._candle_files):
            rows = self._hdfs.read_table(name, ("symbol", "open_time"))
            self._check_file(self._candles, name, rows)
            count += rows.num_rows
            for symbol, time_ms in zip(rows["symbol"].to_pylist(), times_ms(rows["open_time"]).tolist(), strict=True):
                times.setdefault(symbol, set()).add(time_ms)
        self.report.counts["minute_candles"] = count
        self._add_gaps("minute_candles", times, MINUTE_MS)
        return times

    def _check_hourly(self) -> dict[tuple[str, int], dict[str, Any]]:
        found: dict[tuple[str, int], dict[str, Any]] = {}
        times: dict[str, set[int]] = {}
        for name in self._files(self._hourly.folder):
            stored = self._hdfs.read_table(name)
            self._check_file(self._hourly, name, stored)
            for row in _rows(stored):
                found[row["symbol"], row["hour_start"]] = row
                times.setdefault(row["symbol"], set()).add(row["hour_start"])
                if row["hour_start"] % HOUR_MS or not row["low_price"] <= row["avg_price"] <= row["high_price"]:
                    self.report.problems.append(
                        f"hourly_metrics {row['symbol']} {to_rfc3339(row['hour_start'])}: expected a whole hour and "
                        f"low <= avg <= high, got {row['low_price']}, {row['avg_price']}, {row['high_price']}"
                    )
        self.report.counts["hourly_metrics"] = len(found)
        self._add_gaps("hourly_metrics", times, HOUR_MS)
        return found

    def _add_gaps(self, table: str, times: Mapping[str, set[int]], step_ms: int) -> None:
        for symbol, known in sorted(times.items()):
            ranges = gap_ranges(known, step_ms)
            if ranges:
                self.report.gaps[f"{table} {symbol}"] = ranges

    def _ticks(self, hour: int) -> pa.Table:
        """Check the files of an hour and return its ticks; without a file, no ticks."""
        tables = [self._hdfs.read_table(name) for name in self._raw_files.get(hour, ())]
        for name, table in zip(self._raw_files.get(hour, ()), tables, strict=True):
            self._check_file(self._raw, name, table)
            self.report.counts["raw_data"] += table.num_rows
            for row in _rows(table):
                enriched = enrich(tick_of(row))
                wrong = differences(row, {name: getattr(enriched, name) for name in _ENRICHED_FIELDS})
                if wrong:
                    self.report.problems.append(f"raw_data {row['tick_id']}: {'; '.join(wrong)}")
        return _joined([table.select(TICKS.names) for table in tables], TICKS)

    def _day(self, slot: str) -> pa.Table:
        name = self._candles.file_of(slot)
        return _joined([self._hdfs.read_table(name, CANDLES.names)] if name in self._candle_files else [], CANDLES)

    def _check_hours(
        self, minutes: Mapping[str, set[int]], hourly: Mapping[tuple[str, int], Mapping[str, Any]]
    ) -> None:
        self.report.counts["raw_data"] = 0
        hours = {*self._raw_files, *(floor_to(at, HOUR_MS) for times in minutes.values() for at in times)}
        newest = max((at + MINUTE_MS for times in minutes.values() for at in times), default=0)
        remaining = {key for key, row in hourly.items() if row["basis"] != Basis.CANDLES_1H}
        days: dict[int, pa.Table] = {}
        for from_ms, to_ms in self._ranges(hours):
            day = floor_to(from_ms, DAY_MS)
            for at in {day - DAY_MS, day} - days.keys():
                days[at] = self._day(self._candles.slot_of(at))
            days = {at: candles for at, candles in days.items() if at in {day - DAY_MS, day}}
            ticks = self._ticks(from_ms)
            newest = max(newest, int(times_ms(ticks["timestamp"]).max(initial=0)))
            rows = hour_rows(ticks, pa.concat_tables(days.values()), from_ms, to_ms)
            for row in _rows(rows):
                key = row["symbol"], row["hour_start"]
                remaining.discard(key)
                self._check_row(row, hourly.get(key), closed=row["hour_start"] + HOUR_MS + self._grace_ms <= newest)
        for symbol, hour in sorted(remaining):
            self.report.problems.append(
                f"hourly_metrics {symbol} {to_rfc3339(hour)}: basis {hourly[symbol, hour]['basis']}, "
                "but neither ticks nor candles of that hour are stored"
            )

    def _ranges(self, hours: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Yield hours as [from, to) ranges: an hour of ticks alone, others together with those of the same day."""
        without: dict[int, set[int]] = {}
        for hour in hours:
            if hour not in self._raw_files:
                without.setdefault(floor_to(hour, DAY_MS), set()).add(hour)
        alone = [(hour, hour + HOUR_MS) for hour in self._raw_files]
        yield from sorted([*alone, *(found for day in without.values() for found in contiguous_ranges(day))])

    def _check_row(self, expected: Mapping[str, Any], found: Mapping[str, Any] | None, *, closed: bool) -> None:
        where = f"hourly_metrics {expected['symbol']} {to_rfc3339(expected['hour_start'])}"
        self.report.checked_hours += 1
        if found is None:
            if closed:
                self.report.problems.append(f"{where}: row of a closed hour is missing")
            return
        if not closed and BASIS_RANK[found["basis"]] <= BASIS_RANK[expected["basis"]]:
            return  # backfill wrote it before the hour's last data arrived; the stream will rewrite it
        if found.get("definition") != DEFINITION:
            self.report.outdated.append(expected["hour_start"])
            return
        wrong = differences(found, expected)
        if wrong:
            self.report.problems.append(f"{where}: {'; '.join(wrong)}")
