"""Build valid records from what a test states by keyword; everything else has a plausible default."""

import base64
from typing import Any

from marketdata.records import (
    Candle,
    DeadLetter,
    FeatureRow,
    PartStatus,
    Prediction,
    Score,
    SourceState,
    Tick,
    WindowFeatures,
)
from marketdata.times import HOUR_MS, MINUTE_MS, from_rfc3339, to_rfc3339
from marketdata.vocabulary import Activity, Origin, ProductPart, Reason, Role, SourceStatus

START_MS = 1_722_816_000_000
"""2024-08-05T00:00:00Z."""
SYMBOL = "BTC-USD"
WINDOWS = ("1m", "5m", "15m", "1h", "24h")


def tick(at_ms: int = START_MS, symbol: str = SYMBOL, **fields: Any) -> Tick:
    """A clean tick with data of all sources: Binance's mid is 100, CoinGecko's price 100.5."""
    at = to_rfc3339(at_ms)
    quote = symbol.partition("-")[2]
    state = SourceState(status=SourceStatus.OK, observed_at=at, received_at=at, staleness_ms=0)
    values: dict[str, Any] = {
        "symbol": symbol,
        "tick_id": Tick.make_id(symbol, at),
        "timestamp": at,
        "quote": quote,
        "price": 100.5,
        "price_change_percentage_24h": -0.2,
        "bid_price": 99.0,
        "ask_price": 101.0,
        "sources": {"binance": state, "coingecko": state},
    }
    values |= fields
    values.setdefault("price_usd", values["price"] if quote == "USD" else None)
    return Tick(**values)


def polled(at_ms: int, symbol: str = SYMBOL, **statuses: str) -> Tick:
    """A tick without prices; `statuses`: source → status."""
    sources = {
        name: SourceState(status=status, observed_at=to_rfc3339(at_ms) if status == SourceStatus.OK else None)
        for name, status in statuses.items()
    }
    return tick(at_ms, symbol, price=None, bid_price=None, ask_price=None, sources=sources)


def candle(at_ms: int = START_MS, symbol: str = SYMBOL, close: float = 1.5) -> Candle:
    """A one-minute candle with a slightly rising price."""
    return Candle(
        symbol=symbol,
        open_time=to_rfc3339(at_ms),
        open=close * 0.999,
        high=close * 1.002,
        low=close * 0.998,
        close=close,
        volume=3.0,
    )


def feature_row(
    at_ms: int = START_MS, symbol: str = SYMBOL, revision: int = 0, mid: float = 100.0, **fields: Any
) -> FeatureRow:
    """A row with all windows."""
    window = WindowFeatures(
        n_ticks=60,
        coverage=1.0,
        open=mid * 0.999,
        high=mid * 1.002,
        low=mid * 0.998,
        last=mid,
        log_return=0.001,
        realised_volatility=0.0123,
        mean_spread_bps=1.5,
        max_spread_bps=3.0,
        mean_liquidity=2.5,
        imbalance=0.1,
    )
    values: dict[str, Any] = {
        "symbol": symbol,
        "timestamp": to_rfc3339(at_ms),
        "revision": revision,
        "mid": mid,
        "spread_bps": 1.5,
        "ewma_volatility": 0.0004,
        "windows": dict.fromkeys(WINDOWS, window),
    }
    return FeatureRow(**values | fields)


def prediction(start_ms: int = START_MS, symbol: str = SYMBOL, **fields: Any) -> Prediction:
    """A forecast of the hour that begins at `start_ms`: 101, its band 99 to 103."""
    start = to_rfc3339(start_ms)
    values: dict[str, Any] = {
        "symbol": symbol,
        "prediction_id": f"{symbol}|{start}|1|m1",
        "issued_at": start,
        "data_through": start,
        "target_start": start,
        "target_end": to_rfc3339(start_ms + HOUR_MS),
        "horizon_h": 1,
        "last_price": 100.0,
        "pred_avg_price": 101.0,
        "quantiles": {},
        "lower": 99.0,
        "upper": 103.0,
        "interval_level": 0.9,
        "sigma": 0.01,
        "n_calib": 1440,
        "model_version": "m1",
        "trained_through": None,
        "role": Role.CHAMPION,
        "origin": Origin.LIVE,
    }
    return Prediction(**values | fields)


def score(of: Prediction, **fields: Any) -> Score:
    """The score of a prediction whose hour averaged its last price, inside the band."""
    values: dict[str, Any] = {
        "symbol": of.symbol,
        "prediction_id": of.prediction_id,
        "issued_at": of.issued_at,
        "target_start": of.target_start,
        "target_end": of.target_end,
        "scored_at": to_rfc3339(from_rfc3339(of.target_end) + 2 * MINUTE_MS),
        "horizon_h": of.horizon_h,
        "model_version": of.model_version,
        "role": of.role,
        "origin": of.origin,
        "actual_avg_price": of.last_price,
        "pred_avg_price": of.pred_avg_price,
        "last_price": of.last_price,
        "n_ticks": 60,
        "coverage": 1.0,
        "error_bps": -10.0,
        "last_price_error_bps": 12.5,
        "covered": True,
        "interval_level": of.interval_level,
        "pinball_bps": 3.0,
        "winkler_bps": 200.0,
    }
    return Score(**values | fields)


def dead_letter(at_ms: int = START_MS, symbol: str = SYMBOL, *, original: bytes = b"{}", **fields: Any) -> DeadLetter:
    """A tick that was refused for a crossed quote; `original`: its bytes."""
    values: dict[str, Any] = {
        "symbol": symbol,
        "refused_at": to_rfc3339(at_ms),
        "reason": Reason.CROSSED_QUOTE,
        "field": "ask_price",
        "value": "1.0",
        "expected": "at least bid_price",
        "topic": "cryptoTopic",
        "partition": 0,
        "offset": 7,
        "key": symbol,
        "payload": base64.b64encode(original).decode(),
    }
    return DeadLetter(**values | fields)


def part_status(
    at_ms: int = START_MS, part: str = ProductPart.RAW, instance: str = "host:1", **fields: Any
) -> PartStatus:
    """A part that runs since `at_ms` and reports every 5 s."""
    at = to_rfc3339(at_ms)
    values: dict[str, Any] = {
        "part": part,
        "instance": instance,
        "reported_at": at,
        "state": Activity.RUNNING,
        "reason": None,
        "since": at,
        "last_success": at,
        "lag": 3,
        "next_report_s": 5.0,
    }
    return PartStatus(**values | fields)
