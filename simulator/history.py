"""The stored candles of a folder as minutes and hours of every symbol.

`MarketHistory` contains the whole history; `market` limits it to a point in time. Tests use both without a server to
recompute the exchange's responses.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from marketdata.errors import InvalidValueError
from marketdata.times import HOUR_MS, MINUTE_MS, floor_to
from simulator.bridge import MINUTES, bridge_hour
from simulator.candles import Candles, Floats, Ints
from simulator.listing import HOSTS, Further, Host, listed_pairs

logger = logging.getLogger(__name__)

MINUTE_FOLDER, HOUR_FOLDER = "klines_1m", "klines_1h"
REQUIRED_COLUMNS = ("timestamp", "open", "high", "low", "close", "volume")
MICROSECONDS_FROM = 10**14
"""Times at or above this are in microseconds (Binance's archives from 2025 on), smaller ones in ms."""
BRIDGED_HOURS_CACHED = 4096


def _times_ms(column: pa.ChunkedArray) -> Ints:
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.timestamp("ms"), safe=False)
    times: Ints = pc.cast(column, pa.int64()).to_numpy()
    return np.where(times >= MICROSECONDS_FROM, times // 1000, times)


def read_candles(path: Path) -> Candles:
    """Read a Parquet file with timestamp (open time), open, high, low, close, volume and optionally quote_volume.

    Rows with a missing number, or with open or close outside [low, high], are skipped and logged; the exchange treats
    them as missing candles. A missing quote volume becomes volume x (open + high + low + close) / 4.

    Raises:
        InvalidValueError: the file is not Parquet, or a column is missing.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidValueError(path.name, str(error), "a readable Parquet file") from error
    for name in REQUIRED_COLUMNS:
        if name not in table.column_names:
            raise InvalidValueError(path.name, table.column_names, f"a column {name}")

    def floats(name: str) -> Floats:
        numbers: Floats = pc.cast(table[name], pa.float64()).to_numpy()
        return numbers

    open_, high, low, close, volume = (floats(name) for name in REQUIRED_COLUMNS[1:])
    quote = floats("quote_volume") if "quote_volume" in table.column_names else np.full(len(volume), np.nan)
    quote = np.where(np.isnan(quote), np.round(volume * (open_ + high + low + close) / 4, 8), quote)
    candles = Candles(_times_ms(table["timestamp"]), open_, high, low, close, volume, quote)
    # Comparisons with NaN are false, so missing numbers are invalid too.
    valid = (low > 0) & (low <= np.minimum(open_, close)) & (np.maximum(open_, close) <= high) & (volume >= 0)
    if not valid.all():
        logger.warning("%s: %d invalid candles skipped", path.name, int((~valid).sum()))
        candles = candles[valid]
    return candles


def _read_folder(folder: Path, interval: str) -> dict[str, Candles]:
    parts: dict[str, list[Candles]] = {}
    for path in sorted(folder.glob(f"*-{interval}-*.parquet")):
        parts.setdefault(path.name.split(f"-{interval}-")[0], []).append(read_candles(path))
    return {symbol: _unique(Candles.joined(found)) for symbol, found in parts.items()}


def _unique(candles: Candles) -> Candles:
    """Keep one candle per open time: of duplicates, the one read last."""
    last = np.append(np.diff(candles.time_ms) > 0, [True])[: len(candles)]
    return candles if last.all() else candles[last]


class _Stored:
    """Stored candles of one symbol; hours come from complete minutes, otherwise from the hour file."""

    def __init__(self, minutes: Candles, hour_rows: Candles) -> None:
        self.minutes = minutes
        grouped, counts = minutes.grouped(HOUR_MS)
        whole = counts == MINUTES
        not_whole = hour_rows[~np.isin(hour_rows.time_ms, grouped.time_ms[whole])]
        rest = grouped[~whole & ~np.isin(grouped.time_ms, hour_rows.time_ms)]
        self.hours = Candles.joined([grouped[whole], not_whole, rest])
        self.only_hours = hour_rows[~np.isin(hour_rows.time_ms, grouped.time_ms)]
        self.first_ms = min(int(candles.time_ms[0]) for candles in (minutes, self.hours) if len(candles))
        self.first_close = float((minutes if len(minutes) else self.hours).close[0])


class MarketHistory:
    """All candles of the exchange, deterministic for (folder, seed).

    Attributes:
        pairs: by symbol, sorted by it; stored ones, such as BTCUSDT, and derived ones (`simulator.listing`).
        symbols: of the pairs.
        host: rules of the host.
        start_ms: open time of the first candle.
        end_ms: end of the last candle.
    """

    def __init__(
        self,
        stored: dict[str, tuple[Candles, Candles]],
        seed: int,
        further: Iterable[Further] = (),
        host: Host = HOSTS["com"],
    ) -> None:
        """Create from minutes and hours by symbol; `load` reads them from a folder.

        Args:
            stored: minutes and hours by symbol.
            seed: of all derived data.
            further: pairs to list besides the stored ones.
            host: rules of the host.
        """
        self.seed = seed
        self._stored = {symbol: _Stored(*candles) for symbol, candles in stored.items() if any(map(len, candles))}
        if not self._stored:
            raise InvalidValueError("data", sorted(stored), "candles of at least one symbol")
        self.host = host
        first_closes = {symbol: one.first_close for symbol, one in self._stored.items()}
        self.pairs = listed_pairs(first_closes, seed, further, host)
        self.symbols = tuple(self.pairs)
        self.start_ms = min(one.first_ms for one in self._stored.values())
        self.end_ms = max(self._end_of(one) for one in self._stored.values())
        self._bridged: OrderedDict[tuple[str, int], Candles] = OrderedDict()
        self._scaled_hours: dict[str, Candles] = {}

    @classmethod
    def load(
        cls, folder: Path, seed: int, further: Iterable[Further] = (), host: Host = HOSTS["com"]
    ) -> "MarketHistory":
        """Read klines_1m/SYMBOL-1m-*.parquet and klines_1h/SYMBOL-1h-*.parquet; either folder may be missing.

        Raises:
            InvalidValueError: there are no candles, or a file is invalid.
        """
        minutes = _read_folder(folder / MINUTE_FOLDER, "1m")
        hours = _read_folder(folder / HOUR_FOLDER, "1h")
        if not minutes and not hours:
            raise InvalidValueError("data", str(folder), f"a folder with {MINUTE_FOLDER}/ or {HOUR_FOLDER}/ in it")
        empty = Candles.empty()
        both = {symbol: (minutes.get(symbol, empty), hours.get(symbol, empty)) for symbol in {*minutes, *hours}}
        return cls(both, seed, further, host)

    @staticmethod
    def _end_of(one: _Stored) -> int:
        ends = [int(one.minutes.time_ms[-1]) + MINUTE_MS] if len(one.minutes) else []
        if len(one.only_hours):
            ends.append(int(one.only_hours.time_ms[-1]) + HOUR_MS)
        return max(ends)

    def _bridge(self, source: str, hour: Candles) -> Candles:
        key = (source, int(hour.time_ms[0]))
        found = self._bridged.get(key)
        if found is None:
            found = self._bridged[key] = bridge_hour(self.seed, source, hour)
            if len(self._bridged) > BRIDGED_HOURS_CACHED:
                self._bridged.popitem(last=False)
        return found

    def minutes(self, symbol: str, start_ms: int, end_ms: int) -> Candles:
        """Return minute candles that open in [start, end): stored ones, and bridged ones if only the hour is stored."""
        pair = self.pairs[symbol]
        source = pair.source
        one = self._stored[source]
        known = one.minutes.between(start_ms, end_ms)
        hours = one.only_hours.between(floor_to(start_ms, HOUR_MS), end_ms)
        if len(hours):
            bridged = Candles.joined([self._bridge(source, hours[number : number + 1]) for number in range(len(hours))])
            known = Candles.joined([known, bridged.between(start_ms, end_ms)])
        return pair.scaled(known)

    def hours(self, symbol: str, start_ms: int, end_ms: int) -> Candles:
        """Return hour candles that open in [start, end).

        An hour is the aggregate of its minutes if all 60 are stored, otherwise the row of the hour file, otherwise the
        aggregate of the stored minutes.
        """
        hours = self._scaled_hours.get(symbol)
        if hours is None:
            pair = self.pairs[symbol]
            hours = self._scaled_hours[symbol] = pair.scaled(self._stored[pair.source].hours)
        return hours.between(start_ms, end_ms)

    def first_ms(self, symbol: str) -> int:
        """Return the open time (ms) of a symbol's first candle."""
        return self._stored[self.pairs[symbol].source].first_ms
