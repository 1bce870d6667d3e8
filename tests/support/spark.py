"""Spark session and random records for tests of DataFrames."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from batch.spark.session import spark_session
from config import Settings
from marketdata.codec import encode
from marketdata.records import Candle, SourceState, Tick
from marketdata.times import HOUR_MS, MINUTE_MS, to_rfc3339

TOPICS: dict[str, Any] = {"ticks_topic": "ticks-clean", "candles_topic": "candles"}


@contextmanager
def session(settings: Settings) -> Iterator[SparkSession]:
    """Start the product's Spark session; only one at a time per process."""
    with spark_session(settings, "tests") as spark:
        yield spark


KAFKA_ROWS = "topic STRING, partition INT, offset BIGINT, key BINARY, value BINARY"


def kafka_rows(spark: SparkSession, records: Sequence[Tick | Candle]) -> DataFrame:
    """Return records as rows of Spark's Kafka source."""
    rows = [
        (
            "candles" if isinstance(record, Candle) else "ticks-clean",
            0,
            offset,
            bytearray(record.symbol.encode()),
            bytearray(encode(record)),
        )
        for offset, record in enumerate(records)
    ]
    return spark.createDataFrame(rows, KAFKA_ROWS)


def _maybe(rng: random.Random, value: float, share: float = 0.15) -> float | None:
    return None if rng.random() < share else value


def random_tick(rng: random.Random, symbol: str, at_ms: int) -> Tick:
    """Return a clean tick, sometimes with nulls or a one-sided quote."""
    at = to_rfc3339(at_ms)
    around = rng.uniform(50, 70_000)
    bid = _maybe(rng, around * rng.uniform(0.999, 1.0))
    ask = _maybe(rng, around * rng.uniform(1.0, 1.001))
    price = around if bid is None or ask is None else _maybe(rng, around)
    state = SourceState(status="ok", observed_at=at, received_at=to_rfc3339(at_ms + 137), staleness_ms=137)
    failed = SourceState(status="timeout")
    return Tick(
        symbol=symbol,
        tick_id=Tick.make_id(symbol, at),
        timestamp=at,
        quote=symbol[-3:],
        price=price,
        price_usd=price if symbol.endswith("-USD") else None,
        volume_24h=_maybe(rng, rng.uniform(1e6, 1e9)),
        market_cap=_maybe(rng, rng.uniform(1e9, 1e12), 0.5),
        high_24h=_maybe(rng, around * 1.02),
        low_24h=_maybe(rng, around * 0.97),
        trade_timestamp=None if rng.random() < 0.5 else to_rfc3339(at_ms - 2_345),
        bid_price=bid,
        bid_qty=_maybe(rng, rng.uniform(0, 5)),
        ask_price=ask,
        ask_qty=_maybe(rng, rng.uniform(0, 5)),
        sources={"binance": state, "coingecko": failed} if rng.random() < 0.5 else {},
        flags=("stale",) if rng.random() < 0.1 else (),
    )


def random_candle(rng: random.Random, symbol: str, open_ms: int) -> Candle:
    """Return a closed one-minute candle."""
    prices = sorted(rng.uniform(50, 70_000) for _ in range(4))
    inner = [prices[1], prices[2]]
    rng.shuffle(inner)
    return Candle(
        symbol=symbol,
        open_time=to_rfc3339(open_ms),
        open=inner[0],
        high=prices[3],
        low=prices[0],
        close=inner[1],
        volume=rng.uniform(0, 100),
        quote_volume=_maybe(rng, rng.uniform(0, 1e6)),
        n_trades=rng.randrange(1000),
    )


def random_hours(
    rng: random.Random, symbols: Sequence[str], from_ms: int, hours: int, *, ticks: float, candles: float
) -> tuple[list[Tick], list[Candle]]:
    """Return ticks and candles; `ticks` and `candles` are the shares of minutes that have one.

    Some minutes have two ticks off the grid, and some hours have none.
    """
    made_ticks, made_candles = [], []
    for symbol in symbols:
        for hour in range(hours):
            with_ticks, with_candles = rng.random() < 0.7, rng.random() < 0.9
            for minute in range(60):
                at = from_ms + hour * HOUR_MS + minute * MINUTE_MS
                if with_candles and rng.random() < candles:
                    made_candles.append(random_candle(rng, symbol, at))
                if with_ticks and rng.random() < ticks:
                    offsets = {0} if rng.random() < 0.7 else {rng.randrange(MINUTE_MS), MINUTE_MS - 1}
                    made_ticks += [random_tick(rng, symbol, at + offset) for offset in offsets]
    rng.shuffle(made_ticks)
    rng.shuffle(made_candles)
    return made_ticks, made_candles
