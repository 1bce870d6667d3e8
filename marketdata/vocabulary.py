"""Closed sets of values on the wire, in settings, in Parquet columns and in metric labels.

Each member is a `str`, so it is encoded, compared and formatted as its value. A field that may hold values written by
other versions (a source's status, a flag, a dead letter's reason) stays typed `str` in `marketdata.records`.
"""

from enum import StrEnum


class SourceStatus(StrEnum):
    """The result of polling one source for one market, or the kind of its error: in ticks, metrics, `/api/health`."""

    OK = "ok"
    MISSING = "missing"
    """The source answered, but without this market."""
    UNKNOWN_SYMBOL = "unknown_symbol"
    """The source reports that it does not list this market."""
    NO_COIN_ID = "no_coin_id"
    """CoinGecko is not asked for this market: no id of its coin is known, `coingecko.coin_ids` can name one."""
    NOT_TRADING = "not_trading"
    """The exchange lists this market, but trading is suspended and there is no quote."""
    INVALID = "invalid"
    """The source's data about this market is not valid, and is left out of the tick."""
    DISABLED = "disabled"
    """Switched off in the settings."""
    NOT_POLLED = "not_polled"
    """The tick comes from another source's stream."""
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    RATE_LIMITED = "rate_limited"
    BANNED = "banned"
    FORBIDDEN = "forbidden"
    UNAUTHORISED = "unauthorised"
    GEO_BLOCKED = "geo_blocked"
    SERVER_ERROR = "server_error"
    BAD_REQUEST = "bad_request"
    BAD_PAYLOAD = "bad_payload"
    LOST = "lost"
    """A stream's connection was lost."""
    REFUSED = "refused"
    """The source refuses a stream's subscription."""
    UNEXPECTED = "unexpected"
    """A fault of this program, not of the source."""


OF_ONE_MARKET = frozenset({SourceStatus.UNKNOWN_SYMBOL, SourceStatus.NO_COIN_ID, SourceStatus.NOT_TRADING})
"""Statuses that concern one market; the source answers for the others."""


class TickFlag(StrEnum):
    """A warning about a tick. The flag of a stale source is `stale_flag(source)`."""

    DIVERGENT = "divergent"
    """CoinGecko's price is more than `streams.divergence_bps` away from Binance's mid."""
    JUMP = "jump"
    """The mid moved by more than `streams.jump_bps` since the market's previous tick."""


_STALE = "stale_{}"


def stale_flag(source: str) -> str:
    """Return the flag of a tick whose data from `source` is older than its limit."""
    return _STALE.format(source)


class FeedMode(StrEnum):
    """The source of the worker's quotes (`streams.feed`)."""

    POLL = "poll"
    STREAM = "stream"
    BOTH = "both"


class Reason(StrEnum):
    """The reason code of a refused record: `reason` of a dead letter."""

    EMPTY = "empty"
    JSON = "json"
    SCHEMA_VERSION = "schema_version"
    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    TYPE = "type"
    VALUE = "value"
    KEY = "key"
    """The record's key is not its symbol."""
    NOT_A_TICK = "not_a_tick"
    SYMBOL = "symbol"
    QUOTE = "quote"
    TICK_ID = "tick_id"
    PRICE_ALIAS = "price_alias"
    NOT_POSITIVE = "not_positive"
    NEGATIVE = "negative"
    ABSURD = "absurd"
    CROSSED_QUOTE = "crossed_quote"
    CROSSED_RANGE = "crossed_range"
    NO_DATA = "no_data"
    GRID = "grid"
    """An open time that is not a multiple of the interval."""
    FUTURE = "future"
    """A time ahead of the clock."""
    UNEXPECTED = "unexpected"
    """A fault of this program, not of the record."""


class Basis(StrEnum):
    """The input of an hourly row; a later member is more precise (`marketdata.hourly.replaces`)."""

    CANDLES_1H = "candles_1h"
    CANDLES_1M = "candles_1m"
    TICKS = "ticks"


class Origin(StrEnum):
    """Whether a row, prediction or score was made live or from history."""

    LIVE = "live"
    BACKFILL = "backfill"


class Role(StrEnum):
    """The use of a forecast."""

    CHAMPION = "champion"
    """The promoted model; its forecast is the one to use."""
    CHALLENGER = "challenger"
    """A model that is scored for comparison only."""
    BASELINE = "baseline"
    """A simple model that serves while no champion is usable."""


class StaleReason(StrEnum):
    """Why a baseline serves in place of the champion: the prefix of `stale_reason` of a prediction."""

    NO_MODEL = "no_model"
    MODEL_TRAINED_PAST_THIS_HOUR = "model_trained_past_this_hour"
    MODEL_TOO_OLD = "model_too_old"
    """Older than `forecasting.max_model_age_h`; the age follows."""
    GAP_IN_HOURS = "gap_in_hours"
    MODEL_OF_ANOTHER_SHAPE = "model_of_another_shape"
    """Trained with another horizon or sequence length."""
    CHAMPION_TRAILS_HAR = "champion_trails_har"
    """Its mean pinball loss is above that of HAR; the number of compared hours follows."""


class ProductPart(StrEnum):
    """A part of the product whose program reports its state on `part-status`."""

    RAW = "raw"
    """Ticks and candles to HDFS (`batch raw`)."""
    HOURLY = "hourly"
    """Closed hours to hourly_metrics (`batch raw`, `batch hourly`)."""
    BACKFILL = "backfill"
    """History from klines (`batch backfill`)."""
    FORECASTER = "forecaster"
    """Predictions and scores (`forecasting serve`)."""
    TRAINER = "trainer"
    """Trainings (`forecasting serve`, `forecasting train`)."""


class Activity(StrEnum):
    """What a part reports about itself."""

    RUNNING = "running"
    WAITING = "waiting"
    """For what `reason` names."""
    FAILING = "failing"
    """Because of `reason`; if the program continues, it retries."""
    DONE = "done"
    """A job that ended successfully."""
    STOPPED = "stopped"
    """A program that ended on request."""
