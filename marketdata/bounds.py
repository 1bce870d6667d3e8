"""Plausible ranges of prices, amounts and counts; a number outside is refused as `absurd`.

No market has such numbers, and their sums, squares and logarithms would not be finite.
"""

MIN_PRICE, MAX_PRICE = 1e-18, 1e18
"""Prices in any quote currency."""
MAX_AMOUNT = 1e24
"""Quantities and volumes in a base coin or a quote currency, and market caps."""
MAX_COUNT = 1e15
"""Trades and updates; far below 2^63, the limit of the tables' integers."""
