"""Hourly rows as arrays: validation, the grid, the digest."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecasting.data.hourly_grid import digest, month_table, to_hours
from marketdata.errors import ForecastError, StorageError
from marketdata.times import HOUR_MS
from tests.support.forecasting_hours import SCHEMA, walk

SYMBOL = "BTC-USD"


def as_file(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_a_missing_column_is_named() -> None:
    with pytest.raises(StorageError, match="last_price"):
        month_table(as_file(walk(10).drop_columns(["last_price"])), "hourly-2023-01.parquet", SYMBOL)


@pytest.mark.parametrize("places", [[0, 1, 1, 2], [0, 2, 1]])
def test_rows_not_unique_or_not_sorted_are_refused(places: list[int]) -> None:
    with pytest.raises(StorageError, match="not unique, sorted"):
        month_table(as_file(walk(10).take(places)), "hourly-2023-01.parquet", SYMBOL)


def test_a_file_that_is_no_parquet_is_refused() -> None:
    with pytest.raises(StorageError, match="not a Parquet file"):
        month_table(b"nothing of the kind", "hourly-2023-01.parquet", SYMBOL)


def test_a_price_that_is_not_positive_is_refused() -> None:
    rows = walk(10).to_pydict()
    rows["last_price"][3] = 0.0
    with pytest.raises(StorageError, match="last_price"):
        to_hours(pa.table(rows, schema=SCHEMA), SYMBOL)


def test_without_rows_the_error_names_the_backfill() -> None:
    with pytest.raises(ForecastError, match="backfill first"):
        to_hours(walk(10).slice(0, 0), SYMBOL)


def test_the_grid_has_every_hour_and_marks_the_absent() -> None:
    table = walk(10).take([0, 1, 4])
    hours = to_hours(table, SYMBOL)
    assert np.all(np.diff(hours.start_ms) == HOUR_MS)
    assert hours.present.tolist() == [True, True, False, False, True]
    assert np.isnan(hours.avg_price[2])


def test_the_digest_is_of_values_not_of_chunks() -> None:
    table = walk(50)
    chunked = pa.concat_tables([table.slice(0, 20), table.slice(20)])
    assert digest(table) == digest(chunked)
    assert digest(table) != digest(table.slice(1))
