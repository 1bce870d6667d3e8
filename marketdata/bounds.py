"""Beyond these a number is absurd: no market has it, and sums, squares and logarithms of such would not be finite.

Pure; imports nothing.
"""

MIN_PRICE, MAX_PRICE = 1e-18, 1e18
"""Prices in any quote currency."""
MAX_AMOUNT = 1e24
"""Quantities and volumes in a base coin or a quote currency, and market caps."""
MAX_COUNT = 1e15
"""Trades and updates; far below 2^63, where the integers of tables end."""
