"""Arguments of commands, and which dead letters can be republished."""

import base64
import json
import shlex
from typing import Any

import pytest

from config import Settings
from marketdata.arguments import find_market
from marketdata.errors import ArgumentError
from marketdata.records import DeadLetter, event_time_ms
from marketdata.times import from_rfc3339
from marketdata.topics import TopicRole
from streams.commands.arguments import Span, find_role
from streams.commands.command import shown
from streams.commands.replay import worker_variables
from streams.commands.republish import dead_letter_id, not_restorable
from tests.support.builders import candle, dead_letter, feature_row, tick
from tests.support.stack import settings_with

AT = "2024-08-05T00:00:00Z"
AT_MS = from_rfc3339(AT)


@pytest.fixture
def settings() -> Settings:
    return settings_with({"BDI_STREAMS__WEB_PORT": "7000"})


@pytest.mark.parametrize(
    ("since", "until", "held"),
    [
        (None, None, {AT_MS - 1, AT_MS, AT_MS + 1}),
        (AT, None, {AT_MS, AT_MS + 1}),
        (None, AT, {AT_MS - 1}),
        (AT, "2024-08-05T02:00:00.001+02:00", {AT_MS}),
    ],
)
def test_a_span_includes_its_start_and_excludes_its_end(since: str | None, until: str | None, held: set[int]) -> None:
    span = Span.parse(since, until)
    assert {ms for ms in (AT_MS - 1, AT_MS, AT_MS + 1) if span.holds(ms)} == held
    assert span.meets(AT_MS - 1, AT_MS + 2)
    assert span.is_open == (since is None and until is None)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        ("yesterday", None, "--from: 'yesterday': expected RFC 3339"),
        ("2024-08-05T00:00:00", None, "--from: '2024-08-05T00:00:00': expected RFC 3339 with an offset"),
        (None, "2024-13-05T00:00:00Z", "--to: '2024-13-05T00:00:00Z': expected a real date and time"),
        (AT, AT, f"--to: '{AT}': expected a time after --from ({AT})"),
    ],
)
def test_an_invalid_span_names_the_option(since: str | None, until: str | None, expected: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        Span.parse(since, until)
    assert expected in str(caught.value)


def test_topics_and_markets_are_found_by_all_their_names(settings: Settings) -> None:
    named = settings.model_copy(update={"topics": settings.topics.model_copy(update={"prefix": "a-"})})
    for text in ("ticks_clean", "ticks-clean", "a-ticks-clean"):
        assert find_role(named, text) is TopicRole.TICKS_CLEAN
    assert find_market("btc-usd", settings.markets) == "BTC-USD"
    with pytest.raises(ArgumentError, match=r"topic: 'x': expected one of cryptoTopic, .*, raw_data"):
        find_role(settings, "x", "raw_data")
    with pytest.raises(ArgumentError, match="market: 'DOGE-USD': expected one of BTC-USD"):
        find_market("DOGE-USD", settings.markets)


def variables(words: str | None) -> dict[str, str]:
    assert words is not None
    return dict(word.split("=", 1) for word in shlex.split(words))


def test_the_variables_of_a_worker_on_a_replay(settings: Settings) -> None:
    by_prefix = variables(worker_variables(settings, TopicRole.TICKS, "again-cryptoTopic"))
    assert by_prefix["BDI_TOPICS__PREFIX"] == "again-"
    assert (by_prefix["BDI_STREAMS__APP_ID"], by_prefix["BDI_STREAMS__WEB_PORT"]) == ("again", "7001")
    other = settings_with(by_prefix)
    assert other.topic(TopicRole.TICKS).name == "again-cryptoTopic"
    assert not other.binance.enabled
    assert not other.coingecko.enabled

    by_names = settings_with(variables(worker_variables(settings, TopicRole.TICKS_CLEAN, "some")))
    assert by_names.topic(TopicRole.TICKS_CLEAN).name == "some"
    mine = {settings.topic(role).name for role in TopicRole}
    assert mine.isdisjoint(by_names.topic(role).name for role in TopicRole)
    assert worker_variables(settings, TopicRole.CANDLES, "again-candles") is None


def test_clean_ticks_replayed_to_a_raw_topic_are_cleaned_again(settings: Settings) -> None:
    found = variables(worker_variables(settings, TopicRole.TICKS_CLEAN, "b.cryptoTopic"))
    assert (found["BDI_TOPICS__PREFIX"], found["BDI_STREAMS__APP_ID"]) == ("b.", "b")


def letter(**changed: Any) -> DeadLetter:
    values = {"reason": "json", "field": "payload", "value": "x", "expected": "JSON", "partition": 1, "offset": 5}
    return dead_letter(AT_MS, original=b"x", **{**values, **changed})


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, None),
        ({"key": None}, None),
        ({"topic": "ticks-clean"}, None),
        ({"topic": "candles"}, None),
        ({"topic": "features"}, "topic: 'features': expected one of candles, cryptoTopic, ticks-clean"),
        ({"partition": 3}, None),
        ({"partition": 4}, "partition: 4: expected one of the 4 partitions of cryptoTopic"),
        ({"partition": -1}, "partition: -1: expected one of the 4"),
        ({"key": "BTC\ufffd"}, "key: 'BTC\ufffd': expected UTF-8"),
        ({"payload": "?"}, "payload: expected base64"),
        ({"payload": ""}, "payload: 0 bytes: expected 1 to 349999"),
        ({"payload": base64.b64encode(b"x" * 350_000).decode()}, "payload: 350000 bytes"),
    ],
)
def test_only_complete_originals_can_be_republished(
    settings: Settings, changed: dict[str, Any], expected: str | None
) -> None:
    found = not_restorable(settings, letter(**changed), 4)
    assert found is None if expected is None else expected in str(found)


def test_a_dead_letter_is_identified_by_offset_and_bytes() -> None:
    first = dead_letter_id(letter())
    assert first.startswith("cryptoTopic-1@5#")
    assert dead_letter_id(letter(refused_at="2024-08-06T00:00:00Z", reason="type")) == first
    assert dead_letter_id(letter(offset=6)) != first
    assert dead_letter_id(letter(payload=base64.b64encode(b"y").decode())) != first


def test_every_record_has_an_event_time() -> None:
    records = (candle(AT_MS), tick(AT_MS), feature_row(AT_MS), letter())
    assert {event_time_ms(one) for one in records} == {AT_MS}


def test_the_names_of_all_topics_are_json(settings: Settings) -> None:
    names = json.loads(variables(worker_variables(settings, TopicRole.TICKS, "some"))["BDI_TOPICS__NAMES"])
    assert names.keys() == {role.value for role in TopicRole}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (60123.456, "60,123.46"),
        (2.345678, "2.34568"),
        (0.000123456789, "0.000123457"),
        (-1.5, "-1.5"),
        (3, "3"),
        (1e-8, "0.00000001"),
        (-0.0000123456789, "-0.0000123457"),
        (1.5e-12, "0.0000000000015"),
        (1e-13, "1e-13"),
        (100_000_000.0, "100,000,000.00"),
        (999.99999, "1000"),
        (0.0, "0"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_numbers_are_rounded_in_tables(value: float | None, text: str) -> None:
    assert shown(value) == text
