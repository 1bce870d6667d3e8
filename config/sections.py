"""The sections of the settings tree; each field's text is what docs/settings.md says of it.

Must never read the environment or a file.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from marketdata.errors import InvalidValueError
from marketdata.times import from_rfc3339
from marketdata.topics import TopicRole

# A variable that is passed on without a value (`KEY: ${KEY:-}` of compose) is no secret.
_Secret = Annotated[SecretStr | None, BeforeValidator(lambda value: value or None)]
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,}")


def _sendable(token: SecretStr | None) -> SecretStr | None:
    """A token that is not guessed, and can stand in a header and in an address as it is."""
    if token is not None and not _TOKEN.fullmatch(token.get_secret_value()):
        raise ValueError("expected 16 or more of the letters A-Z and a-z, digits and . _ ~ -")
    return token


def _address(*schemes: str) -> AfterValidator:
    """SCHEME://HOST with anything behind it; without a slash at its end, for paths are put there."""
    form = re.compile(rf"({'|'.join(schemes)})://[^/\s]\S*")

    def addressed(text: str) -> str:
        if not form.fullmatch(text):
            raise ValueError(f"{text!r}: expected {' or '.join(f'{scheme}://HOST' for scheme in schemes)}")
        return text.rstrip("/")

    return AfterValidator(addressed)


