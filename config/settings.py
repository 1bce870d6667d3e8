"""One frozen, typed tree of settings: defaults < profile < TOML file < environment.

`BDI_PROFILE` names a file of config/profiles (default `local`), `BDI_CONFIG` a TOML file of the user's, and
`BDI_SECTION__FIELD` overrides one field (`BDI_KAFKA__BROKERS=broker:9092`). Unknown keys are refused wherever they
stand; secrets are never printed. This module alone reads the environment.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from marketdata.errors import ConfigurationError, InvalidValueError
from marketdata.markets import Market
from marketdata.topics import TOPICS, Topic, TopicRole

PREFIX = "BDI_"
PROFILES = Path(__file__).parent / "profiles"
_SELECTORS = {"BDI_PROFILE", "BDI_CONFIG"}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(_Section):
    """How to reach the brokers, in Kafka's own words; SASL and TLS are passed through."""

    brokers: str = "127.0.0.1:19092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: Path | None = None
    partitions: int = Field(4, ge=1)
    replication_factor: int = Field(1, ge=1)


class TopicSettings(_Section):
    """Names and retention of the topics; roles are those of `marketdata.topics`."""

    prefix: str = Field("", pattern=r"^[A-Za-z0-9._-]*$")
    names: dict[TopicRole, str] = Field(default_factory=dict)
    retention_hours: dict[TopicRole, float] = Field(default_factory=dict)


class HdfsSettings(_Section):
    """Where the files live. `url` is for Spark, `webhdfs` for readers without a JVM."""

    url: str = "hdfs://127.0.0.1:19000"
    webhdfs: str = "http://127.0.0.1:19870"
    user: str = "bitcoin"
    root: str = Field("/bitcoin", pattern=r"^/[^/].*[^/]$")
    replication: int = Field(1, ge=1)
    wait_s: float = Field(60.0, gt=0)

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
    speed: float = Field(1.0, gt=0)


class BinanceSettings(_Section):
    """Binance spot REST, public market data; the default host needs no key."""

    enabled: bool = True
    base_url: str = "https://data-api.binance.vision"
    timeout_s: float = Field(5.0, gt=0)
    weight_per_minute: int = Field(6000, ge=1)


class CoinGeckoSettings(_Section):
    """CoinGecko v3. `plan` decides the header the key goes into."""

    enabled: bool = True
    base_url: str = "https://api.coingecko.com/api/v3"
    api_key: SecretStr | None = None
    plan: Literal["demo", "pro"] = "demo"
    timeout_s: float = Field(10.0, gt=0)
    calls_per_minute: int = Field(30, ge=1)
    calls_per_month: int | None = Field(10_000, ge=1)


class StreamsSettings(_Section):
    """The Faust worker. Times called `_s` here are exchange time, but for those of the web and of retries."""

    app_id: str = "bitcoin-streams"
    poll_interval_s: float = Field(60.0, gt=0)
    lateness_s: float = Field(120.0, ge=0)
    max_future_s: float = Field(60.0, ge=0)
    candle_lookback_h: int = Field(0, ge=0)
    store: Literal["memory", "rocksdb"] = "rocksdb"
    data_dir: Path = Path(".state/streams")
    web_host: str = "127.0.0.1"
    web_port: int = Field(6066, ge=1, le=65535)
    session_timeout_s: float = Field(6.0, gt=0)
    linger_ms: float = Field(10.0, ge=0)
    standby_replicas: int = Field(0, ge=0)


class BatchSettings(_Section):
    """Spark. `hour_grace_s`: exchange time after an hour's end before its row is written first."""

    master: str = "local[2]"
    driver_memory: str = "1g"
    shuffle_partitions: int = Field(2, ge=1)
    jars_dir: Path | None = None
    trigger_s: float = Field(10.0, gt=0)
    hour_grace_s: float = Field(120.0, ge=0)
    raw_slot_minutes: int = Field(60, ge=1, le=60)
    max_offsets_per_trigger: int = Field(200_000, ge=1)
    backfill_hours: int = Field(17_520, ge=1)
    backfill_minutes: int = Field(10_080, ge=0)


class ForecastingSettings(_Section):
    """The trainer and the predictor; hours are hours of exchange time."""

    symbols: tuple[str, ...] = ("BTC-USD",)
    model: Literal["lstm-quantile", "lstm-plain"] = "lstm-quantile"
    horizon_h: int = Field(1, ge=1)
    sequence_h: int = Field(60, ge=2)
    train_hours: int = Field(17_520, ge=500)
    calibration_hours: int = Field(1_440, ge=100)
    epochs: int = Field(50, ge=1)
    batch_size: int = Field(128, ge=1)
    max_windows: int | None = Field(None, ge=100)
    patience: int = Field(5, ge=1)
    seeds: tuple[int, ...] = (0, 1, 2)
    retrain_every_h: int = Field(168, ge=1)
    max_model_age_h: int = Field(168, ge=1)
    poll_s: float = Field(5.0, gt=0)
    report_dir: Path = Path("build/report")
    plot_path: Path = Path("build/report/latest.png")


