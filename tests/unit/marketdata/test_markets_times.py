"""Symbols and event times: parsing, formatting and refusals."""

import re

import pytest

from marketdata.errors import InvalidValueError
from marketdata.markets import QUOTES, Market
from marketdata.rules import SYMBOL
from marketdata.times import floor_to, from_http_date, from_rfc3339, to_rfc3339
from marketdata.topics import TOPICS, TopicRole


def test_a_market_has_an_identifier_at_each_exchange() -> None:
    market = Market.parse("XRP-EUR")
    assert (market.symbol, market.binance, market.coingecko_id, market.coingecko_currency) == (
        "XRP-EUR",
        "XRPEUR",
        "ripple",
        "eur",
    )
    assert Market.parse("BTC-USD").binance == "BTCUSDT"


@pytest.mark.parametrize("quote", QUOTES)
@pytest.mark.parametrize("base", ["W", "1INCH", "1000SATS", "DOGE"])
def test_any_base_and_every_quote_is_a_market(base: str, quote: str) -> None:
    market = Market.parse(f"{base}-{quote}".lower())
    assert (market.base, market.quote) == (base, quote)
    assert market.binance == base + ("USDT" if quote == "USD" else quote)
    assert re.fullmatch(SYMBOL.pattern, market.symbol)
    assert market.coingecko_currency == ("usd" if quote in {"USD", "USDT", "USDC", "FDUSD"} else quote.lower())


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("BTCUSD", "BTC-USD"),
        ("w/usdt", "W-USDT"),
        ("BTC-USDD", "BTC-USD, BTC-USDT, BTC-USDC"),
        ("BTC-EURO", "BTC-EUR, BTC-USD, BTC-TRY"),
    ],
)
def test_the_refusal_of_a_market_names_close_matches(text: str, matches: str) -> None:
    with pytest.raises(InvalidValueError, match=f"; close matches: {matches}$"):
        Market.parse(text)


def test_a_coin_without_an_id_is_no_error() -> None:
    assert Market("W", "USD").coingecko_id is None
    assert Market.parse("BTC-USD", {"BTC": "another-id"}).coingecko_id == "another-id"


@pytest.mark.parametrize(
    "text", ["BTCUSD", "BTC-USD ", "BTC-XYZ", "BTC-BTC", "BTC-USD-EUR", "ß-USD", "-USD", "BTC-", ""]
)
def test_an_invalid_symbol_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        Market.parse(text)
    assert caught.value.field == "symbol"
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00.000Z", 0),
        ("2024-08-05T00:00:00.123Z", 1722816000123),
        ("2024-08-05T02:00:00+02:00", 1722816000000),
        ("2024-08-05T00:00:00.123999Z", 1722816000123),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_rfc3339_is_parsed_to_the_millisecond(text: str, ms: int) -> None:
    assert from_rfc3339(text) == ms


@pytest.mark.parametrize(
    "text", ["2024-08-05", "2024-08-05T00:00:00", "2024-08-05 00:00:00Z", "2024-13-05T00:00:00Z", "1722816000", ""]
)
def test_an_invalid_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="when"):
        from_rfc3339(text, "when")


def test_formatted_times_have_milliseconds_and_z() -> None:
    assert to_rfc3339(1722816000007) == "2024-08-05T00:00:00.007Z"
    with pytest.raises(InvalidValueError):
        to_rfc3339(10**18)


@pytest.mark.parametrize(
    ("text", "ms"),
    [("Mon, 05 Aug 2024 00:00:01 GMT", 1722816001000), ("yesterday", None), ("", None), (None, None)],
)
def test_an_http_date_is_parsed_or_none(text: str | None, ms: int | None) -> None:
    assert from_http_date(text) == ms


def test_slots_are_half_open_on_the_epochs_grid() -> None:
    assert [floor_to(ms, 60_000) for ms in (0, 59_999, 60_000, -1)] == [0, 0, 60_000, -60_000]


def test_every_role_has_one_topic_with_its_own_name() -> None:
    assert set(TOPICS) == set(TopicRole)
    assert len({topic.name for topic in TOPICS.values()}) == len(TopicRole)
    assert TOPICS[TopicRole.TICKS].name == "cryptoTopic"
    assert all(topic.config["message.timestamp.type"] == "LogAppendTime" for topic in TOPICS.values())