_Http = Annotated[str, _address("http", "https")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class KafkaSettings(_Section):
    """How to reach the brokers, in Kafka's own words; SASL and TLS are passed through."""

    brokers: str = Field("127.0.0.1:19092", pattern=r"^[^\s,:]+:\d+(,[^\s,:]+:\d+)*$")
    """Bootstrap servers, `host:port,host:port`."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """As Kafka's own clients name it."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """With a SASL protocol."""
    sasl_username: str | None = None
    """With a SASL protocol."""
    sasl_password: _Secret = None
    """With a SASL protocol; a secret."""
    ssl_cafile: Path | None = None
    """Certificates to trust, PEM; none: the system's."""
    partitions: int = Field(4, ge=1)
    """Of topics that are created."""
    replication_factor: int = Field(1, ge=1)
    """Of topics that are created."""


class TopicSettings(_Section):
    """Names and retention of the topics; roles are those of `marketdata.topics`."""

    prefix: str = Field("", pattern=r"^[A-Za-z0-9._-]*$")
    """Stands before every topic's name."""
    names: dict[TopicRole, str] = Field(default_factory=dict)
    """Role to name, where another than the default is wanted."""
    retention_hours: dict[TopicRole, float] = Field(default_factory=dict)
    """Role to hours, counted from arrival."""


class HdfsSettings(_Section):
    """Where the files live. `url` is for Spark, `webhdfs` for readers without a JVM."""

    url: Annotated[str, _address("hdfs", "viewfs")] = "hdfs://127.0.0.1:19000"
    """The file system, for Spark."""
    webhdfs: _Http = "http://127.0.0.1:19870"
    """The NameNode's HTTP address, for readers without a JVM."""
    user: str = "bitcoin"
    """Owner of the files."""
    root: str = Field("/bitcoin", pattern=r"^/[^/].*[^/]$")
    """Folder of all tables and models."""
    replication: int = Field(1, ge=1)
    """Copies of each block."""
    wait_s: float = Field(60.0, gt=0)
    """How long a job waits for HDFS at its start."""

    @property
    def raw_data(self) -> str:
        return f"{self.root}/raw_data"

    @property
    def minute_candles(self) -> str:
        return f"{self.root}/minute_candles"

    @property
    def hourly_metrics(self) -> str:
        return f"{self.root}/hourly_metrics"

    @property
    def checkpoints(self) -> str:
        return f"{self.root}/checkpoints"

    @property
    def models(self) -> str:
        return f"{self.root}/models"


class ClockSettings(_Section):
    """`system`: this machine's UTC clock. `exchange`: Binance's /time, which a replay runs `speed` times as fast."""

    source: Literal["system", "exchange"] = "system"
    """Whose time it is."""
    speed: float = Field(1.0, gt=0)
    """Event seconds a real second; only a replay has another than 1."""


class BinanceSettings(_Section):
    """Binance spot REST, public market data; the default host needs no key."""

    enabled: bool = True
    """Whether it is asked."""
    base_url: _Http = "https://data-api.binance.vision"
    """REST; the default serves market data without a key."""
    stream_url: Annotated[str, _address("ws", "wss")] = "wss://data-stream.binance.vision"
    """WebSocket, for `streams.feed`; the default serves market data without a key."""
    timeout_s: float = Field(5.0, gt=0)
    """Of one request."""
    weight_per_minute: int = Field(6000, ge=1)
    """The limit of request weight that the poll plan is held against."""


class CoinGeckoSettings(_Section):
    """CoinGecko v3. `plan` decides the header the key goes into."""

    enabled: bool = True
    """Whether it is asked."""
    base_url: _Http = "https://api.coingecko.com/api/v3"
    """REST; the pro plan has another host."""
    api_key: _Secret = None
    """A secret; goes into the plan's header."""
    plan: Literal["demo", "pro"] = "demo"
    """Decides the header that the key goes into."""
    timeout_s: float = Field(10.0, gt=0)
    """Of one request."""
    calls_per_minute: int = Field(30, ge=1)
    """The plan's limit; a poll plan beyond it is warned of at start."""
    calls_per_month: int | None = Field(10_000, ge=1)
    """The plan's limit; none: unlimited."""
    coin_ids: dict[str, str] = {}
    """CoinGecko's ids of coins beside BTC, ETH and XRP, as a JSON object: `{"SOL": "solana"}`."""


class StreamsSettings(_Section):
    """The Faust worker. Times called `_s` here are exchange time, but for those of the web and of retries."""

    app_id: str = "bitcoin-streams"
    """Faust's application and consumer group."""
    feed: Literal["poll", "stream", "both"] = "poll"
    """Where quotes come from: polls of all sources, Binance's WebSocket (with trades), or both beside one another."""
    poll_interval_s: float = Field(60.0, gt=0)
    """Event seconds between polls, on the epoch's grid."""
    stream_interval_s: float = Field(1.0, gt=0)
    """Event seconds of the stream that one tick of a market stands for, on the epoch's grid."""
    stream_silence_s: float = Field(60.0, gt=0)
    """Real seconds without a message after which a stream's connection is taken for dead."""
    stream_life_h: float = Field(23.0, gt=0)
    """Event hours after which another connection takes over; Binance ends one after 24."""
    stale_coingecko_s: float = Field(300.0, gt=0)
    """Event seconds; older data of CoinGecko's flags the tick `stale_coingecko`."""
    stale_binance_s: float = Field(60.0, gt=0)
    """Event seconds; an older quote of Binance's flags the tick `stale_binance`."""
    divergence_bps: float = Field(200.0, gt=0)
    """Basis points between CoinGecko's price (a minute old or more) and Binance's mid; beyond: flag `divergent`."""
    jump_bps: float = Field(2_000.0, gt=0)
    """Basis points by which a mid may move from a market's tick to its next (or back); beyond: flag `jump`."""
    lateness_s: float = Field(120.0, ge=0, le=3_600)
    """How late a tick may come and still enter the rolling windows."""
    max_future_s: float = Field(60.0, ge=0)
    """How far ahead of the clock a tick's time may be."""
    candle_lookback_h: int = Field(0, ge=0)
    """Hours of candles fetched when none were published before."""
    store: Literal["memory", "rocksdb"] = "rocksdb"
    """Where tables are kept; `memory` reads its whole changelog at each start."""
    data_dir: Path = Path(".state/streams")
    """Tables on disk; one worker a folder."""
    web_host: str = "127.0.0.1"
    """Where dashboard, API and metrics listen; elsewhere than on loopback needs `web_token`, or `web_open`."""
    web_port: int = Field(6066, ge=1, le=65535)
    """Where the dashboard listens."""
    web_token: Annotated[_Secret, AfterValidator(_sendable)] = None
    """A secret, 16 characters or more, that every reader must show but for `/health/…` (docs/api.md)."""
    web_open: bool = False
    """Whether anybody who reaches `web_host` may read without a token."""
    session_timeout_s: float = Field(6.0, gt=0)
    """After which a dead worker's partitions move."""
    gather_ms: int = Field(40, ge=1, le=1_000)
    """For how long the broker gathers records for a poll of a worker, so that batches grow under light load."""
    standby_replicas: int = Field(0, ge=0)
    """Copies of tables on other workers."""

    @model_validator(mode="after")
    def _ticks_of_both_feeds_have_instants_of_their_own(self) -> Self:
        if self.feed == "both" and self.stream_interval_s >= self.poll_interval_s:
            msg = (
                f"stream_interval_s: {self.stream_interval_s:g}: expected less than poll_interval_s "
                f"({self.poll_interval_s:g}) where feed is both"
            )
            raise ValueError(msg)
        return self


class BatchSettings(_Section):
    """Spark. `hour_grace_s`: exchange time after an hour's end before its row is written first."""

    master: str = "local[2]"
    """Spark's master URL."""
    driver_memory: str = "1g"
    """Of the driver, which is all there is with a local master."""
    shuffle_partitions: int = Field(2, ge=1)
    """`spark.sql.shuffle.partitions`."""
    jars_dir: Path | None = None
    """Spark's Kafka connector; none: the cache that `python -m devstack jars` fills."""
    trigger_s: float = Field(10.0, gt=0)
    """Real seconds between micro-batches."""
    hour_grace_s: float = Field(120.0, ge=0)
    """Event seconds after an hour's end before its row is first written."""
    raw_slot_minutes: int = Field(60, ge=1, le=60)
    """Minutes of ticks in one file; less than an hour where one would hold millions of rows."""
    max_offsets_per_trigger: int = Field(200_000, ge=1)
    """Records of one micro-batch at most."""
    backfill_hours: int = Field(17_520, ge=1)
    """Hourly klines fetched by `backfill`."""
    backfill_minutes: int = Field(10_080, ge=0)
    """One-minute klines fetched by `backfill`."""


class ForecastingSettings(_Section):
    """The trainer and the predictor; hours are hours of exchange time."""

    symbols: tuple[str, ...] = ("BTC-USD",)
    """Markets that are forecast."""
    model: Literal["lstm-quantile", "lstm-plain"] = "lstm-quantile"
    """What is trained to be champion."""
    challengers: tuple[Literal["lstm-quantile", "lstm-plain"], ...] = ()
    """Trained and scored beside it, as `challenger`."""
    horizon_h: int = Field(1, ge=1)
    """Hours ahead."""
    sequence_h: int = Field(60, ge=2)
    """Hours that the network sees."""
    train_hours: int = Field(17_520, ge=500)
    """Newest hours used for training."""
    calibration_hours: int = Field(1_440, ge=100)
    """Held out of training for the band's conformal scores."""
    epochs: int = Field(50, ge=1)
    """At most; early stopping ends sooner."""
    batch_size: int = Field(128, ge=1)
    """Windows a step."""
    max_windows: int | None = Field(None, ge=100)
    """Only the newest so many; none: all."""
    patience: int = Field(5, ge=1)
    """Epochs without a better validation loss before it stops."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One network each; their mean is the forecast."""
    retrain_every_h: int = Field(144, ge=1)
    """Event hours between trainings; sooner than a model is too old, so that no baseline must stand in."""
    max_model_age_h: int = Field(168, ge=1)
    """An older champion is replaced by a baseline, which says so."""
    poll_s: float = Field(5.0, gt=0)
    """Real seconds between looks for a closed hour."""
    report_dir: Path = Path("build/report")
    """Where `report` writes."""
    plot_path: Path = Path("build/report/latest.png")
    """The newest plot of truth and forecast, which the dashboard shows."""

    @model_validator(mode="after")
    def _retrained_in_time(self) -> Self:
        if self.retrain_every_h > self.max_model_age_h:
            msg = f"retrain_every_h {self.retrain_every_h}: expected at most max_model_age_h {self.max_model_age_h}"
            raise ValueError(msg)
        return self


def _instant(text: str) -> str:
    try:
        from_rfc3339(text, "exchange_start")
    except InvalidValueError as error:
        raise ValueError(str(error)) from error
    return text


class DevstackSettings(_Section):
    """The local stack. The ports of Kafka, HDFS and the exchange are those of their addresses above."""

    state_dir: Path = Path(".state/stack")
    """Data, logs and state of the local stack."""
    exchange_port: int = Field(18080, ge=1, le=65535)
    """Of the simulated exchange."""
    exchange_data: Path = Path("devstack/sample")
    """Folder of candles that it replays."""
    exchange_start: Annotated[str, AfterValidator(_instant)] = "2024-08-05T00:00:00Z"
    """Where the replay begins; a stored clock goes on from where it was."""
    exchange_speed: float = Field(60.0, gt=0)
    """Event seconds a real second."""
    exchange_seed: int = 20240805
    """Of what the history lacks."""
    jars_dir: Path | None = None
    """Cache of jars; none: in the user's cache folder."""
    ivy_settings: Path | None = None
    """An Ivy settings file, for a mirror."""
    kafka_heap: str = "512m"
    """-Xmx of Kafka."""
    hdfs_heap: str = "384m"
    """-Xmx of NameNode and DataNode each."""
    startup_s: float = Field(90.0, gt=0)
    """How long a part may take to become healthy."""
