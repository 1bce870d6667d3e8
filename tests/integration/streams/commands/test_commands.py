"""The commands of `faust -A streams`: results, output as text and JSON, exit codes."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from config import Settings
from marketdata.codec import decode, encode
from marketdata.errors import ConfigurationError
from marketdata.records import DeadLetter, Prediction, Tick, WindowFeatures
from marketdata.topics import TopicRole
from streams.commands import NAMES
from streams.kafka import topics
from tests.support.builders import dead_letter, feature_row, prediction, tick
from tests.support.stack import ExchangeUnderTest
from tests.support.streams_worker import command as run
from tests.support.streams_worker import decoded, lines, send

TIME = "2024-08-05T00:00:00.000Z"


def letter(offset: int, reason: str) -> DeadLetter:
    return dead_letter(reason=reason, field="price", value="-1.0", expected="a number > 0", offset=offset)


def test_help_lists_the_commands(settings: Settings) -> None:
    text = run(settings, "--help").stdout
    assert [name for name in NAMES if f"\n  {name} " not in text] == []


def test_topics_are_created_and_drift_is_shown(settings: Settings) -> None:
    missing = lines(run(settings, "topics", "show", "--json", code=1))
    assert {one["drift"][0] for one in missing} == {f"{one['name']}: missing" for one in missing}
    created = lines(run(settings, "topics", "create", "--json"))
    notes = f"{settings.topic(TopicRole.DEAD_LETTERS).name}-republished"
    assert {one["name"] for one in created} >= {*(settings.topic(role).name for role in TopicRole), notes}
    assert all(one["created"] and one["drift"] == [] for one in created)
    assert sum("changelog" in one["name"] for one in created) == 2
    other = settings.model_copy(
        update={"topics": settings.topics.model_copy(update={"retention_hours": {TopicRole.CANDLES: 1.0}})}
    )
    drifted = {one["name"]: one["drift"] for one in lines(run(other, "topics", "show", "--json", code=1))}
    name = settings.topic(TopicRole.CANDLES).name
    assert drifted[name] == [f"{name}: retention.ms is 1209600000, declared 3600000"]
    shown = run(other, "topics", "show", code=1).stdout.splitlines()
    assert shown[0].split() == ["topic", "partitions", "replicas", "state", "policy"]
    assert shown[-1] == f"{name}: retention.ms is 1209600000, declared 3600000"
    rows = {words[0]: words[1:4] for words in map(str.split, shown[1:-1])}
    kafka = settings.kafka
    assert rows[name] == [str(kafka.partitions), str(kafka.replication_factor), "differs"]
    assert rows.keys() == {one["name"] for one in created}


async def test_all_mismatched_partition_counts_are_named_before_a_topic_is_created(settings: Settings) -> None:
    own = topics.declared(settings)
    wrong = [
        replace(policy, partitions=policy.partitions + 1)
        for policy in own
        if policy.name in {settings.topic(role).name for role in (TopicRole.TICKS, TopicRole.FEATURES)}
    ]
    async with topics.TopicAdmin(settings.kafka) as admin:
        await admin.create(wrong)
        with pytest.raises(ConfigurationError) as caught:
            await topics.ensure(settings, [f"{settings.streams.app_id}-x-changelog"])
        there = await admin.partitions()
    found, declared = settings.kafka.partitions + 1, settings.kafka.partitions
    for policy in wrong:
        assert f"{policy.name}: partitions is {found}, declared {declared}" in str(caught.value)
    assert there.keys() & {*(one.name for one in own), f"{settings.streams.app_id}-x-changelog"} == {
        one.name for one in wrong
    }


async def test_records_of_the_topics_are_shown(settings: Settings) -> None:
    await topics.ensure(settings)
    one = tick(price=1.5)
    await send(settings, TopicRole.TICKS_CLEAN, [(b"BTC-USD", encode(one)), (b"BTC-USD", b"garbage")])
    shown = lines(run(settings, "tail", "ticks-clean", "--json"))
    assert [one["record"] for one in shown] == [json.loads(encode(one)), None]
    assert "price=1.5" in run(settings, "tail", "ticks-clean").stdout
    assert "expected one of" in run(settings, "tail", "nosuch", code=2).stderr
    assert lines(run(settings, "tail", "ticks-clean", "--market", "ETH-USD", "--json")) == []
    assert (
        "'0': expected a whole number from 1 to 1000000"
        in run(settings, "tail", "ticks-clean", "-n", "0", code=2).stderr
    )

    window = WindowFeatures(n_ticks=1, coverage=1.0, last=7.25)
    rows = [feature_row(revision=n, mid=7.25, ewma_volatility=None, windows={"1m": window}) for n in (0, 2, 1)]
    await send(settings, TopicRole.FEATURES, [(b"BTC-USD", encode(row)) for row in rows])
    assert lines(run(settings, "features", "BTC-USD", "--json")) == [json.loads(encode(rows[1]))]
    people = [line.split() for line in run(settings, "features", "BTC-USD").stdout.splitlines()]
    assert ["window", "1m"] in people
    assert ["last", "7.25"] in people
    assert ["max_spread_bps", "–"] in people
    assert people[-1][:5] == ["vwap", "and", "volume", "are", "unknown:"]
    assert run(settings, "dead-letters").stdout == "none\n"
    assert run(settings, "dead-letters", "--counts").stdout == "none\n"
    assert "expected one of" in run(settings, "features", "DOGE-USD", code=2).stderr

    refused = [letter(1, "not_positive"), letter(2, "no_data"), letter(2, "no_data"), letter(3, "no_data")]
    await send(settings, TopicRole.DEAD_LETTERS, [(b"BTC-USD", encode(one)) for one in refused])
    listed = lines(run(settings, "dead-letters", "--reason", "no_data", "--json"))
    assert [one["offset"] for one in listed] == [2, 3]  # one was refused twice because of a crash
    newest = run(settings, "dead-letters", "-n", "1").stdout
    assert f"{refused[-1].topic}-0@3" in newest
    assert newest.endswith("newest 1 of 3; show all: -n 3\n")
    assert "newest" not in run(settings, "dead-letters").stdout
    assert lines(run(settings, "dead-letters", "--field", "bid_price", "--json")) == []
    assert lines(run(settings, "dead-letters", "--counts", "--json")) == [
        {"reason": "no_data", "field": "price", "count": 2},
        {"reason": "not_positive", "field": "price", "count": 1},
    ]

    made = prediction(quantiles={"0.5": 2.0})
    await send(settings, TopicRole.PREDICTIONS, [(b"BTC-USD", encode(made))])
    assert decode(Prediction, json.dumps(lines(run(settings, "predictions", "--json"))[0]).encode()) == made
    assert "champion" in run(settings, "predictions", "BTC-USD").stdout
    assert lines(run(settings, "predictions", "ETH-USD", "--json")) == []
    assert "none for ETH-USD; predictions are made for forecasting.symbols: BTC-USD" in (
        run(settings, "predictions", "ETH-USD").stdout
    )
    assert "expected one of" in run(settings, "predictions", "DOGE-USD", code=2).stderr


@pytest.fixture
def at_exchange(settings: Settings, start_exchange: Callable[..., ExchangeUnderTest]) -> Settings:
    exchange = start_exchange(speed=1)
    return settings.model_copy(
        update={
            "binance": settings.binance.model_copy(update={"base_url": exchange.binance}),
            "coingecko": settings.coingecko.model_copy(update={"base_url": exchange.coingecko}),
        }
    )


async def test_collect_once_publishes_a_tick_of_every_market(at_exchange: Settings) -> None:
    shown = lines(run(at_exchange, "collect-once", "--json"))
    published = await decoded(at_exchange, TopicRole.TICKS, Tick)
    assert sorted(one["symbol"] for one in shown) == sorted(at_exchange.markets)
    assert sorted(tick.tick_id for tick in published) == sorted(one["tick_id"] for one in shown)
    assert {state.status for tick in published for state in tick.sources.values()} == {"ok"}


def test_check_reports_each_part(at_exchange: Settings) -> None:
    run(at_exchange, "topics", "create")
    checked = lines(run(at_exchange, "check", "--json"))
    assert {one["part"]: one["ok"] for one in checked} == {
        "settings": True,
        "kafka": True,
        "clock": True,
        "markets": True,
        "coingecko": True,
        "binance": True,
        "hdfs": True,
    }
    names = {row.pop("market"): row for one in checked for row in one.get("markets", [])}
    assert list(names) == list(at_exchange.markets)
    assert names["BTC-USD"] == {"binance": "BTCUSDT", "status": "TRADING", "coingecko": "bitcoin in usd"}
    assert names["XRP-EUR"] == {"binance": "XRPEUR", "status": "TRADING", "coingecko": "ripple in eur"}
    nobody = at_exchange.model_copy(
        update={
            "hdfs": at_exchange.hdfs.model_copy(update={"webhdfs": "http://127.0.0.1:9"}),
            "binance": at_exchange.binance.model_copy(update={"base_url": "http://127.0.0.1:9"}),
        }
    )
    failing = {one["part"]: one["detail"] for one in lines(run(nobody, "check", "--json", code=1)) if not one["ok"]}
    assert set(failing) == {"clock", "markets", "binance", "hdfs"}
    assert f"hdfs.webhdfs: http://127.0.0.1:9: {nobody.hdfs.root} cannot be read: " in failing["hdfs"]


def test_a_command_without_a_broker_fails_with_one_line(settings: Settings) -> None:
    nobody = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"brokers": "127.0.0.1:9"})})
    (line,) = run(nobody, "tail", "candles", code=1).stderr.strip().splitlines()
    assert "no broker answers" in line
