"""Columns of the three tables and of the wire records, as Spark DDL.

A test compares the names with `marketdata.records`.
"""

from functools import cache

SOURCES = ("coingecko", "binance")

_STATE = "STRUCT<status: STRING, observed_at: STRING, received_at: STRING, staleness_ms: BIGINT>"

# A Tick on the wire; times are strings until they are validated.
TICK_WIRE = f"""
    schema_version INT, tick_id STRING, symbol STRING, timestamp STRING, quote STRING, price DOUBLE, price_usd DOUBLE,
    volume_24h DOUBLE, market_cap DOUBLE, price_change_24h DOUBLE, price_change_percentage_24h DOUBLE, high_24h DOUBLE,
    low_24h DOUBLE, trade_timestamp STRING, bid_price DOUBLE, bid_qty DOUBLE, ask_price DOUBLE, ask_qty DOUBLE,
    n_updates BIGINT, n_trades BIGINT, traded_volume DOUBLE, vwap DOUBLE, divergence_bps DOUBLE,
    sources MAP<STRING, {_STATE}>, flags ARRAY<STRING>
"""

CANDLE_WIRE = """
    schema_version INT, symbol STRING, open_time STRING, interval STRING, open DOUBLE, high DOUBLE, low DOUBLE,
    close DOUBLE, volume DOUBLE, quote_volume DOUBLE, n_trades BIGINT, taker_buy_volume DOUBLE,
    taker_buy_quote_volume DOUBLE, source STRING
"""

_SOURCE_COLUMNS = ", ".join(
    f"{s}_status STRING, {s}_observed_at TIMESTAMP, {s}_received_at TIMESTAMP, {s}_staleness_ms BIGINT" for s in SOURCES
)

# raw_data; `date` and `hour` are part of the path.
RAW = f"""
    tick_id STRING, symbol STRING, timestamp TIMESTAMP, quote STRING, price DOUBLE, price_usd DOUBLE, volume_24h DOUBLE,
    market_cap DOUBLE, price_change_24h DOUBLE, price_change_percentage_24h DOUBLE, high_24h DOUBLE, low_24h DOUBLE,
    trade_timestamp TIMESTAMP, bid_price DOUBLE, bid_qty DOUBLE, ask_price DOUBLE, ask_qty DOUBLE,
    n_updates BIGINT, n_trades BIGINT, traded_volume DOUBLE, vwap DOUBLE, divergence_bps DOUBLE,
    mid_price DOUBLE, spread DOUBLE, spread_percentage DOUBLE, total_liquidity DOUBLE, price_volatility DOUBLE,
    {_SOURCE_COLUMNS}, flags ARRAY<STRING>, schema_version INT
"""

# minute_candles; also the one-hour klines from which hourly rows are made.
CANDLES = """
    symbol STRING, open_time TIMESTAMP, open DOUBLE, high DOUBLE, low DOUBLE, close DOUBLE, volume DOUBLE,
    quote_volume DOUBLE, n_trades BIGINT, taker_buy_volume DOUBLE, taker_buy_quote_volume DOUBLE, source STRING
"""

HOURLY = """
    symbol STRING, hour_start TIMESTAMP, avg_price DOUBLE, avg_spread DOUBLE, avg_spread_percentage DOUBLE,
    total_liquidity DOUBLE, avg_volatility DOUBLE, high_price DOUBLE, low_price DOUBLE, avg_volume DOUBLE,
    avg_volume_24h DOUBLE, last_market_cap DOUBLE, open_price DOUBLE, last_price DOUBLE, realised_variance DOUBLE,
    n_ticks BIGINT, n_candles BIGINT, n_reference_minutes BIGINT, coverage DOUBLE, origin STRING, basis STRING,
    definition INT
"""


@cache
def column_names(ddl: str) -> tuple[str, ...]:
    """Return the names of a DDL's top-level columns, in order."""
    names, depth, word = [], 0, ""
    for character in ddl + ",":
        if character == "," and depth == 0:
            names.append(word.split(maxsplit=1)[0])
            word = ""
            continue
        depth += {"<": 1, ">": -1}.get(character, 0)
        word += character
    return tuple(names)
