"""The records that travel on topics and stand in Parquet: immutable, typed, every missing value None.

On the wire each is one JSON object with every field present; the codec turns bytes into records and back. Times are
RFC 3339 in UTC with milliseconds on the wire; `*_ms` properties give them as ms since the epoch.
"""

from typing import ClassVar, Literal

from msgspec import Struct

from marketdata.times import from_rfc3339
from marketdata.vocabulary import Basis, Origin, Role

SCHEMA_VERSION = 1


class Record(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all records share. `TIMES` names the RFC 3339 fields, which the codec checks one by one."""

    TIMES: ClassVar[tuple[str, ...]] = ()
    symbol: str
    schema_version: int = SCHEMA_VERSION


class SourceState(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one source contributed to a tick.

    status: `ok`, `disabled`, `not_polled` (a stream's tick has another source), or the kind of the error (`timeout`,
    `rate_limited`, …).
    observed_at: when the source says that its data was true (CoinGecko's last_updated, the Date header of Binance); for
    a stream, whose quotes carry no time, when the last one came.
    received_at: when the answer was here; of a stream, the tick's instant. staleness_ms: received_at - observed_at,
    null where one is unknown.
    """

    status: str
    observed_at: str | None = None
    received_at: str | None = None
    staleness_ms: int | None = None


class Tick(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the sources said of one market at one instant of the grid (`cryptoTopic`, `ticks-clean`).

    Prices, volumes in money and market cap are in the quote currency; `price_usd` repeats `price` where that is USD.
    volume_24h: of all exchanges over 24 h, in the quote currency (CoinGecko). Quantities are in the base coin.
    tick_id: `symbol|timestamp`, so the same poll made twice is the same tick.

    A tick of a stream stands for the time since the market's tick before: `n_updates` quotes, of which it carries the
    last, and `n_trades` trades of `traded_volume` (base coin) at `vwap` on average. All four are null in a poll's tick.
    divergence_bps: (price - mid) / mid x 10,000, null where one is missing.
    """

    TIMES: ClassVar[tuple[str, ...]] = ("timestamp", "trade_timestamp")
    tick_id: str
    timestamp: str
    quote: str
    price: float | None = None
    price_usd: float | None = None
    volume_24h: float | None = None
    market_cap: float | None = None
    price_change_24h: float | None = None
    price_change_percentage_24h: float | None = None
    high_24h: float | None = None
    low_24h: float | None = None
    trade_timestamp: str | None = None
    bid_price: float | None = None
    bid_qty: float | None = None
    ask_price: float | None = None
    ask_qty: float | None = None
    n_updates: int | None = None
    n_trades: int | None = None
    traded_volume: float | None = None
    vwap: float | None = None
    divergence_bps: float | None = None
    sources: dict[str, SourceState] = {}
    flags: tuple[str, ...] = ()

    @property
    def timestamp_ms(self) -> int:
        return from_rfc3339(self.timestamp)

    @staticmethod
    def make_id(symbol: str, timestamp: str) -> str:
        return f"{symbol}|{timestamp}"


class Candle(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A closed kline [open_time, open_time + interval); prices in the quote currency, volume in the base coin."""

    TIMES: ClassVar[tuple[str, ...]] = ("open_time",)
    open_time: str
    interval: Literal["1m", "1h"] = "1m"
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float | None = None
    n_trades: int | None = None
    taker_buy_volume: float | None = None
    taker_buy_quote_volume: float | None = None
    source: str = "binance"

    @property
    def open_time_ms(self) -> int:
        return from_rfc3339(self.open_time, "open_time")


class WindowFeatures(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rolling features of one window; definitions and units stand in docs/features.md."""

    n_ticks: int
    coverage: float
    open: float | None = None
    high: float | None = None
    low: float | None = None
    last: float | None = None
    log_return: float | None = None
    realised_volatility: float | None = None
    mean_spread_bps: float | None = None
    max_spread_bps: float | None = None
    mean_liquidity: float | None = None
    imbalance: float | None = None
    vwap: float | None = None
    volume: float | None = None


class FeatureRow(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rolling features of one market as of `timestamp` (event time of the newest tick in it).

    A later row of the same symbol and timestamp has a higher `revision` and replaces it.
    """

    TIMES: ClassVar[tuple[str, ...]] = ("timestamp",)
    timestamp: str
    revision: int
    mid: float | None
    spread_bps: float | None
    ewma_volatility: float | None
    windows: dict[str, WindowFeatures]

    @property
    def timestamp_ms(self) -> int:
        return from_rfc3339(self.timestamp)


class HourlyRow(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One market and hour [hour_start, hour_start + 1 h); formulas in `marketdata.hourly`."""

    TIMES: ClassVar[tuple[str, ...]] = ("hour_start",)
    hour_start: str
    avg_price: float | None
    avg_spread: float | None
    avg_spread_percentage: float | None
    total_liquidity: float | None
    avg_volatility: float | None
    high_price: float | None
    low_price: float | None
    avg_volume: float | None
    avg_volume_24h: float | None
    last_market_cap: float | None
    open_price: float | None
    last_price: float | None
    realised_variance: float | None
    n_ticks: int
    n_candles: int
    coverage: float
    origin: Origin
    basis: Basis


class DeadLetter(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A record that was refused, with its original bytes (base64) and where it lay.

    `symbol` is the original key where it could be read, else an empty text; `value` is shortened for reading.
    """

    TIMES: ClassVar[tuple[str, ...]] = ("refused_at",)
    refused_at: str
    reason: str
    field: str
    value: str
    expected: str
    topic: str
    partition: int
    offset: int
    key: str | None
    payload: str


class Prediction(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A forecast of the average price of [target_start, target_end), issued before its end.

    prediction_id: `symbol|target_start|horizon_h|model_version`. quantiles: level (as text, `0.05`) to price.
    lower/upper: the calibrated interval of `interval_level`. sigma: the scale of the target in log price.
    n_calib: conformal scores used. stale_reason: why the baseline serves in the model's place, else null.
    """

    TIMES: ClassVar[tuple[str, ...]] = ("issued_at", "data_through", "target_start", "target_end", "trained_through")
    prediction_id: str
    issued_at: str
    data_through: str
    target_start: str
    target_end: str
    horizon_h: int
    last_price: float
    pred_avg_price: float
    quantiles: dict[str, float]
    lower: float
    upper: float
    interval_level: float
    sigma: float
    n_calib: int
    model_version: str
    trained_through: str | None
    role: Role
    origin: Origin
    stale_reason: str | None = None


class Score(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a prediction fared; errors in basis points of log price, pinball and winkler too."""

    TIMES: ClassVar[tuple[str, ...]] = ("target_start", "target_end", "scored_at", "issued_at")
    prediction_id: str
    issued_at: str
    target_start: str
    target_end: str
    scored_at: str
    horizon_h: int
    model_version: str
    role: Role
    origin: Origin
    actual_avg_price: float
    pred_avg_price: float
    last_price: float
    n_ticks: int
    coverage: float
    error_bps: float
    last_price_error_bps: float
    covered: bool
    interval_level: float
    pinball_bps: float
    winkler_bps: float


RECORDS: dict[str, type[Record]] = {
    cls.__name__: cls for cls in (Tick, Candle, FeatureRow, HourlyRow, DeadLetter, Prediction, Score)
}


def event_time_ms(record: Record) -> int:
    """The event time in ms: a candle's opening, a letter's refusal, a prediction's issue.

    Raises:
        TypeError: such a record travels on no topic.
    """
    match record:
        case Tick() | FeatureRow():
            return record.timestamp_ms
        case Candle():
            return record.open_time_ms
        case DeadLetter():
            return from_rfc3339(record.refused_at)
        case Prediction():
            return from_rfc3339(record.issued_at)
        case Score():
            return from_rfc3339(record.scored_at)
    raise TypeError(f"{type(record).__name__} stands on no topic")
