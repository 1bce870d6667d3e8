"""Historical klines in memory, from the exchange or from archives, and their conversion to Arrow."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from batch.klines.plan import Plan
from batch.schemas import CANDLES, column_names
from exchanges.binance.endpoints import NAME
from exchanges.binance.klines import Kline


@dataclass(frozen=True, slots=True)
class History:
    """Klines by (symbol, interval), each list ascending and unique by open time.

    `refused` contains, by symbol, the error of each market that the exchange does not list. `n_refused` counts rows
    that were left out because they are not valid. `failed` are the files that could not be read. `n_conflicting` counts
    klines that replaced another one of the same market and time with other values.
    """

    klines: dict[tuple[str, str], list[Kline]]
    refused: dict[str, str]
    n_refused: int = 0
    failed: tuple[str, ...] = ()
    n_conflicting: int = 0

    @classmethod
    def of(
        cls,
        found: dict[tuple[str, str], dict[int, Kline]],
        refused: dict[str, str],
        *,
        n_refused: int = 0,
        failed: Sequence[str] = (),
        n_conflicting: int = 0,
    ) -> "History":
        """Create from klines by (symbol, interval) and open time."""
        klines = {key: [rows[at] for at in sorted(rows)] for key, rows in found.items()}
        return cls(klines, refused, n_refused, tuple(failed), n_conflicting)

    def open_times(self, interval: str) -> dict[str, set[int]]:
        """Return the open times (ms) of the klines of an interval, by symbol."""
        return {symbol: {k.open_ms for k in klines} for (symbol, i), klines in self.klines.items() if i == interval}

    def has_missing(self, plan: Plan, stored_minutes: dict[str, set[int]]) -> bool:
        """Return whether any kline fills a gap; False if the exchange has none, for example during a halt.

        Args:
            plan: the plan whose requests gave these klines.
            stored_minutes: by symbol, the open times (ms) of the stored candles.
        """
        hours, minutes = self.open_times("1h"), self.open_times("1m")
        return any(times & plan.hours.get(symbol, set()) for symbol, times in hours.items()) or any(
            times - stored_minutes.get(symbol, set()) for symbol, times in minutes.items()
        )

    def to_arrow(self, interval: str, selected: dict[str, set[int]] | None = None) -> pa.Table:
        """Return all klines of one interval with the columns of minute_candles.

        Args:
            interval: `1m` or `1h`.
            selected: open times (ms) by symbol; adds a boolean column `wanted`, true for these.
        """
        rows = [(symbol, k) for (symbol, i), klines in self.klines.items() if i == interval for k in klines]
        columns = {
            "symbol": pa.array([symbol for symbol, _ in rows], pa.string()),
            "open_time": pa.array([k.open_ms * 1000 for _, k in rows], pa.timestamp("us", tz="UTC")),
            "n_trades": pa.array([k.n_trades for _, k in rows], pa.int64()),
            "source": pa.array([NAME] * len(rows), pa.string()),
        }
        names = column_names(CANDLES)
        for name in names:
            if name not in columns:
                columns[name] = pa.array([getattr(k, name) for _, k in rows], pa.float64())
        table = pa.table({name: columns[name] for name in names})
        if selected is None:
            return table
        wanted = [k.open_ms in selected.get(symbol, ()) for symbol, k in rows]
        return table.append_column("wanted", pa.array(wanted, pa.bool_()))
