"""One frozen, typed tree of settings: defaults < profile < TOML file < environment.

`BDI_PROFILE` names a file in config/profiles (default `local`), `BDI_CONFIG` the path of a TOML file, and
`BDI_SECTION__FIELD` overrides one field (`BDI_KAFKA__BROKERS=broker:9092`). Unknown keys are errors in every source;
secrets are masked in output and error messages.
"""

import os
import tomllib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import BeforeValidator, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from config.refused import MASKED, describe, in_lines
from config.sections import (
    BatchSettings,
    BinanceSettings,
    ClockSettings,
    CoinGeckoSettings,
    DevstackSettings,
    EventTimeSettings,
    ExchangesSettings,
    ForecastingSettings,
    HdfsSettings,
    KafkaSettings,
    StreamsSettings,
    Symbols,
    TopicSettings,
)
from marketdata.errors import ConfigurationError, InvalidValueError, shorten
from marketdata.markets import Market, close_matches
from marketdata.topics import TOPICS, Topic, TopicRole

PREFIX = "BDI_"
PROFILES = Path(__file__).parent / "profiles"
RENAMED = {
    ("streams", "max_future_s"): ("event_time", "max_future_s"),
    ("batch", "hour_grace_s"): ("event_time", "hour_grace_s"),
}
"""Former to present (section, field). Files and the environment may still use the former name."""
_SELECTORS = {"BDI_PROFILE", "BDI_CONFIG"}


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _move_renamed(tree: dict[str, Any], origin: str) -> dict[str, Any]:
    """Return the tree of one source with each former name replaced by the present one, and warn about each.

    Raises:
        ConfigurationError: the source sets the former and the present name to different values.
    """
    moved = {section: dict(value) if isinstance(value, dict) else value for section, value in tree.items()}
    for (old_section, old_field), (section, field) in RENAMED.items():
        old, new = moved.get(old_section), moved.setdefault(section, {})
        if not isinstance(old, dict) or old_field not in old or not isinstance(new, dict):
            continue
        value = old.pop(old_field)
        names = f"{old_section}.{old_field}", f"{section}.{field}"
        if _number(new.setdefault(field, value)) != _number(value):
            msg = f"{origin}: {names[0]}: {value!r}: expected only {names[1]}, which is {new[field]!r}"
            raise ConfigurationError(msg)
        warnings.warn(f"{origin}: {names[0]} is deprecated; use {names[1]}", FutureWarning, stacklevel=2)
    return {section: value for section, value in moved.items() if value != {} or section in tree}


def _number(value: object) -> object:
    """The value as a number if it is one, so that 60, 60.0 and "60" are equal."""
    try:
        return float(str(value))
    except ValueError:
        return value


def _variable(field_name: str, value: Any) -> str:
    """Return the setting of a variable and its value, masked for a whole section, which can contain secrets."""
    end = field_name.upper()
    found = (key for key, one in os.environ.items() if one == value and key.upper().startswith(PREFIX))
    name = next((key for key in found if key.upper().endswith(("__" + end, PREFIX + end))), field_name)
    setting = name.upper().removeprefix(PREFIX).lower().replace("__", ".")
    return f"{setting}: {shorten(repr(value)) if '.' in setting else MASKED}"


class _Environment(EnvSettingsSource):
    """Environment variables, in which a list may be JSON or comma-separated."""

    def __call__(self) -> dict[str, Any]:
        return _move_renamed(super().__call__(), "environment")

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        if get_origin(field.annotation) is tuple and not str(value).lstrip().startswith("["):
            return _split(value)
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError as error:
            raise ValueError(f'{_variable(field_name, value)}: expected JSON, such as {{"NAME": …}}') from error


