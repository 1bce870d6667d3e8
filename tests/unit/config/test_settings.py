"""The settings tree: precedence, unknown keys, invalid values, secrets."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from config.refused import describe
from config.settings import PROFILES, Settings, load_settings
from marketdata.errors import ConfigurationError
from marketdata.topics import TopicRole


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("BDI_PROFILE", "BDI_CONFIG"):
        monkeypatch.delenv(key, raising=False)


@pytest.mark.parametrize("name", sorted(path.stem for path in PROFILES.glob("*.toml")))
def test_every_shipped_profile_loads(name: str) -> None:
    assert load_settings(name).profile == name


def test_the_five_profiles_ship() -> None:
    assert {path.stem for path in PROFILES.glob("*.toml")} == {"demo", "local", "live", "compose", "cluster"}


def test_live_and_demo_share_no_folder() -> None:
    demo, live = load_settings("demo"), load_settings("live")
    for section, field in (
        ("devstack", "state_dir"),
        ("streams", "data_dir"),
        ("forecasting", "report_dir"),
        ("forecasting", "plot_path"),
    ):
        assert getattr(getattr(demo, section), field) != getattr(getattr(live, section), field)


@pytest.mark.parametrize(("given", "expected"), [("", None), ("abc", "abc")])
def test_an_empty_secret_is_none(given: str, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty key in a header would be refused by the exchange, which stops the source."""
    monkeypatch.setenv("BDI_COINGECKO__API_KEY", given)
    monkeypatch.setenv("BDI_KAFKA__SASL_PASSWORD", given)
    settings = load_settings("compose")
    for secret in (settings.coingecko.api_key, settings.kafka.sasl_password):
        assert (None if secret is None else secret.get_secret_value()) == expected
        assert "abc" not in settings.model_dump_json()


def test_environment_over_file_over_profile_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("[streams]\nweb_port = 7001\npoll_interval_s = 30.0\n")
    monkeypatch.setenv("BDI_CONFIG", str(mine))
    monkeypatch.setenv("BDI_STREAMS__WEB_PORT", "7002")
    settings = load_settings("demo")
    assert settings.streams.web_port == 7002  # environment
    assert settings.streams.poll_interval_s == 30.0  # file
    assert settings.clock.speed == 60.0  # profile
    assert settings.streams.lateness_s == 120.0  # default


