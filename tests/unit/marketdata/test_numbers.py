"""Numbers as text: no price reads as zero, and none has an exponent unless it is tiny."""

import math

from hypothesis import given
from hypothesis import strategies as st

from marketdata.numbers import format_number


@given(st.floats(1e-12, 1e18), st.sampled_from([1, -1]))
def test_a_number_keeps_six_digits_without_an_exponent(size: float, sign: int) -> None:
    text = format_number(sign * size)
    assert "e" not in text
    assert math.isclose(float(text.replace(",", "")), sign * size, rel_tol=5.1e-6)
