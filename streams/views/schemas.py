"""Types of the API's responses and events, for the OpenAPI document; a test validates real responses against them.

`streams.views.responses` builds them. Times are RFC 3339 in UTC, event time unless stated otherwise; null is a missing
value.
"""

from typing import Literal, TypedDict

from marketdata.records import FeatureRow, Prediction, Score, SourceState

State = Literal["ok", "waiting", "late", "outage"]
Candle = tuple[int, float, float, float, float, float]
Mid = tuple[int, float | None]


class Problem(TypedDict):
    """The invalid field, its value and what is expected."""

    field: str
    value: str | None
    expected: str


class Error(TypedDict):
    """Response to a request that cannot be served."""

    error: Problem


class MarketRow(TypedDict):
    """A market's newest tick. Prices in quote currency: `price` of CoinGecko, `mid` of Binance, `last` mid or price.

    last_of: which of both `last` is. divergence_bps: price against mid at the newest poll. flags: of the newest tick
    and poll.
    """

    symbol: str
    base: str
    quote: str
    timestamp: str | None
    price: float | None
    mid: float | None
    last: float | None
    last_of: Literal["mid", "price"] | None
    spread_bps: float | None
    change_24h_percent: float | None
    divergence_bps: float | None
    flags: list[str]


class Markets(TypedDict):
    """All markets, in the order of the settings."""

    now: str | None
    markets: list[MarketRow]


class MarketList(TypedDict):
    """Markets as rows of `columns`: symbol, last, change_24h_percent, flags, last_of."""

    columns: list[str]
    rows: list[tuple[str, float | None, float | None, list[str], Literal["mid", "price"] | None]]


class Features(TypedDict):
    """The newest feature row; null before the first."""

    symbol: str
    features: FeatureRow | None


class History(TypedDict):
    """One-minute candles and mids, oldest first, as rows; times in ms since the epoch."""

    symbol: str
    candle_columns: list[str]
    candles: list[Candle]
    tick_columns: list[str]
    ticks: list[Mid]


class Predictions(TypedDict):
    """Predictions, latest target hour first."""

    symbol: str | None
    predictions: list[Prediction]


class ScoreSummary(TypedDict):
    """Means over the stored scores of one market, role, model version and origin; errors in bps of log price."""

    symbol: str
    role: str
    model_version: str
    origin: str
    n: int
    interval_level: float
    coverage: float
    mean_abs_error_bps: float
    mean_abs_last_price_error_bps: float
    rmse_bps: float
    rmse_ratio_to_last_price: float | None
    mean_pinball_bps: float
    mean_winkler_bps: float
    first_target: str
    last_target: str


class Scores(TypedDict):
    """Scores, latest target hour first, and their summary."""

    symbol: str | None
    summary: list[ScoreSummary]
    scores: list[Score]


class PartHealth(TypedDict):
    """A topic, as read by this worker. last_arrival: the broker's append time. view_lag: records not read yet.

    skipped: records ignored because the views fell too far behind, or because their time is ahead of the clock.
    """

    part: str
    name: str
    what: str
    state: State
    last_event: str | None
    last_arrival: str | None
    age_s: float | None
    records: int
    on_topic: int | None
    undecodable: int
    skipped: int
    view_lag: int


class ProgramHealth(TypedDict):
    """A part in another program, by its reports on `part-status`, or HDFS, by a probe. Times are Unix time.

    state: `outage` if it fails or its reports ended, `unknown` if it never reported or Kafka cannot be read. status: as
    reported (an `Activity`, or `unknown`), with `reason` and since when. lag: of `raw` unread records, of `hourly`
    closed hours without a row. instances: those that report in time.
    """

    part: str
    name: str
    what: str
    state: Literal["ok", "waiting", "outage", "unknown"]
    status: str
    reason: str | None
    since: str | None
    since_age_s: float | None
    last_success: str | None
    success_age_s: float | None
    last_report: str | None
    lag: int | None
    instances: int


class SourceHealth(TypedDict):
    """A source, according to the newest tick. stale_markets: markets whose newest poll flags this source as stale."""

    source: str
    state: Literal["ok", "late", "outage", "disabled", "waiting"]
    status: str
    observed_at: str | None
    age_s: float | None
    staleness_ms: int | None
    failing_since: str | None
    last_tick: str
    stale: bool
    stale_markets: int


