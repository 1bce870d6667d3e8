"""Records as the tables that hourly rows are computed from, and hourly rows as dicts."""

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from marketdata.enrichment import enrich
from marketdata.hourly import CANDLES, TICKS
from marketdata.records import Candle, HourlyRow, Tick
from marketdata.times import to_datetime, to_rfc3339


def tick_table(ticks: Sequence[Tick]) -> pa.Table:
    """Return ticks as rows of raw_data, with the columns that hourly rows need."""
    rows = []
    for tick in ticks:
        enriched = enrich(tick)
        row = {name: getattr(tick if hasattr(tick, name) else enriched, name) for name in TICKS.names}
        rows.append({**row, "timestamp": to_datetime(tick.timestamp_ms)})
    return pa.Table.from_pylist(rows, TICKS)


def candle_table(candles: Sequence[Candle]) -> pa.Table:
    """Return candles as rows of minute_candles, with the columns that hourly rows need."""
    return pa.Table.from_pylist(
        [
            {**{name: getattr(c, name) for name in CANDLES.names}, "open_time": to_datetime(c.open_time_ms)}
            for c in candles
        ],
        CANDLES,
    )


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return hourly rows as dicts with `hour_start` as text, sorted by symbol and hour."""
    rows = table.to_pylist()
    for row in rows:
        row["hour_start"] = to_rfc3339(round(row["hour_start"].timestamp() * 1000))
    return sorted(rows, key=lambda row: (row["symbol"], row["hour_start"]))


def as_row(row: HourlyRow) -> dict[str, Any]:
    """Return a row of the reference in the format of `rows_of`."""
    fields = {name: getattr(row, name) for name in row.__struct_fields__}
    fields.pop("schema_version")
    return fields


def assert_same(found: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> None:
    """Assert equality; floats to nine digits, because numpy adds in another order."""
    assert [(row["symbol"], row["hour_start"]) for row in found] == [
        (row["symbol"], row["hour_start"]) for row in expected
    ]
    for got, want in zip(found, expected, strict=True):
        assert got.keys() == want.keys()
        for name, value in want.items():
            where = f"{want['symbol']} {want['hour_start']} {name}"
            if isinstance(value, float) and isinstance(got[name], float):
                assert math.isclose(got[name], value, rel_tol=1e-9, abs_tol=1e-18), f"{where}: {got[name]} != {value}"
            else:
                assert got[name] == value, f"{where}: {got[name]!r} != {value!r}"
