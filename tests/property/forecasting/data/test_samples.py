"""Trailing means against a plain loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from forecasting.data.samples import trailing_mean

number = st.floats(-1.0, 1.0, allow_nan=False)


@given(st.lists(st.one_of(st.just(float("nan")), number), min_size=1, max_size=60), st.integers(1, 20))
def test_trailing_mean_equals_the_plain_loop(values: list[float], width: int) -> None:
    got = trailing_mean(np.array(values), width, 1)
    for i in range(len(values)):
        known = [v for v in values[max(0, i - width + 1) : i + 1] if not np.isnan(v)]
        expected = np.mean(known) if known else np.nan
        np.testing.assert_allclose(got[i], expected, atol=1e-12)
