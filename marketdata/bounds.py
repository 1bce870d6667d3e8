"""Beyond these a number is absurd: no market has it, and sums, squares and logarithms of such would not be finite.

Pure; imports nothing.
"""

LEAST_PRICE, MOST_PRICE = 1e-18, 1e18
"""Prices in any quote currency."""
MOST_AMOUNT = 1e24
"""Quantities and volumes in a base coin or a quote currency, and market caps."""
MOST_COUNT = 1e15
"""Trades and updates; far below 2^63, where the integers of tables end."""