class DevstackSettings(_Section):
    """The local stack. The ports of Kafka, HDFS and the exchange are those of their addresses above.

    `jars_dir`: None is the user's cache folder. `ivy_settings`: an Ivy settings file of the user's, for a mirror.
    """

    state_dir: Path = Path(".state/stack")
    exchange_port: int = Field(18080, ge=1, le=65535)
    exchange_data: Path = Path("devstack/sample")
    exchange_start: str = "2024-08-05T00:00:00Z"
    exchange_speed: float = Field(60.0, gt=0)
    exchange_seed: int = 20240805
    jars_dir: Path | None = None
    ivy_settings: Path | None = None
    kafka_heap: str = "512m"
    hdfs_heap: str = "384m"
    startup_s: float = Field(90.0, gt=0)


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Settings(BaseSettings):
    """The whole tree. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__", case_sensitive=False
    )

    profile: str = "local"
    markets: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = (
        "BTC-USD",
        "ETH-USD",
        "XRP-USD",
        "BTC-EUR",
        "ETH-EUR",
        "XRP-EUR",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    hdfs: HdfsSettings = HdfsSettings()
    clock: ClockSettings = ClockSettings()
    binance: BinanceSettings = BinanceSettings()
    coingecko: CoinGeckoSettings = CoinGeckoSettings()
    streams: StreamsSettings = StreamsSettings()
    batch: BatchSettings = BatchSettings()
    forecasting: ForecastingSettings = ForecastingSettings()
    devstack: DevstackSettings = DevstackSettings()

    @field_validator("markets")
    @classmethod
    def _known_markets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            msg = f"markets: {value!r}: expected one or more distinct symbols like BTC-USD"
            raise ValueError(msg)
        for symbol in value:
            try:
                Market.parse(symbol)
            except InvalidValueError as error:
                raise ValueError(str(error)) from error
        return value

    @property
    def parsed_markets(self) -> tuple[Market, ...]:
        """The markets as records, in the order of the settings."""
        return tuple(Market.parse(symbol) for symbol in self.markets)

    def topic(self, role: TopicRole) -> Topic:
        """The topic of a role with this deployment's name, partitions and retention."""
        spec = TOPICS[role]
        hours = self.topics.retention_hours.get(role)
        return spec.deployed(
            name=self.topics.prefix + self.topics.names.get(role, spec.name),
            partitions=self.kafka.partitions,
            replication_factor=self.kafka.replication_factor,
            retention_ms=spec.retention_ms if hours is None else int(hours * 3_600_000),
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  the signature is pydantic-settings' own
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment above what `load_settings` hands in from files."""
        return (env_settings, init_settings)


def _read_toml(path: Path, why: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.toml")))
        msg = f"{why}: no such file {path}; expected a readable TOML file (profiles: {known})"
        raise ConfigurationError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        msg = f"{why}: {path} cannot be read: {error}"
        raise ConfigurationError(msg) from error


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _describe(error: ValidationError) -> str:
    # The input is left out on purpose: it may be a secret.
    lines = [
        f"{'.'.join(str(p) for p in e['loc']) or 'settings'}: {e['msg']}" for e in error.errors(include_input=False)
    ]
    return "settings refused:\n  " + "\n  ".join(lines)


def load_settings(profile: str | None = None, config: Path | None = None) -> Settings:
    """Read the tree once, for one program.

    Args:
        profile: name of a profile; None takes `BDI_PROFILE`, else `local`.
        config: a TOML file over the profile; None takes `BDI_CONFIG`, else no file.

    Raises:
        ConfigurationError: a file is missing or malformed, a key is unknown, or a value is not what its field expects.
    """
    name = profile or os.environ.get("BDI_PROFILE") or "local"
    file = config or (Path(os.environ["BDI_CONFIG"]) if os.environ.get("BDI_CONFIG") else None)
    known = {f"{PREFIX}{field}".upper() for field in Settings.model_fields}
    for key in os.environ:
        if key.startswith(PREFIX) and key not in _SELECTORS and key.split("__", 1)[0].upper() not in known:
            msg = f"environment: {key}: unknown setting; expected one of {', '.join(sorted(known))}"
            raise ConfigurationError(msg)
    tree = _read_toml(PROFILES / f"{name}.toml", f"profile {name!r}")
    if file is not None:
        tree = _merge(tree, _read_toml(file, "BDI_CONFIG"))
    tree["profile"] = name
    try:
        settings = Settings(**tree)
    except ValidationError as error:
        raise ConfigurationError(_describe(error)) from error
    # BDI_PROFILE is read as the field too; the profile that was asked for by argument is the one that was loaded.
    return settings.model_copy(update={"profile": name})
