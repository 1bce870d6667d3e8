"""Trailing quantiles against numpy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.models.interface import LEVELS
from forecasting.models.trailing import WINDOW_H, trailing_quantiles


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(200, 3_000), st.integers(0, 10_000))
def test_trailing_quantiles_equal_numpys(horizon: int, n: int, seed: int) -> None:
    z = np.random.default_rng(seed).standard_normal(n)
    at = np.array([n - 1, n // 2 + horizon])
    got, rms = trailing_quantiles(z, at, horizon)
    for row, t in enumerate(at):
        known = z[max(0, t - horizon + 1 - WINDOW_H) : t - horizon + 1]
        if len(known) < 100:
            assert np.isnan(got[row]).all()
        else:
            np.testing.assert_allclose(got[row], np.quantile(known, LEVELS))
            assert rms[row] == pytest.approx(np.sqrt(np.mean(known**2)))
