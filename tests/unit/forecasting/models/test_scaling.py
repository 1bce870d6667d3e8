"""Scaled inputs: missing values and masked columns."""

import numpy as np
import pyarrow as pa

from forecasting.data.hourly_grid import to_hours
from forecasting.data.samples import Samples, build_samples
from forecasting.models.scaling import Scaler
from tests.support.forecasting_hours import walk

SYMBOL = "BTC-USD"


def samples_of(table: pa.Table) -> Samples:
    return build_samples(to_hours(table, SYMBOL), sequence_h=60)


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