class SourcePause(TypedDict):
    """A source that this worker does not ask for `pause_s` real seconds, after the error `kind`: `problem`.

    With `pause_s` 0 it is asked as usual, and fails.
    """

    source: str
    operation: str
    kind: str
    problem: str
    pause_s: float


class Lag(TypedDict):
    """Consumer lag of the worker's agents, in records."""

    clean: int | None
    features: int | None


class KafkaHealth(TypedDict):
    """Connection of the views to the brokers. problem, since: why and since when nothing can be read.

    failures: number of restarts of the views' reader after unexpected errors.
    """

    state: Literal["ok", "outage"]
    problem: str | None
    since: str | None
    lag: Lag
    failures: int


class RefusedRecord(TypedDict):
    """The newest dead letter, without its payload."""

    refused_at: str
    reason: str
    field: str
    value: str
    expected: str
    topic: str
    partition: int
    offset: int


class DeadLetters(TypedDict):
    """Refused records. by_reason: counts of those read by this worker."""

    on_topic: int | None
    by_reason: dict[str, int]
    newest: RefusedRecord | None


class OverdueForecast(TypedDict):
    """A market's newest serving forecast. overdue_s: event time since the first hour without forecast began."""

    symbol: str
    state: Literal["late", "outage"]
    target_start: str
    target_end: str
    issued_at: str
    overdue_s: float


class Forecasts(TypedDict):
    """Whether each market's newest forecast is for the running hour, at the latest grace_s after the hour began.

    n_markets: markets in `forecasting.symbols` that ever had a forecast. overdue: the ten longest overdue markets.
    reason: the problem as text.
    """

    state: State
    reason: str | None
    grace_s: float
    n_markets: int
    n_overdue: int
    overdue: list[OverdueForecast]


class ServingModel(TypedDict):
    """The model that serves the newest hour."""

    model_version: str
    role: str
    trained_through: str | None
    data_through: str
    issued_at: str
    n_calib: int
    stale_reason: str | None


class Flagged(TypedDict):
    """A flag of the newest ticks: the number of markets with it, and the first ten of them."""

    flag: str
    n_markets: int
    markets: list[str]


class MarketDivergence(TypedDict):
    """CoinGecko's price against Binance's mid at a market's newest poll with both."""

    symbol: str
    divergence_bps: float
    timestamp: str


class Divergence(TypedDict):
    """Above bound_bps a tick is flagged `divergent`. widest: the market with the largest divergence now."""

    bound_bps: float
    widest: MarketDivergence | None


class Health(TypedDict):
    """The state of all parts; `state` is the worst known one of them.

    parts: topics. programs: parts in other programs, and HDFS. plot: whether /api/plot.png exists.
    """

    now: str | None
    speed: float
    state: State
    parts: list[PartHealth]
    programs: list[ProgramHealth]
    sources: list[SourceHealth]
    pauses: list[SourcePause]
    flags: list[Flagged]
    divergence: Divergence
    kafka: KafkaHealth
    dead_letters: DeadLetters
    forecasts: Forecasts
    model: ServingModel | None
    plot: bool


class TickEvent(TypedDict):
    """A market's new tick: its row, a point for the chart, the newest state of each source, and the flags.

    If no source has a price, only the sources are new, and the point has no mid.
    """

    market: MarketRow
    point: Mid
    sources: dict[str, SourceState]
    flags: list[str]


class Snapshot(TypedDict):
    """All data of the dashboard: everything about `symbol`, a row for each other market; at most 500 scores.

    is_forecast: whether `symbol` is in `forecasting.symbols`; earlier forecasts are included in any case.
    """

    symbol: str
    markets: MarketList
    market: MarketRow
    sources: dict[str, SourceState]
    history: History
    features: FeatureRow | None
    is_forecast: bool
    predictions: list[Prediction]
    scores: Scores
    health: Health


class Resync(TypedDict):
    """Fetch the documents again: this client did not keep up, or the views reconnected to Kafka."""


class Live(TypedDict):
    """stalled: agent → problem."""

    live: bool
    stalled: dict[str, str]


class Ready(TypedDict):
    """Whether the worker is ready, and what it is waiting for."""

    ready: bool
    waiting_for: list[str]
