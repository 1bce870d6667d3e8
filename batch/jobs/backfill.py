"""History from the exchange's klines: hours into hourly rows, minutes into minute_candles and from there hourly rows.

What is stored is not asked for again, and a row of a higher basis is never replaced by a lower one.
"""

import logging
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as sql

from batch.hdfs.reader import Reader
from batch.hdfs.store import Store
from batch.klines.archive import archives, read_archive
from batch.schemas import CANDLES, column_names
from batch.sql.hourly import kline_rows
from batch.tables.due_hours import trailing_hours
from batch.tables.hour_writer import HourWriter
from batch.tables.layout import hourly_metrics, minute_candles
from batch.tables.merge import merge_rows
from config import Settings
from exchanges.binance.endpoints import INVALID_SYMBOL, KLINES_PER_REQUEST
from exchanges.binance.kline_client import KlineClient
from exchanges.binance.klines import Kline
from marketdata.candle_rules import STEP_MS
from marketdata.errors import FatalSourceError, StorageError
from marketdata.markets import Market
from marketdata.times import DAY_MS, HOUR_MS, floor_to, to_rfc3339

_REQUESTS_AT_ONCE = 2  # so that at most one more is under way when the exchange says "too many": more bring a ban
_PROGRESS_STEPS = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Span:
    """Candles of one market and interval with an open time in [from_ms, to_ms): at most one request's worth."""

    market: Market
    interval: str
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is missing: the spans to ask for, and the hours (by symbol) whose rows are to come from one-hour klines."""

    spans: tuple[Span, ...]
    hours: dict[str, set[int]]


@dataclass(frozen=True, slots=True)
class History:
    """Candles by (symbol, interval), each ascending and unique by open time."""

    klines: dict[tuple[str, str], list[Kline]]
    refused: dict[str, str]

    def arrow(self, interval: str, wanted: dict[str, set[int]] | None = None) -> pa.Table:
        """All candles of one interval as rows of minute_candles.

        Args:
            interval: which.
            wanted: adds a column `wanted`, true for the open times named (by symbol).
        """
        rows = [(symbol, k) for (symbol, i), known in self.klines.items() if i == interval for k in known]
        columns = {
            "symbol": pa.array([symbol for symbol, _ in rows], pa.string()),
            "open_time": pa.array([k.open_ms * 1000 for _, k in rows], pa.timestamp("us", tz="UTC")),
            "n_trades": pa.array([k.n_trades for _, k in rows], pa.int64()),
            "source": pa.array(["binance"] * len(rows), pa.string()),
        }
        names = column_names(CANDLES)
        for name in names:
            if name not in columns:
                columns[name] = pa.array([getattr(k, name) for _, k in rows], pa.float64())
        table = pa.table({name: columns[name] for name in names})
        if wanted is None:
            return table
        marks = [k.open_ms in wanted.get(symbol, ()) for symbol, k in rows]
        return table.append_column("wanted", pa.array(marks, pa.bool_()))


def missing_ranges(stored: set[int], from_ms: int, to_ms: int, step_ms: int) -> list[tuple[int, int]]:
    """The [from, to) ranges of the grid that are not stored."""
    ranges: list[tuple[int, int]] = []
    for at in range(from_ms, to_ms, step_ms):
        if at in stored:
            continue
        if ranges and ranges[-1][1] == at:
            ranges[-1] = (ranges[-1][0], at + step_ms)
        else:
            ranges.append((at, at + step_ms))
    return ranges


def _chunks(market: Market, interval: str, from_ms: int, to_ms: int) -> Iterable[Span]:
    step_ms = KLINES_PER_REQUEST * STEP_MS[interval]
    return (Span(market, interval, at, min(at + step_ms, to_ms)) for at in range(from_ms, to_ms, step_ms))


def plan(
    markets: Sequence[Market],
    stored_hours: dict[str, set[int]],
    stored_minutes: dict[str, set[int]],
    *,
    hours: int,
    minutes: int,
    to_ms: int,
) -> Plan:
    """What to ask for, so that the last `hours` and `minutes` before `to_ms` are stored.

    Only closed hours and minutes are asked for; minutes start on an hour. One-hour klines start 23 h before the first
    missing row, for its trailing day.
    """
    last_hour, last_minute = floor_to(to_ms, HOUR_MS), floor_to(to_ms, STEP_MS["1m"])
    first_hour = last_hour - hours * HOUR_MS
    first_minute = floor_to(last_minute - minutes * STEP_MS["1m"], HOUR_MS)
    spans: list[Span] = []
    wanted: dict[str, set[int]] = {}
    for market in markets:
        known = stored_hours.get(market.symbol, set())
        for start, end in missing_ranges(known, first_hour, last_hour, HOUR_MS):
            spans += _chunks(market, "1h", start - DAY_MS + HOUR_MS, end)
            wanted.setdefault(market.symbol, set()).update(range(start, end, HOUR_MS))
        if minutes:
            known = stored_minutes.get(market.symbol, set())
            for start, end in missing_ranges(known, first_minute, last_minute, STEP_MS["1m"]):
                spans += _chunks(market, "1m", start, end)
    return Plan(tuple(spans), wanted)


def fetch(client: KlineClient, spans: Sequence[Span], stopped: Callable[[], bool]) -> History:
    """Ask for all spans, a few at once. A market that the exchange does not know is left out, with a warning.

    Raises:
        RetryableSourceError: the exchange did not answer well in spite of retries.
        FatalSourceError: the exchange refuses us (a ban, a firewall, our location), or knows none of the markets.
        StorageError: stopped half way.
    """
    found: dict[tuple[str, str], dict[int, Kline]] = {}
    refused: dict[str, str] = {}

    def one(span: Span) -> list[Kline]:
        if stopped():
            msg = "backfill: stopped; nothing of this run was stored"
            raise StorageError(msg)
        if span.market.symbol in refused:
            return []
        try:
            return client.fetch(span.market.binance, span.interval, span.from_ms, span.to_ms)
        except FatalSourceError as error:
            if error.code != INVALID_SYMBOL:
                raise
            if span.market.symbol not in refused:
                _log.warning("%s: no klines, the other markets go on: %s", span.market.symbol, error)
            refused[span.market.symbol] = str(error)
            return []

    with ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="klines") as pool:
        try:
            for done, (span, klines) in enumerate(zip(spans, pool.map(one, spans), strict=True), start=1):
                found.setdefault((span.market.symbol, span.interval), {}).update({k.open_ms: k for k in klines})
                tell("backfill klines", done, len(spans))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if refused and len(refused) == len({span.market.symbol for span in spans}):
        msg = "backfill: " + "; ".join(f"{symbol}: {why}" for symbol, why in sorted(refused.items()))
        raise FatalSourceError(msg, "refused")
    return History({key: [rows[at] for at in sorted(rows)] for key, rows in found.items()}, refused)


def from_archives(folder: Path, markets: Sequence[Market], stopped: Callable[[], bool]) -> History:
    """Candles of downloaded archives in place of the exchange's answers; of a candle told twice the later file wins.

    Raises:
        StorageError: an archive cannot be read or does not fit its checksum, or stopped half way.
    """
    found: dict[tuple[str, str], dict[int, Kline]] = {}
    files = archives(folder, markets)
    for done, (path, market, interval) in enumerate(files, start=1):
        if stopped():
            msg = "backfill: stopped; nothing of this run was stored"
            raise StorageError(msg)
        found.setdefault((market.symbol, interval), {}).update({k.open_ms: k for k in read_archive(path, interval)})
        tell("backfill archives", done, len(files))
    return History({key: [rows[at] for at in sorted(rows)] for key, rows in found.items()}, {})


def wanted_hours(history: History) -> dict[str, set[int]]:
    """Every hour of which a one-hour kline is there."""
    return {symbol: {kline.open_ms for kline in known} for (symbol, i), known in history.klines.items() if i == "1h"}


def brings_nothing(history: History, plan: Plan, stored_minutes: dict[str, set[int]]) -> bool:
    """Whether the exchange had nothing of what was missing, as for hours in which it stood still."""
    return not any(
        kline.open_ms in plan.hours.get(symbol, ())
        if interval == "1h"
        else kline.open_ms not in stored_minutes.get(symbol, ())
        for (symbol, interval), known in history.klines.items()
        for kline in known
    )


def tell(what: str, done: int, total: int) -> None:
    """A progress line on standard error, about one each twentieth."""
    if done == total or done % max(1, total // _PROGRESS_STEPS) == 0:
        sys.stderr.write(f"progress: {what} {done}/{total}\n")
        sys.stderr.flush()


def stored(reader: Reader, settings: Settings) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """The hours and minutes (ms, by symbol) that the tables hold."""
    hours = reader.times_ms(reader.files(settings.hdfs.hourly_metrics), "hour_start")
    minutes = reader.times_ms(reader.files(settings.hdfs.minute_candles), "open_time")
    return hours, minutes


class BackfillWriter:
    """Stores a history: minute candles first, then all hourly rows in one merge."""

    def __init__(self, spark: SparkSession, store: Store, reader: Reader, settings: Settings) -> None:
        self._spark = spark
        self._store = store
        self._reader = reader
        self._candles = minute_candles(settings)
        self._hourly = hourly_metrics(settings)
        self._hours = HourWriter(spark, store, settings)
        self._wait_s = settings.hdfs.wait_s

    def write(self, history: History, wanted: dict[str, set[int]], to_ms: int, stopped: Callable[[], bool]) -> int:
        """Merge everything; gives the number of hourly rows that were merged."""
        folder = f"{self._store.staging}/klines-{uuid.uuid4().hex}"
        try:
            return self._write(history, wanted, to_ms, stopped, folder)
        finally:
            self._store.discard(folder)

    def _write(
        self, history: History, wanted: dict[str, set[int]], to_ms: int, stopped: Callable[[], bool], folder: str
    ) -> int:
        touched: set[int] = set()
        parts: list[DataFrame] = []
        minutes = history.arrow("1m")
        if minutes.num_rows:
            rows = self._upload(minutes, f"{folder}/1m.parquet", CANDLES)
            starts = {k.open_ms for (_, i), known in history.klines.items() if i == "1m" for k in known}
            slots = {self._candles.slot_of(at) for at in starts}
            with self._store.locks.held(self._candles.name, self._wait_s, stopped) as lease:
                merge_rows(self._spark, self._store, self._candles, rows, slots, lease)
            tell("backfill minute candles", minutes.num_rows, minutes.num_rows)
            touched = trailing_hours({floor_to(at, HOUR_MS) for at in starts}, to_ms)
        hours = history.arrow("1h", wanted)
        if any(hours["wanted"].to_pylist()):
            klines = self._upload(hours, f"{folder}/1h.parquet", f"{CANDLES}, wanted BOOLEAN")
            parts.append(kline_rows(self._spark, klines.coalesce(1)))
        if not parts and not touched:
            return 0
        hour_starts = touched.union(*wanted.values())
        counted = Observation("merged")
        slots = {self._hourly.slot_of(at) for at in hour_starts}
        with self._store.locks.held(self._hourly.name, self._wait_s, stopped) as lease:
            # Looked at under the lease, as whoever writes hours does.
            parts += self._hours.rows(touched)
            merged = reduce(DataFrame.union, parts).observe(counted, sql.count(sql.lit(1)).alias("rows"))
            merge_rows(self._spark, self._store, self._hourly, merged, slots, lease)
        rows_merged = int(counted.get["rows"])
        tell("backfill hourly rows", rows_merged, rows_merged)
        return rows_merged

    def _upload(self, rows: pa.Table, file: str, ddl: str) -> DataFrame:
        """Rows as a staged file: Parquet goes from pyarrow to Spark many times faster than through Py4J."""
        self._reader.write(file, rows)
        return self._spark.read.schema(ddl).parquet(file)


def summary(history: History, rows: int, to_ms: int) -> str:
    """One line for the log."""
    counts = {i: sum(len(k) for (_, j), k in history.klines.items() if i == j) for i in STEP_MS}
    refused = f"; refused: {', '.join(sorted(history.refused))}" if history.refused else ""
    return (
        f"backfill to {to_rfc3339(to_ms)}: {counts['1h']} hours and {counts['1m']} minutes of klines, "
        f"{rows} hourly rows merged{refused}"
    )
