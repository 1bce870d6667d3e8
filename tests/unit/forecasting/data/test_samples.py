"""Samples: targets, gaps, causality."""

import numpy as np
import pyarrow as pa

from forecasting.data.hourly_grid import to_hours
from forecasting.data.samples import BASIS_WIDENING, Samples, build_samples, ewma, trailing_mean
from tests.support.forecasting_hours import SCHEMA, walk

SYMBOL = "BTC-USD"


def samples_of(table: pa.Table) -> Samples:
    return build_samples(to_hours(table, SYMBOL), sequence_h=60)


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


def test_later_rows_change_nothing_before_them() -> None:
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


def test_hours_of_one_hour_candles_are_widened_and_others_are_not() -> None:
    assert samples_of(walk(300)).widening[0] == BASIS_WIDENING
    assert samples_of(walk(300, live=True)).widening[0] == 1.0


def test_trailing_mean_and_ewma_skip_unknown_values() -> None:
    values = np.array([1.0, np.nan, 3.0, 5.0])
    np.testing.assert_allclose(trailing_mean(values, 2, 1), [1.0, 1.0, 3.0, 4.0])
    assert np.isnan(trailing_mean(values, 2, 2)[2])
    np.testing.assert_allclose(ewma(values, 1.0), [1.0, 1.0, (0.5 + 3) / 1.5, (0.25 + 1.5 + 5) / 1.75])
