"""Plausible ranges of the values of records; a value outside is refused as `absurd`.

No market has such numbers, and their sums, squares and logarithms would not be finite. The rules of ticks and candles
use the constants. The other records use the types: the codec validates them, and the JSON Schemas in docs/asyncapi.yaml
contain them.
"""

from typing import Annotated

from msgspec import Meta

MIN_PRICE, MAX_PRICE = 1e-18, 1e18
"""Prices in any quote currency."""
MAX_AMOUNT = 1e24
"""Quantities and volumes in a base coin or a quote currency, and market caps."""
MAX_COUNT = 1e15
"""Trades and updates; far below 2^63, the limit of the tables' integers."""
MAX_HORIZON_H = 8_760
"""The horizon of a forecast in hours: a year."""
MAX_HISTORY_H = 175_200
"""Hours of history in one run: 20 years. The oldest market of Binance began in 2017."""
MAX_BPS = 1e9
"""Errors and losses in basis points of log price. Two plausible prices differ by less than 830,000."""
MAX_SIGMA = 1e3
"""The scale of a target in log price; exp of more is not finite."""
MIN_PERIOD_S, MAX_PERIOD_S = 0.001, 86_400
"""Seconds between two reports of a program; at most a day."""
MAX_TEXT = 1_000
"""Characters of a text of forecasts, feature rows and part statuses, such as a model version."""
MAX_ITEMS = 100
"""Entries of a list or mapping: sources and flags of a tick, windows, quantiles."""
MAX_RECORD_BYTES = 900_000
"""Bytes of a record. With key, headers and overhead, a copy of it fits Kafka's default limit of 1 MiB."""
EARLIEST_MS = 0
"""The earliest time of a record: 1970-01-01T00:00:00Z."""
LATEST_MS = 253_402_297_200_000
"""The latest time of a record: 9999-12-31T23:00:00Z. The end of its hour can still be written as RFC 3339."""

Price = Annotated[float, Meta(ge=MIN_PRICE, le=MAX_PRICE)]
Share = Annotated[float, Meta(ge=0, le=1)]
Sigma = Annotated[float, Meta(ge=0, le=MAX_SIGMA)]
Bps = Annotated[float, Meta(ge=-MAX_BPS, le=MAX_BPS)]
Loss = Annotated[float, Meta(ge=0, le=MAX_BPS)]
Count = Annotated[int, Meta(ge=0, le=int(MAX_COUNT))]
DurationMs = Annotated[int, Meta(ge=-int(MAX_COUNT), le=int(MAX_COUNT))]
HorizonH = Annotated[int, Meta(ge=1, le=MAX_HORIZON_H)]
PeriodS = Annotated[float, Meta(ge=MIN_PERIOD_S, le=MAX_PERIOD_S)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Partition = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
