"""The sections of the settings tree. The docstring of each field is its description in docs/settings.md."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from marketdata.bounds import MAX_HISTORY_H, MAX_HORIZON_H
from marketdata.errors import InvalidValueError
from marketdata.times import from_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import FeedMode

# An empty variable means unset: docker-compose.yml passes `KEY: ${KEY:-}`.
_Secret = Annotated[SecretStr | None, BeforeValidator(lambda value: value or None)]
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,}")


def _check_token(token: SecretStr | None) -> SecretStr | None:
    """Accept a token that is hard to guess and needs no escaping in a header or a URL."""
    if token is not None and not _TOKEN.fullmatch(token.get_secret_value()):
        raise ValueError("expected 16 or more of the letters A-Z and a-z, digits and . _ ~ -")
    return token


def _matching(pattern: str, expected: str) -> AfterValidator:
    """Return a validator of text by a regular expression, which the error describes in words."""
    form = re.compile(pattern)

    def check(text: str) -> str:
        if not form.fullmatch(text):
            raise ValueError(f"expected {expected}")
        return text

    return AfterValidator(check)


def _address(*schemes: str) -> AfterValidator:
    """Return a validator of SCHEME://HOST/…, which strips the trailing slash because paths are appended."""
    form = re.compile(rf"({'|'.join(schemes)})://[^/\s]\S*")

    def check(text: str) -> str:
        if not form.fullmatch(text):
            raise ValueError(f"expected {' or '.join(f'{scheme}://HOST' for scheme in schemes)}")
        return text.rstrip("/")

    return AfterValidator(check)


_Http = Annotated[str, _address("http", "https")]
_Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
_RetentionH = Annotated[float, Field(ge=1, le=876_000)]
_PROXY = re.compile(r"none|(https?|socks5h?)://([^/@\s]+@)?([^][/@:\s]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})/?")
_LARGEST_PORT = 65_535


def _check_proxy(proxy: SecretStr | None) -> SecretStr | None:
    """Accept the address of a proxy. The error does not contain it, because it can contain a password."""
    if proxy is not None:
        match = _PROXY.fullmatch(proxy.get_secret_value())
        if match is None or not 0 < int(match["port"] or 1) <= _LARGEST_PORT:
            raise ValueError("expected http://HOST:PORT, https://HOST:PORT, socks5://USER:PASSWORD@HOST:PORT or none")
    return proxy


_CoinId = Annotated[str, _matching(r"[^\s,]+", "an id of CoinGecko, such as wormhole")]


def _upper_keys(value: object) -> object:
    return {str(key).upper(): one for key, one in value.items()} if isinstance(value, Mapping) else value


