"""The shapes of the API's answers and events, for the OpenAPI document; a test holds real answers against them.

`streams.views.responses` makes them. Times are RFC 3339 in UTC, event time unless said otherwise; null is unknown.
"""

from typing import Literal, TypedDict

from marketdata.records import FeatureRow, Prediction, Score, SourceState

State = Literal["ok", "waiting", "late", "outage"]
Candle = tuple[int, float, float, float, float, float]
Mid = tuple[int, float | None]


class Problem(TypedDict):
    """What was not as expected."""

    field: str
    value: str | None
    expected: str


class Error(TypedDict):
    """The answer to a question that cannot be answered."""

    error: Problem


class MarketRow(TypedDict):
    """A market's newest tick. Prices in the quote currency: `price` CoinGecko's, `mid` Binance's, `last` mid or price.

    divergence_bps: price against mid at the newest poll. flags: what was noticed of the newest tick and poll.
    """

    symbol: str
    base: str
    quote: str
    timestamp: str | None
    price: float | None
    mid: float | None
    last: float | None
    spread_bps: float | None
    change_24h_percent: float | None
    divergence_bps: float | None
    flags: list[str]


class Markets(TypedDict):
    """All markets, in the order of the settings."""

    now: str | None
    markets: list[MarketRow]


class MarketList(TypedDict):
    """Markets as rows of `columns`: symbol, last, change_24h_percent, flags."""

    columns: list[str]
    rows: list[tuple[str, float | None, float | None, list[str]]]


class Features(TypedDict):
    """The newest feature row, null before the first."""

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
    """Predictions, those for the latest hours first."""

    symbol: str | None
    predictions: list[Prediction]


class ScoreSummary(TypedDict):
    """The scores held of one market, role, model version and origin; errors in basis points of log price."""

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
    """Scores, the latest hours first, and their summary."""

    symbol: str | None
    summary: list[ScoreSummary]
    scores: list[Score]


class PartHealth(TypedDict):
    """A topic as far as this worker read it. last_arrival: the broker's time. skipped: records passed over.

    Those are too old to matter to one that fell behind, or out of the future.
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


class SourceHealth(TypedDict):
    """An exchange as the newest tick tells of it. stale_markets: those whose newest poll is flagged stale of it."""

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


class Lag(TypedDict):
    """Records that the worker's agents have not committed yet."""

    clean: int | None
    features: int | None


class KafkaHealth(TypedDict):
    """The brokers as the views see them. problem, since: why and since when nothing comes of them.

    failures: how often the views' own reader failed, and began anew.
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
    """Records that were refused. by_reason: of those that this worker's views read."""

    on_topic: int | None
    by_reason: dict[str, int]
    newest: RefusedRecord | None


class OverdueForecast(TypedDict):
    """A market's newest forecast that serves. overdue_s: event time since the next one's hour began."""

    symbol: str
    state: Literal["late", "outage"]
    target_start: str
    target_end: str
    issued_at: str
    overdue_s: float


class Forecasts(TypedDict):
    """Whether forecasts are still made: each market's newest must be of the running hour, grace_s after it began.

    n_markets: those that are forecast and ever were. overdue: the ten that are so for longest. reason: what is wrong.
    """

    state: State
    reason: str | None
    grace_s: float
    n_markets: int
    n_overdue: int
    overdue: list[OverdueForecast]


class ServingModel(TypedDict):
    """What serves the newest hour."""

    model_version: str
    role: str
    trained_through: str | None
    data_through: str
    issued_at: str
    n_calib: int
    stale_reason: str | None


class Flagged(TypedDict):
    """A flag of the newest ticks: how many markets have it, and the first ten of them."""

    flag: str
    n_markets: int
    markets: list[str]


class MarketDivergence(TypedDict):
    """CoinGecko's price against Binance's mid at a market's newest poll that has both."""

    symbol: str
    divergence_bps: float
    timestamp: str


class Divergence(TypedDict):
    """Beyond bound_bps a tick is flagged `divergent`. widest: the market furthest apart now."""

    bound_bps: float
    widest: MarketDivergence | None


class Health(TypedDict):
    """The state of all parts; `state` is the worst of them. plot: whether /api/plot.png is there."""

    now: str | None
    speed: float
    state: State
    parts: list[PartHealth]
    sources: list[SourceHealth]
    flags: list[Flagged]
    divergence: Divergence
    kafka: KafkaHealth
    dead_letters: DeadLetters
    forecasts: Forecasts
    model: ServingModel | None
    plot: bool


class TickEvent(TypedDict):
    """A market's new tick: its row, a point for the chart, the newest state of each source, and what the bounds say."""

    market: MarketRow
    point: Mid
    sources: dict[str, SourceState]
    flags: list[str]


class Snapshot(TypedDict):
    """All that a page shows: of `symbol` everything, of the other markets a row; at most 500 scores.

    is_forecast: whether forecasts of it are made (`forecasting.symbols`); those of before are there all the same.
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
    """This listener did not keep up, or the views read Kafka again: fetch the documents again, or listen anew."""


class Live(TypedDict):
    """stalled: agent to what is wrong with it."""

    live: bool
    stalled: dict[str, str]


class Ready(TypedDict):
    """What the worker waits for before it can work."""

    ready: bool
    waiting_for: list[str]
