"""Numbers as text for people: commands, events, logs. Records and JSON keep all digits."""

import math

_GROUPED_FROM = 1_000  # from here on, two decimals and separators of thousands
_PLAIN_FROM = 1e-12
_DIGITS = 6


def format_number(value: float) -> str:
    """Return a number with at least six significant digits, as `58,123.40`, `0.512345` or `0.00000001`.

    Only numbers closer to zero than 1e-12 have an exponent.
    """
    size = abs(value)
    if size >= _GROUPED_FROM and math.isfinite(value):
        return f"{value:,.2f}"
    if not _PLAIN_FROM <= size < _GROUPED_FROM:
        return f"{value:.{_DIGITS}g}"
    decimals = _DIGITS - 1 - math.floor(math.log10(size))
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")