def _upper(symbols: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(symbol.upper() for symbol in symbols)


Symbols = Annotated[tuple[str, ...], AfterValidator(_upper)]
"""Names of markets, in upper case."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class KafkaSettings(_Section):
    """Connection to the brokers. Names and values are those of Kafka's clients."""

    brokers: Annotated[str, _matching(r"[^\s,:]+:\d+(,[^\s,:]+:\d+)*", "HOST:PORT,HOST:PORT")] = "127.0.0.1:19092"
    """Bootstrap servers, `host:port,host:port`."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Kafka's `security.protocol`."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """Kafka's `sasl.mechanism`; used with a SASL protocol."""
    sasl_username: str | None = None
    """User name; required by a SASL protocol."""
    sasl_password: _Secret = None
    """Secret. Password; required by a SASL protocol."""
    ssl_cafile: Path | None = None
    """Trusted certificates, a PEM file; default: the system's."""
    partitions: int = Field(4, ge=1, le=1_000)
    """Partitions of the topics that the programs create."""
    replication_factor: int = Field(1, ge=1, le=100)
    """Replication factor of the topics that the programs create."""


class TopicSettings(_Section):
    """Names and retention of the topics. Keys are the roles of `marketdata.topics`."""

    prefix: Annotated[str, _matching(r"[A-Za-z0-9._-]*", "letters, digits and . _ -")] = ""
    """Prefix of every topic name."""
    names: dict[TopicRole, str] = Field(default_factory=dict)
    """Topic name by role, where it differs from the default."""
    retention_hours: dict[TopicRole, _RetentionH] = Field(default_factory=dict)
    """Retention in hours by role, counted from arrival at the broker; at least the hour that a row is made of."""


class HdfsSettings(_Section):
    """Location of the tables and models on HDFS."""

    url: Annotated[str, _address("hdfs", "viewfs")] = "hdfs://127.0.0.1:19000"
    """File system URL, used by Spark."""
    webhdfs: _Http = "http://127.0.0.1:19870"
    """HTTP address of the NameNode, used by programs without a JVM."""
    user: str = "bitcoin"
    """User name sent to HDFS; owner of the files."""
    root: Annotated[str, _matching(r"/[^/].*[^/]", "an absolute path without a slash at the end")] = "/bitcoin"
    """Folder of all tables and models."""
    replication: int = Field(1, ge=1, le=512)
    """Replicas of each block; HDFS limits them to 512 (`dfs.replication.max`)."""
    wait_s: float = Field(60.0, ge=0.1, le=86_400)
    """Real seconds that a job waits for HDFS, topics or the lease of a table before it fails."""

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
    """The clock of all programs."""

    source: Literal["system", "exchange"] = "system"
    """`system`: this machine's UTC clock. `exchange`: Binance's /time, which runs `speed` times as fast in a replay."""
    speed: float = Field(1.0, ge=0.01, le=10_000)
    """Event seconds per real second; other than 1 only in a replay."""


class EventTimeSettings(_Section):
    """Limits in event time that several programs share."""

    max_future_s: float = Field(60.0, ge=0, le=86_400)
    """Event seconds by which a record's time may be ahead of the clock."""
    hour_grace_s: float = Field(120.0, ge=0, le=86_400)
    """Event seconds after the end of an hour before its row is first written."""


class ExchangesSettings(_Section):
    """Access to all exchanges."""

    proxy: Annotated[_Secret, AfterValidator(_check_proxy)] = None
    """Secret. Proxy for REST and WebSocket: `http://`, `https://` or `socks5://`, then `USER:PASSWORD@` if it wants \
them, and `HOST:PORT`. `none`: no proxy. Default: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY (docs/operations.md#proxies)."""


class BinanceSettings(_Section):
    """Binance spot: public market data by REST and WebSocket."""

    enabled: bool = True
    """Whether Binance is polled."""
    base_url: _Http = "https://data-api.binance.vision"
    """REST API; the default serves market data without a key."""
    stream_url: Annotated[str, _address("ws", "wss")] = "wss://data-stream.binance.vision"
    """WebSocket, used by `streams.feed`; the default serves market data without a key."""
    timeout_s: float = Field(5.0, ge=0.1, le=300)
    """Timeout of one request, in real seconds."""
    weight_per_minute: int = Field(6000, ge=1, le=1_000_000)
    """Limit of request weight; a lower limit in the exchange's `exchangeInfo` replaces it."""
    usd_asset: Annotated[str, _matching(r"[A-Z0-9]{2,10}", "2 to 10 upper-case letters and digits")] = "USDT"
    """Asset that replaces the quote USD if the exchange lists no pair with USD: BTC-USD is BTCUSDT."""


class CoinGeckoSettings(_Section):
    """CoinGecko API v3."""

    enabled: bool = True
    """Whether CoinGecko is polled."""
    base_url: _Http = "https://api.coingecko.com/api/v3"
    """REST API; the pro plan has another host."""
    api_key: _Secret = None
    """Secret. API key, sent in the header of the plan."""
    plan: Literal["demo", "pro"] = "demo"
    """Plan of the key; selects the header that carries it."""
    timeout_s: float = Field(10.0, ge=0.1, le=300)
    """Timeout of one request, in real seconds."""
    calls_per_minute: int = Field(30, ge=1, le=1_000_000)
    """Limit of the plan; the worker warns at start if its poll plan exceeds it."""
    calls_per_month: int | None = Field(10_000, ge=1, le=1_000_000_000)
    """Limit of the plan; none: unlimited."""
    coin_ids: Annotated[dict[str, _CoinId], BeforeValidator(_upper_keys)] = {}
    """CoinGecko's ids by base, as a JSON object: `{"W": "wormhole"}`. A coin without an id is `no_coin_id` in ticks."""


class StreamsSettings(_Section):
    """The Faust worker."""

    app_id: str = "bitcoin-streams"
    """Faust's application and consumer group."""
    feed: FeedMode = FeedMode.POLL
    """Source of quotes: `poll` (all sources by REST), `stream` (Binance's WebSocket, with trades), or `both`."""
    poll_interval_s: float = Field(60.0, ge=1, le=3_600)
    """Event seconds between polls; polls happen at multiples of it since the epoch."""
    stream_interval_s: float = Field(1.0, ge=0.1, le=3_600)
    """Event seconds of a stream that one tick of a market conflates, on the epoch's grid."""
    stream_silence_s: float = Field(60.0, ge=1, le=3_600)
    """Real seconds without a new event after which a stream's connection is replaced."""
    stream_life_h: float = Field(23.0, ge=0.01, le=24)
    """Event hours after which a new connection takes over; Binance closes a connection after 24."""
    stale_coingecko_s: float = Field(300.0, ge=1, le=86_400)
    """Event seconds; older data from CoinGecko flags the tick `stale_coingecko`."""
    stale_binance_s: float = Field(60.0, ge=1, le=86_400)
    """Event seconds; an older quote from Binance flags the tick `stale_binance`."""
    divergence_bps: float = Field(200.0, ge=0.01, le=1_000_000)
    """Basis points between CoinGecko's price (a minute old or more) and Binance's mid; more: flag `divergent`."""
    jump_bps: float = Field(2_000.0, ge=0.01, le=1_000_000)
    """Basis points between the mids of a market's consecutive ticks, in either direction; more: flag `jump`."""
    lateness_s: float = Field(120.0, ge=0, le=3_600)
    """Event seconds by which a tick may be older than the newest and still enter the rolling windows."""
    candle_lookback_h: int = Field(0, ge=0, le=8_760)
    """Hours of candles to fetch if none were published before; use `batch backfill` for more than a year."""
    store: Literal["memory", "rocksdb"] = "rocksdb"
    """Storage of the tables; `memory` reads the whole changelog at each start."""
    data_dir: Path = Path(".state/streams")
    """Folder of the tables; each worker needs a separate one."""
    web_host: str = "127.0.0.1"
    """Address of dashboard, API and metrics; an address other than loopback requires `web_token` or `web_open`."""
    web_port: int = Field(6066, ge=1, le=65535)
    """Port of dashboard, API and metrics."""
    web_token: Annotated[_Secret, AfterValidator(_check_token)] = None
    """Secret, at least 16 characters. Every request except `/health/…` must present it (docs/api.md)."""
    web_open: bool = False
    """Whether everyone who can reach `web_host` may read without a token. The Host header is still checked."""
    web_url: _Http | None = None
    """Public address of the dashboard behind a proxy, such as `https://dashboard.example`: its name is accepted as Host
    header, and with `https` the cookie is `Secure`."""
    session_timeout_s: float = Field(6.0, ge=6, le=1_800)
    """Real seconds after which the partitions of a dead worker move to others; Kafka's default limits: 6, 1800."""
    gather_ms: int = Field(40, ge=1, le=1_000)
    """Real milliseconds that the broker collects records before it answers a fetch; more gives larger batches."""
    standby_replicas: int = Field(0, ge=0, le=100)
    """Copies of the tables on other workers."""

    @model_validator(mode="after")
    def _stream_ticks_are_more_frequent_than_polls(self) -> Self:
        if self.feed == FeedMode.BOTH and self.stream_interval_s >= self.poll_interval_s:
            msg = (
                f"stream_interval_s: {self.stream_interval_s:g}: expected less than poll_interval_s "
                f"({self.poll_interval_s:g}) where feed is both"
            )
            raise ValueError(msg)
        return self


class BatchSettings(_Section):
    """The Spark jobs."""

    master: str = "local[2]"
    """Spark's master URL."""
    driver_memory: str = "1g"
    """Heap of the driver, which runs everything with a local master."""
    shuffle_partitions: int = Field(2, ge=1, le=10_000)
    """`spark.sql.shuffle.partitions`."""
    jars_dir: Path | None = None
    """Folder of Spark's Kafka connector; default: the cache of `python -m devstack jars`."""
    trigger_s: float = Field(10.0, ge=0.1, le=3_600)
    """Real seconds between micro-batches."""
    raw_slot_minutes: int = Field(60, ge=1, le=60)
    """Minutes of ticks per file; less than 60 if an hour holds millions of rows."""
    max_offsets_per_trigger: int = Field(200_000, ge=1, le=10_000_000)
    """Maximum number of records in a micro-batch."""
    backfill_hours: int = Field(17_520, ge=1, le=MAX_HISTORY_H)
    """One-hour klines per market that `backfill` fetches."""
    backfill_minutes: int = Field(10_080, ge=0, le=MAX_HISTORY_H * 60)
    """One-minute klines per market that `backfill` fetches."""


class ForecastingSettings(_Section):
    """The trainer and the predictor."""

    symbols: Symbols = ("BTC-USD",)
    """Markets to forecast."""
    model: Literal["lstm-quantile", "lstm-plain"] = "lstm-quantile"
    """Model to train as champion."""
    challengers: tuple[Literal["lstm-quantile", "lstm-plain"], ...] = ()
    """Further models to train and score, in the role `challenger`."""
    horizon_h: int = Field(1, ge=1, le=MAX_HORIZON_H)
    """Hours from the last closed hour to the forecast hour; at most a year, the limit of the records."""
    sequence_h: int = Field(60, ge=2, le=8_760)
    """Hours in the input window of the network."""
    train_hours: int = Field(17_520, ge=500, le=MAX_HISTORY_H)
    """Number of the newest hours to train on."""
    calibration_hours: int = Field(1_440, ge=100, le=MAX_HISTORY_H)
    """Hours held out of training for the conformal scores of the interval."""
    epochs: int = Field(50, ge=1, le=10_000)
    """Maximum number of epochs; early stopping may end training sooner."""
    batch_size: int = Field(128, ge=1, le=65_536)
    """Windows per training step."""
    max_windows: int | None = Field(None, ge=100, le=1_000_000)
    """Number of the newest windows to train on; none: all."""
    patience: int = Field(5, ge=1, le=10_000)
    """Epochs without a better validation loss before training stops."""
    seeds: Annotated[tuple[_Seed, ...], Field(min_length=1, max_length=32)] = (0, 1, 2)
    """One network per seed, at most 32; the forecast is their mean. NumPy and Keras accept 32 bits."""
    retrain_every_h: int = Field(144, ge=1, le=8_760)
    """Event hours between trainings; at most `max_model_age_h`, so that a champion is replaced in time."""
    max_model_age_h: int = Field(168, ge=1, le=8_760)
    """Age in event hours above which a baseline serves in place of the champion."""
    poll_s: float = Field(5.0, ge=0.1, le=3_600)
    """Real seconds between checks for a closed hour."""
    report_dir: Path = Path("build/report")
    """Output folder of `report`."""
    plot_path: Path = Path("build/report/latest.png")
    """Newest plot of actual and forecast prices; the dashboard shows it."""

    @model_validator(mode="after")
    def _retrained_in_time(self) -> Self:
        if self.retrain_every_h > self.max_model_age_h:
            msg = f"retrain_every_h: {self.retrain_every_h}: expected at most max_model_age_h ({self.max_model_age_h})"
            raise ValueError(msg)
        return self


def _instant(text: str) -> str:
    try:
        from_rfc3339(text, "exchange_start")
    except InvalidValueError as error:
        raise ValueError(str(error)) from error
    return text


class DevstackSettings(_Section):
    """The local stack. Kafka and HDFS listen on the ports of `kafka.brokers`, `hdfs.url` and `hdfs.webhdfs`."""

    state_dir: Path = Path(".state/stack")
    """Folder of the local stack's data, logs and state."""
    exchange_port: int = Field(18080, ge=1, le=65535)
    """Port of the simulated exchange."""
    exchange_data: Path = Path("devstack/sample")
    """Folder of the candles that the simulated exchange replays."""
    exchange_start: Annotated[str, AfterValidator(_instant)] = "2024-08-05T00:00:00Z"
    """Start of the replay; a stored clock resumes where it stopped."""
    exchange_speed: float = Field(60.0, ge=0.01, le=10_000)
    """Event seconds per real second."""
    exchange_seed: _Seed = 20240805
    """Seed of the data that the candles do not contain."""
    jars_dir: Path | None = None
    """Folder of the downloaded jars; default: in the user's cache folder."""
    ivy_settings: Path | None = None
    """Ivy settings file, for a mirror."""
    kafka_heap: str = "512m"
    """Heap of Kafka (-Xmx)."""
    hdfs_heap: str = "384m"
    """Heap of the NameNode and of the DataNode (-Xmx)."""
    startup_s: float = Field(90.0, ge=1, le=3_600)
    """Real seconds that a service may take to become healthy."""
