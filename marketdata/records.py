"""The records on topics and in Parquet: immutable and typed; a missing value is None.

On the wire a record is one JSON object with every field present (`marketdata.codec`). Annotated types are bounds that
the codec validates (`marketdata.bounds`). Times are RFC 3339 in UTC with
milliseconds; the `*_ms` properties return them in ms since the epoch.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from marketdata.bounds import (
    MAX_ITEMS,
    Bps,
    Count,
    DurationMs,
    HorizonH,
    Loss,
    Offset,
    Partition,
    PeriodS,
    Price,
    Share,
    Sigma,
    Text,
)
from marketdata.times import from_rfc3339
from marketdata.vocabulary import Activity, Basis, Origin, Role

SCHEMA_VERSION = 1


class Record(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fields of all records. `TIMES` lists the RFC 3339 fields, which the codec validates."""

    TIMES: ClassVar[tuple[str, ...]] = ()
    symbol: str
    schema_version: int = SCHEMA_VERSION


class SourceState(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one source contributed to a tick.

    status: `ok`, `disabled`, `not_polled` (the tick comes from another source's stream), or the kind of the error
    (`timeout`, `rate_limited`, …).
    observed_at: the time of the data according to the source (CoinGecko's last_updated, Binance's Date header); for a
    stream, whose quotes have no time, the arrival of the last quote.
    received_at: the arrival of the response; for a stream, the tick's timestamp. staleness_ms: received_at -
    observed_at, null if one is unknown.
    """

    status: str
    observed_at: str | None = None
    received_at: str | None = None
    staleness_ms: DurationMs | None = None


class Tick(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the sources reported about one market at one instant of the grid (`cryptoTopic`, `ticks-clean`).

    Prices, market cap and volume_24h (of all exchanges, from CoinGecko) are in the quote currency; `price_usd` equals
    `price` if that is USD, else null. Quantities are in the base coin. tick_id: `symbol|timestamp`; a repeated poll
    has the same id.

    A tick of a stream covers the time since the market's previous tick: `n_updates` quotes, of which it has the last,
    and `n_trades` trades of `traded_volume` (base coin) at the average price `vwap`. All four are null in a polled
    tick. divergence_bps: (price - mid) / mid x 10,000, null if one is missing.
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
    sources: Annotated[dict[str, SourceState], Meta(max_length=MAX_ITEMS)] = {}
    flags: Annotated[tuple[str, ...], Meta(max_length=MAX_ITEMS)] = ()

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
    """Rolling features of one window; definitions and units are in docs/features.md."""

    n_ticks: Count
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
    """Rolling features of one market as of `timestamp`, the event time of its newest tick.

    A later row of the same symbol and timestamp has a higher `revision` and replaces it.
    """

    TIMES: ClassVar[tuple[str, ...]] = ("timestamp",)
    timestamp: str
    revision: Count
    mid: float | None
    spread_bps: float | None
    ewma_volatility: float | None
    windows: Annotated[dict[Text, WindowFeatures], Meta(max_length=MAX_ITEMS)]

    @property
    def timestamp_ms(self) -> int:
        return from_rfc3339(self.timestamp)


class HourlyRow(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The metrics of one market and hour [hour_start, hour_start + 1 h); formulas are in docs/features.md.

    `definition` is the version of the formulas, which `marketdata.hourly` implements. It and `n_reference_minutes` are
    null in rows of definition 1.
    """

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
    n_reference_minutes: int | None
    coverage: float
    origin: Origin
    basis: Basis
    definition: int | None


class DeadLetter(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A refused record with its original bytes (`payload`, base64), topic, partition and offset.

    `symbol` is the original key, empty if there is none. Texts are shortened (`marketdata.errors.shorten`), so that
    any dead letter fits a Kafka record. cut: for `key` and `payload` that were shortened, the length and hash of the
    original, such as `700000 bytes, sha256 0123456789abcdef`; topic, partition and offset identify the original.
    """

    TIMES: ClassVar[tuple[str, ...]] = ("refused_at",)
    refused_at: str
    reason: str
    field: str
    value: str
    expected: str
    topic: str
    partition: Partition
    offset: Offset
    key: str | None
    payload: str
    cut: Annotated[dict[str, str], Meta(max_length=MAX_ITEMS)] = {}


class Prediction(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A forecast of the average price in [target_start, target_end), issued before its end.

    prediction_id: `symbol|target_start|horizon_h|model_version`. quantiles: prices by level (a string such as `0.05`).
    lower and upper: the calibrated interval of `interval_level`. sigma: the scale of the target in log price.
    n_calib: number of conformal scores used. stale_reason: why a baseline serves in place of the model, else null.
    """

    TIMES: ClassVar[tuple[str, ...]] = ("issued_at", "data_through", "target_start", "target_end", "trained_through")
    prediction_id: Text
    issued_at: str
    data_through: str
    target_start: str
    target_end: str
    horizon_h: HorizonH
    last_price: Price
    pred_avg_price: Price
    quantiles: Annotated[dict[Text, Price], Meta(max_length=MAX_ITEMS)]
    lower: Price
    upper: Price
    interval_level: Share
    sigma: Sigma
    n_calib: Count
    model_version: Text
    trained_through: str | None
    role: Role
    origin: Origin
    stale_reason: Text | None = None


class Score(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The score of a prediction; `*_bps` are in basis points of log price.

    A later score of the same prediction has a higher `revision` and replaces it: its hour was rewritten.
    """

    TIMES: ClassVar[tuple[str, ...]] = ("target_start", "target_end", "scored_at", "issued_at")
    prediction_id: Text
    issued_at: str
    target_start: str
    target_end: str
    scored_at: str
    horizon_h: HorizonH
    model_version: Text
    role: Role
    origin: Origin
    actual_avg_price: Price
    pred_avg_price: Price
    last_price: Price
    n_ticks: Count
    coverage: Share
    error_bps: Bps
    last_price_error_bps: Bps
    covered: bool
    interval_level: Share
    pinball_bps: Loss
    winkler_bps: Loss
    revision: Count = 0


class PartStatus(Record, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a program reports about one of its parts, at each change and periodically (`part-status`).

    Times are Unix time of the program's machine, not event time. symbol: the market that the part works for; empty for
    all. part: a `ProductPart`. instance: `host:pid`. since: the beginning of `state`. lag: of `raw` unread records, of
    `hourly` closed hours without a row, else null. next_report_s: seconds until the next report at the latest; null in
    the last report of a program that ended.
    """

    TIMES: ClassVar[tuple[str, ...]] = ("reported_at", "since", "last_success")
    symbol: Text = ""
    part: Text
    instance: Text
    reported_at: str
    state: Activity
    reason: Text | None
    since: str
    last_success: str | None
    lag: Count | None
    next_report_s: PeriodS | None


RECORDS: dict[str, type[Record]] = {
    cls.__name__: cls for cls in (Tick, Candle, FeatureRow, HourlyRow, DeadLetter, Prediction, Score, PartStatus)
}


def event_time_ms(record: Record) -> int:
    """Return the event time in ms: a candle's open time, a dead letter's refusal, a prediction's issue.

    The time of a part's status is that of its report, Unix time of its machine.

    Raises:
        TypeError: the record's type has no topic.
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
        case PartStatus():
            return from_rfc3339(record.reported_at)
    raise TypeError(f"record: {type(record).__name__}: expected a record that has a topic")
