"""The dataset and the samples: validation, gaps, missing values, and no look into the future."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecasting.data.hourly_grid import digest, month_table, to_hours
from forecasting.data.samples import BASIS_WIDENING, Samples, build_samples, ewma, trailing_mean
from forecasting.models.scaling import Scaler
from marketdata.errors import ForecastError, StorageError
from marketdata.times import HOUR_MS
from tests.support.forecasting_hours import SCHEMA, walk

SYMBOL = "BTC-USD"


def samples_of(table: pa.Table) -> Samples:
    return build_samples(to_hours(table, SYMBOL), sequence_h=60)


def as_file(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_the_target_is_the_next_average_over_the_last_price() -> None:
    table = walk(400)
    samples = samples_of(table)
    averages, lasts = table["avg_price"].to_numpy(), table["last_price"].to_numpy()
    at = samples.anchors[samples.learnable]
    assert np.allclose(samples.target[at], np.log(averages[at + 1] / lasts[at]))
    assert at[-1] == 398
    assert not samples.learnable[-1]


def test_no_window_crosses_a_gap() -> None:
    table = walk(600)
    gap = 400
    with_gap = pa.concat_tables([table.slice(0, gap), table.slice(gap + 3)])
    samples = samples_of(with_gap)
    windows = samples.anchors[:, None] + np.arange(-59, 1)[None, :]
    assert not np.isin(windows, [gap, gap + 1, gap + 2]).any()
    assert gap - 1 in samples.anchors
    assert gap - 1 not in samples.anchors[samples.learnable]
    assert samples.anchors[samples.anchors > gap][0] >= gap + 2 + 60


def test_rows_to_come_change_nothing_before_them() -> None:
    table = walk(700)
    cut = 500
    changed = table.to_pydict()
    for name in ("avg_price", "last_price", "high_price", "low_price", "avg_volume"):
        changed[name][cut + 1 :] = [value * 1.5 for value in changed[name][cut + 1 :]]
    before, after = samples_of(table), samples_of(pa.table(changed, schema=SCHEMA))
    for name in ("sigma", "log_variance", "net", "plain", "har", "har_rich"):
        np.testing.assert_array_equal(getattr(before, name)[: cut + 1], getattr(after, name)[: cut + 1], err_msg=name)
    np.testing.assert_array_equal(before.target[:cut], after.target[:cut])
    assert before.target[cut] != after.target[cut]


def test_missing_quotes_become_zero_and_a_flag_never_a_price() -> None:
    samples = samples_of(walk(400))
    assert np.isnan(samples.net[:, 6:]).all()
    scaler = Scaler.standard(samples.net)
    scaled, missing = scaler.apply(samples.net)
    assert np.all(scaled[:, 6:] == 0.0)
    assert missing[:, 6:].all()


def test_an_input_never_seen_in_training_stays_masked() -> None:
    scaler = Scaler.standard(samples_of(walk(400)).net)
    scaled, missing = scaler.apply(samples_of(walk(400, live=True)).net)
    assert np.all(scaled[:, 6:] == 0.0)
    assert missing[:, 6:].all()


def test_min_max_scaler_brings_the_training_part_to_0_and_1() -> None:
    rows = np.array([[1.0, np.nan], [3.0, np.nan], [2.0, np.nan]])
    scaled, missing = Scaler.min_max(rows).apply(rows)
    assert scaled.min() == 0.0
    assert scaled[:, 0].tolist() == [0.0, 1.0, 0.5]
    assert missing.tolist() == [[False, True]] * 3


def test_hours_of_one_hour_candles_are_widened_and_others_are_not() -> None:
    assert samples_of(walk(300)).widening[0] == BASIS_WIDENING
    assert samples_of(walk(300, live=True)).widening[0] == 1.0


def test_trailing_mean_and_ewma_pass_over_what_is_unknown() -> None:
    values = np.array([1.0, np.nan, 3.0, 5.0])
    np.testing.assert_allclose(trailing_mean(values, 2, 1), [1.0, 1.0, 3.0, 4.0])
    assert np.isnan(trailing_mean(values, 2, 2)[2])
    np.testing.assert_allclose(ewma(values, 1.0), [1.0, 1.0, (0.5 + 3) / 1.5, (0.25 + 1.5 + 5) / 1.75])


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


def test_no_rows_say_so() -> None:
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