@pytest.mark.parametrize("key", ["BDI_KAFKA__BROKRS", "BDI_KAFKAA__BROKERS", "BDI_FOO"])
def test_an_unknown_environment_key_is_reported(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(key, "x")
    with pytest.raises(ConfigurationError, match="(?i)" + key.rsplit("__", maxsplit=1)[-1].removeprefix("BDI_")):
        load_settings("local")


def test_an_unknown_key_in_a_file_is_reported(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("[kafka]\nbrokrs = 'x:1'\n")
    with pytest.raises(ConfigurationError, match=r"kafka\.brokrs"):
        load_settings("local", mine)


def test_an_invalid_value_is_reported_with_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDI_STREAMS__WEB_PORT", "http")
    with pytest.raises(
        ConfigurationError,
        match=r"streams\.web_port: 'http': expected a whole number of at least 1 and of at most 65535$",
    ):
        load_settings("local")


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="cluster, compose, demo, live, local"):
        load_settings("prod")


def test_an_unknown_profile_of_the_environment_is_refused_even_if_an_argument_overrides_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BDI_PROFILE", "nope")
    with pytest.raises(
        ConfigurationError, match="BDI_PROFILE: 'nope': expected one of cluster, compose, demo, live, local"
    ):
        load_settings("demo")


def test_a_malformed_file_is_one_clear_error(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("[kafka\n")
    with pytest.raises(ConfigurationError, match=r"mine\.toml cannot be read"):
        load_settings("local", mine)


def test_markets_may_be_comma_separated_and_are_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDI_MARKETS", "BTC-USD, ETH-EUR")
    assert [market.binance for market in load_settings("local").parsed_markets] == ["BTCUSDT", "ETHEUR"]
    monkeypatch.setenv("BDI_MARKETS", "BTC-USD,DOGE-USDD")
    with pytest.raises(ConfigurationError, match=r"'DOGE-USDD': expected one of the quotes .* matches: DOGE-USD"):
        load_settings("local")


def test_names_of_markets_are_read_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDI_MARKETS", "btc-usd,w-Usdt")
    monkeypatch.setenv("BDI_FORECASTING__SYMBOLS", "w-usdt")
    monkeypatch.setenv("BDI_COINGECKO__COIN_IDS", '{"w": "wormhole"}')
    settings = load_settings("local")
    assert (settings.markets, settings.forecasting.symbols) == (("BTC-USD", "W-USDT"), ("W-USDT",))
    assert settings.coingecko.coin_ids == {"W": "wormhole"}


def test_another_asset_may_replace_the_dollar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDI_MARKETS", "BTC-USD,BTC-USDT")
    with pytest.raises(ConfigurationError, match=r"markets: BTC-USD and BTC-USDT: expected one .* both are BTCUSDT"):
        load_settings("local")
    monkeypatch.setenv("BDI_BINANCE__USD_ASSET", "FDUSD")
    assert [market.binance for market in load_settings("local").parsed_markets] == ["BTCFDUSD", "BTCUSDT"]


def test_lists_of_a_section_may_be_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDI_FORECASTING__SYMBOLS", "BTC-USD, ETH-USD")
    monkeypatch.setenv("BDI_FORECASTING__SEEDS", "[3, 4]")
    forecasting = load_settings("local").forecasting
    assert (forecasting.symbols, forecasting.seeds) == (("BTC-USD", "ETH-USD"), (3, 4))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("BDI_FORECASTING__SYMBOLS", "DOGE-USD", r"forecasting\.symbols: 'DOGE-USD': expected one of markets: BTC-USD"),
        ("BDI_FORECASTING__SYMBOLS", "BTC-USDT", r"'BTC-USDT': expected one of markets: .*; close matches: BTC-USD"),
        ("BDI_MARKETS", "BTCUSDT", r"markets: symbol: 'BTCUSDT': expected BASE-QUOTE, .*; close matches: BTC-USDT"),
        (
            "BDI_COINGECKO__COIN_IDS",
            '{"W": "a,b"}',
            r"coingecko\.coin_ids\.W: 'a,b': expected an id of CoinGecko, such as wormhole$",
        ),
        ("BDI_TOPICS__NAMES", "{not json", r"topics.*expected JSON"),
        ("BDI_KAFKA__BROKERS", "nohost", r"kafka\.brokers: 'nohost': expected HOST:PORT,HOST:PORT$"),
        (
            "BDI_BINANCE__BASE_URL",
            "data-api.binance.vision",
            r"binance\.base_url: 'data-api\.binance\.vision': expected http://HOST or https://HOST",
        ),
        (
            "BDI_BINANCE__STREAM_URL",
            "https://stream",
            r"binance\.stream_url: 'https://stream': expected ws://HOST or wss://HOST",
        ),
        ("BDI_HDFS__WEBHDFS", "namenode:9870", r"hdfs\.webhdfs: 'namenode:9870': expected http://HOST"),
        ("BDI_MARKETS", "BTC-USD,BTC-USD", r"refused:\n  markets: \('BTC-USD', 'BTC-USD'\): expected one or more"),
        (
            "BDI_MARKETS",
            "BTC-XXX",
            r"refused:\n  markets: symbol: 'BTC-XXX': expected one of the quotes USD, USDT, USDC,",
        ),
        ("BDI_DEVSTACK__EXCHANGE_START", "yesterday", r"devstack\.exchange_start: .*'yesterday': expected RFC 3339"),
        ("BDI_STREAMS__WEBPORT", "1", r"streams\.webport: unknown setting; expected one of .*web_port"),
    ],
)
def test_an_invalid_value_is_one_clear_error(
    key: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(key, value)
    with pytest.raises(ConfigurationError, match=message):
        load_settings("local")


def test_the_trailing_slash_of_an_address_is_stripped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDI_COINGECKO__BASE_URL", "https://api.coingecko.com/api/v3/")
    assert load_settings("local").coingecko.base_url == "https://api.coingecko.com/api/v3"


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDI_KAFKA__SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("BDI_COINGECKO__API_KEY", "CG-secret")
    monkeypatch.setenv("BDI_EXCHANGES__PROXY", "socks5://me:proxy-secret@[2001:db8::1]:1080")
    settings = load_settings("local")
    shown = repr(settings) + str(settings) + settings.model_dump_json()
    assert "hunter2" not in shown
    assert "CG-secret" not in shown
    assert "proxy-secret" not in shown
    assert settings.kafka.sasl_password is not None
    assert settings.kafka.sasl_password.get_secret_value() == "hunter2"


def test_a_refused_secret_is_not_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDI_COINGECKO__API_KEY", '{"a": "CG-secret"}')
    monkeypatch.setenv("BDI_COINGECKO__PLAN", "CG-secret-plan")
    with pytest.raises(ConfigurationError) as caught:
        load_settings("local")
    assert "CG-secret" not in str(caught.value)


def test_the_tree_is_frozen() -> None:
    settings = load_settings("local")
    with pytest.raises(ValidationError):
        settings.kafka.brokers = "other:1"


def test_topics_take_prefix_name_and_retention_from_settings(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("[topics]\nprefix='a.'\nnames={ticks='t'}\nretention_hours={ticks=2}\n[kafka]\npartitions=7\n")
    settings = load_settings("local", mine)
    topic = settings.topic(TopicRole.TICKS)
    assert (topic.name, topic.partitions, topic.config["retention.ms"]) == ("a.t", 7, "7200000")
    assert settings.topic(TopicRole.FEATURES).name == "a.features"


def test_a_base_of_one_letter_is_a_market(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('markets = ["BTC-USD", "W-USD"]\n[coingecko]\ncoin_ids = {W = "wormhole"}\n')
    market = load_settings("local", mine).parsed_markets[1]
    assert (market.symbol, market.binance, market.coingecko_id) == ("W-USD", "WUSDT", "wormhole")


def test_coin_ids_hold_for_every_coin_and_none_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDI_MARKETS", "BTC-USD,1INCH-EUR,SOL-EUR")
    ids = [market.coingecko_id for market in load_settings("local").parsed_markets]
    assert ids == ["bitcoin", None, "solana"]
    monkeypatch.setenv("BDI_COINGECKO__COIN_IDS", '{"1INCH": "1inch", "BTC": "another-id"}')
    ids = [market.coingecko_id for market in load_settings("local").parsed_markets]
    assert ids == ["another-id", "1inch", "solana"]


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("BDI_LOG_LEVEL", "LOUD", "log_level: 'LOUD': expected one of DEBUG, INFO, WARNING, ERROR"),
        ("BDI_STREAMS__FEED", "push", "streams.feed: 'push': expected one of poll, stream, both"),
        ("BDI_STREAMS__WEB_OPEN", "perhaps", "streams.web_open: 'perhaps': expected true or false"),
        (
            "BDI_STREAMS__LATENESS_S",
            "-1",
            "streams.lateness_s: '-1': expected a finite number of at least 0 and of at most 3600",
        ),
        ("BDI_CLOCK__SPEED", "0", "clock.speed: '0': expected a finite number of at least 0.01 and of at most 10000"),
        (
            "BDI_KAFKA__PARTITIONS",
            "4.5",
            "kafka.partitions: '4.5': expected a whole number of at least 1 and of at most 1000",
        ),
        (
            "BDI_COINGECKO__CALLS_PER_MONTH",
            "many",
            "coingecko.calls_per_month: 'many': expected a whole number of at least 1 and of at most 1000000000",
        ),
        (
            "BDI_FORECASTING__SEEDS",
            "1,x",
            "forecasting.seeds.1: 'x': expected a whole number of at least 0 and of at most 4294967295",
        ),
        (
            "BDI_FORECASTING__SEEDS",
            "",
            "forecasting.seeds: '': expected a list of at least 1 and at most 32 items, in the environment separated",
        ),
        (
            "BDI_FORECASTING__CHALLENGERS",
            "gru",
            "forecasting.challengers.0: 'gru': expected one of lstm-quantile, lstm-plain",
        ),
        ("BDI_TOPICS__PREFIX", "a b", "topics.prefix: 'a b': expected letters, digits and . _ -"),
        ("BDI_TOPICS__RETENTION_HOURS", '{"tick": 1}', "topics.retention_hours.tick: 'tick': expected one of ticks, "),
        (
            "BDI_TOPICS__RETENTION_HOURS",
            '{"ticks": "x"}',
            "topics.retention_hours.ticks: 'x': expected a finite number of at least 1 and of at most 876000",
        ),
        ("BDI_TOPICS__NAMES", "[1", "topics.names: '[1': expected JSON, such as {\"NAME\": …}"),
        ("BDI_TOPICS__NAMES", "[1]", "topics.names: [1]: expected a table, in the environment a JSON object"),
        ("BDI_TOPICS", "{x", 'topics: ***: expected JSON, such as {"NAME": …}'),
        ("BDI_HDFS__ROOT", "bitcoin", "hdfs.root: 'bitcoin': expected an absolute path without a slash at the end"),
        (
            "BDI_BINANCE__BASE_URL",
            "ftp://me:pass@host",
            "binance.base_url: 'ftp://***@host': expected http://HOST or https://HOST",
        ),
        ("BDI_STREAMS__WEB_TOKEN", "short", "streams.web_token: ***: expected 16 or more of the letters"),
        ("BDI_EXCHANGES__PROXY", "ftp://me:pass@host:1", "exchanges.proxy: ***: expected http://HOST:PORT, https://"),
        ("BDI_EXCHANGES__PROXY", "http://proxy", "exchanges.proxy: ***: expected http://HOST:PORT, https://HOST:PORT"),
        ("BDI_EXCHANGES__PROXY", "http://proxy:65536", "exchanges.proxy: ***: expected http://HOST:PORT, https://"),
        ("BDI_COINGECKO__PLAN", "gold", "coingecko.plan: 'gold': expected one of demo, pro"),
        (
            "BDI_FORECASTING__RETRAIN_EVERY_H",
            "1000",
            "forecasting.retrain_every_h: 1000: expected at most max_model_age_h (168)",
        ),
    ],
)
def test_a_refused_setting_is_one_line_with_name_value_and_expectation(
    key: str, value: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(key, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings("local")
    heading, *lines = str(caught.value).splitlines()
    assert heading == "settings refused:"
    assert len(lines) == 1
    assert lines[0].startswith(f"  {line}")
    assert not re.search(r"pydantic|pattern|regex|input|instance|valid|Enum|_Environment", lines[0])


def test_every_setting_refuses_a_wrong_value_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of future settings: what pydantic says about any field does not reach the user."""
    for section, field in Settings.model_fields.items():
        inner = field.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            continue
        with pytest.raises(ValidationError) as caught:
            inner.model_validate({name: object() for name in inner.model_fields})
        lines = describe(caught.value, inner).splitlines()[1:]
        assert {line.split(":")[0].strip() for line in lines} == set(inner.model_fields), section
        for line in lines:
            assert re.fullmatch(r"  \w+: (<object object at 0x\w+>|\*\*\*): expected .+", line), line


def test_each_wrong_setting_of_all_sources_has_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        "[kafka]\nbrokrs = 'x:1'\npartitions = 0\n[streams]\nweb_port = 'http'\n[coingecko]\napi_key = 4711\n"
    )
    monkeypatch.setenv("BDI_CLOCK__SPEED", "fast")
    with pytest.raises(ConfigurationError) as caught:
        load_settings("local", mine)
    names = [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]]
    assert sorted(names) == ["clock.speed", "coingecko.api_key", "kafka.brokrs", "kafka.partitions", "streams.web_port"]
    assert "coingecko.api_key: ***: expected text" in str(caught.value)
    assert "4711" not in str(caught.value)


def test_each_unknown_variable_has_a_line_with_all_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDI_CONFG", "x")
    monkeypatch.setenv("BDI_MARKET", "x")
    with pytest.raises(ConfigurationError) as caught:
        load_settings("local")
    lines = sorted(str(caught.value).splitlines()[1:])
    assert [line.split(";")[0] for line in lines] == [
        "  environment: BDI_CONFG: unknown setting",
        "  environment: BDI_MARKET: unknown setting",
    ]
    assert "expected one of BDI_BATCH, BDI_BINANCE, BDI_CLOCK, BDI_COINGECKO, BDI_CONFIG, BDI_DEVSTACK" in lines[0]


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_bytes(b"\xef\xbb\xbf[streams]\npoll_interval_s = 10\n")
    assert load_settings("local", mine).streams.poll_interval_s == 10