class Settings(BaseSettings):
    """The settings tree. Create it with `load_settings`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        case_sensitive=False,
        use_attribute_docstrings=True,
    )

    profile: str = "local"
    """Name of the loaded profile."""
    markets: Annotated[Symbols, NoDecode, BeforeValidator(_split)] = (
        "BTC-USD",
        "ETH-USD",
        "XRP-USD",
        "BTC-EUR",
        "ETH-EUR",
        "XRP-EUR",
    )
    """Markets to collect, as BASE-QUOTE (docs/sources.md#markets); a comma-separated list in the environment."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Log level of every program."""
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    hdfs: HdfsSettings = HdfsSettings()
    clock: ClockSettings = ClockSettings()
    event_time: EventTimeSettings = EventTimeSettings()
    exchanges: ExchangesSettings = ExchangesSettings()
    binance: BinanceSettings = BinanceSettings()
    coingecko: CoinGeckoSettings = CoinGeckoSettings()
    streams: StreamsSettings = StreamsSettings()
    batch: BatchSettings = BatchSettings()
    forecasting: ForecastingSettings = ForecastingSettings()
    devstack: DevstackSettings = DevstackSettings()

    @field_validator("markets")
    @classmethod
    def _distinct_markets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            msg = f"{value!r}: expected one or more distinct symbols like BTC-USD"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _valid_markets(self) -> Self:
        try:
            markets = self.parsed_markets
        except InvalidValueError as error:
            raise ValueError(f"markets: {error}") from error
        first: dict[str, Market] = {}
        for market in markets:
            other = first.setdefault(market.binance, market)
            if other is not market:
                both = f"{other.symbol} and {market.symbol}"
                msg = f"markets: {both}: expected one of them, or another binance.usd_asset: both are {market.binance}"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _forecast_symbols_are_markets(self) -> Self:
        for symbol in self.forecasting.symbols:
            if symbol not in self.markets:
                expected = f"one of markets: {', '.join(self.markets)}{close_matches(symbol, self.markets)}"
                msg = f"forecasting.symbols: {symbol!r}: expected {expected}"
                raise ValueError(msg)
        return self

    @property
    def parsed_markets(self) -> tuple[Market, ...]:
        """Return the markets, in the order of the settings."""
        ids, usd_asset = self.coingecko.coin_ids, self.binance.usd_asset
        return tuple(Market.parse(symbol, ids, usd_asset) for symbol in self.markets)

    def topic(self, role: TopicRole) -> Topic:
        """Return the topic of a role with the name, partitions and retention of this deployment."""
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
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the signature is given by pydantic-settings
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources: the environment overrides the arguments, which `load_settings` reads from files."""
        return (_Environment(settings_cls), init_settings)


def _read_toml(path: Path, why: str) -> dict[str, Any]:
    try:
        return _move_renamed(tomllib.loads(path.read_text(encoding="utf-8-sig")), str(path))
    except FileNotFoundError as error:
        msg = f"{why}: no such file {path}; expected a readable TOML file"
        raise ConfigurationError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        msg = f"{why}: {path} cannot be read: {error}"
        raise ConfigurationError(msg) from error


def _profile(asked: str | None) -> str:
    """Return the name of the profile to load. `BDI_PROFILE` is validated even if an argument overrides it."""
    found = os.environ.get("BDI_PROFILE")
    known = sorted(path.stem for path in PROFILES.glob("*.toml"))
    for origin, name in (("profile", asked), ("BDI_PROFILE", found)):
        if name and name not in known:
            raise ConfigurationError(f"{origin}: {name!r}: expected one of {', '.join(known)}")
    return asked or found or "local"


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def load_settings(profile: str | None = None, config: Path | None = None) -> Settings:
    """Read the settings from all sources. Each program calls it once, at start.

    Args:
        profile: name of a profile; None: `BDI_PROFILE`, else `local`.
        config: a TOML file that overrides the profile; None: `BDI_CONFIG`, else no file.

    Raises:
        ConfigurationError: a profile or a key is unknown, a file is missing or malformed, or a value is invalid.
    """
    name = _profile(profile)
    file = config or (Path(os.environ["BDI_CONFIG"]) if os.environ.get("BDI_CONFIG") else None)
    known = {f"{PREFIX}{field}".upper() for field in Settings.model_fields}
    unknown = [
        f"environment: {key}: unknown setting; expected one of {', '.join(sorted(known | _SELECTORS))}"
        for key in os.environ
        if key.startswith(PREFIX) and key not in _SELECTORS and key.split("__", 1)[0].upper() not in known
    ]
    if unknown:
        raise ConfigurationError(in_lines(unknown))
    tree = _read_toml(PROFILES / f"{name}.toml", f"profile {name!r}")
    if file is not None:
        tree = _merge(tree, _read_toml(file, "BDI_CONFIG"))
    tree["profile"] = name
    try:
        settings = Settings(**tree)
    except ValidationError as error:
        raise ConfigurationError(describe(error, Settings)) from error
    except SettingsError as error:
        raise ConfigurationError(in_lines([str(error.__cause__)])) from error
    # pydantic reads BDI_PROFILE into the field `profile`; an argument overrides it.
    return settings.model_copy(update={"profile": name})
