"""Samples that the tests of several packages use."""

import pytest

from forecasting.data.hourly_grid import to_hours
from forecasting.data.samples import Samples, build_samples
from tests.support.forecasting_hours import walk


@pytest.fixture(scope="session")
def samples() -> Samples:
    return build_samples(to_hours(walk(3_000), "BTC-USD"), sequence_h=60)
