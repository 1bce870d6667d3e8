"""The views' follower on the real Kafka: states of sources and topics."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from config import Settings
from marketdata.codec import encode
from marketdata.records import Record, Tick
from marketdata.times import MINUTE_MS, to_rfc3339
from marketdata.topics import TopicRole
from streams.kafka import topics
from streams.views import responses
from streams.views.follower import Follower, OnRecord
from streams.views.read_model import ReadModel
from tests.support import builders
from tests.support.stack import eventually_async
from tests.support.streams_worker import send

START = 1_722_816_000_000
SYMBOL = "BTC-USD"
KEY = SYMBOL.encode()


def polled(minute: int, **statuses: str) -> Tick:
    return builders.polled(START + minute * MINUTE_MS, **statuses)


@asynccontextmanager
async def following(
    settings: Settings, now_ms: int | Callable[[], int | None], on_record: OnRecord = lambda _role, _record: None
) -> AsyncIterator[tuple[ReadModel, Follower]]:
    await topics.ensure(settings)
    read_model = ReadModel(settings.markets)
    follower = Follower(settings, read_model, on_record, now_ms if callable(now_ms) else lambda: now_ms)
    running = asyncio.create_task(follower.run())
    try:
        yield read_model, follower
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_outage_of_all_sources_shows_the_error_of_each_and_since_when(settings: Settings) -> None:
    """Such ticks are never clean: only cryptoTopic has them, among other records that programs wrote to it."""
    ticks = [
        polled(0, binance="ok", coingecko="ok"),
        polled(1, binance="rate_limited", coingecko="ok"),
        polled(2, binance="rate_limited", coingecko="timeout"),
    ]
    now_ms = START + 2 * MINUTE_MS
    async with following(settings, now_ms) as (read_model, follower):
        await send(
            settings,
            TopicRole.TICKS,
            [
                (KEY, b"{no tick"),
                (b"XXX", encode(polled(2, binance="ok"))),
                (None, b"{}"),
                (KEY, encode(polled(60 * 24, binance="ok", coingecko="ok"))),  # out of the future
                *((KEY, encode(tick)) for tick in ticks),
            ],
        )

        async def seen() -> bool:
            states = read_model.sources.values()
            return len(states) == 2 and {state.tick_ms for state in states} == {now_ms}

        await eventually_async(seen, 30, "the last poll in the read model")
        document = responses.health(read_model, follower.kafka, settings, now_ms)
    found = {s["source"]: (s["state"], s["status"], s["failing_since"]) for s in document["sources"]}
    assert found == {
        "binance": ("outage", "rate_limited", to_rfc3339(START + MINUTE_MS)),
        "coingecko": ("outage", "timeout", to_rfc3339(now_ms)),
    }
    assert read_model.topics[TopicRole.TICKS].undecodable == 1
    assert read_model.markets[SYMBOL].tick is None


async def test_a_topic_never_has_fewer_records_than_were_read_from_it(settings: Settings) -> None:
    one = builders.prediction(START)
    role = TopicRole.PREDICTIONS
    async with following(settings, START) as (read_model, follower):

        async def connected() -> bool:
            return role in follower.kafka.on_topic

        await eventually_async(connected, 30, "the follower")
        for batch in range(3):
            made = [msgspec.structs.replace(one, prediction_id=f"{batch}|{i}") for i in range(10)]
            await send(settings, role, [(KEY, encode(record)) for record in made])

            async def read(wanted: int = 10 * (batch + 1)) -> bool:
                assert follower.kafka.on_topic[role] >= read_model.topics[role].records
                return read_model.topics[role].records == wanted

            await eventually_async(read, 30, "the records in the read model", every_s=0.01)


async def test_the_views_skip_and_count_a_record_that_fails_unexpectedly(settings: Settings) -> None:
    """An unexpected error in a listener of the read model costs one record, not the connection or its batch."""
    role, errors = TopicRole.FEATURES, [RuntimeError("unexpected")]

    def on_record(_role: TopicRole, _record: Record) -> None:
        if errors:
            raise errors.pop()

    async with following(settings, START, on_record) as (read_model, follower):
        await send(settings, role, [(KEY, encode(builders.feature_row(START)))])

        async def failed() -> bool:
            return read_model.topics[role].unexpected == 1

        await eventually_async(failed, 30, "the failure")
        await send(settings, role, [(KEY, encode(builders.feature_row(START + 1_000)))])

        async def shown() -> bool:
            row = read_model.markets[SYMBOL].features
            return follower.kafka.connected and row is not None and row.timestamp_ms == START + 1_000

        await eventually_async(shown, 30, "the record after it")
        document = responses.health(read_model, follower.kafka, settings, START + 1_000)
    assert (document["kafka"]["failures"], document["kafka"]["problem"]) == (0, None)
    assert read_model.topics[role].undecodable == 1


OF_2099 = 4_070_908_800_000
KINDS = (TopicRole.TICKS_CLEAN, TopicRole.CANDLES, TopicRole.FEATURES)


def one_of_each(at_ms: int) -> dict[TopicRole, bytes]:
    made = (builders.tick(at_ms), builders.candle(at_ms - MINUTE_MS), builders.feature_row(at_ms))
    return {role: encode(record) for role, record in zip(KINDS, made, strict=True)}


async def test_records_ahead_of_the_clock_or_undecodable_do_not_hide_later_ones(settings: Settings) -> None:
    """Later records of the same batch are shown, whatever was written to the topics before them."""
    deep = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
    await topics.ensure(settings)
    for role, good in one_of_each(START).items():
        await send(settings, role, [(KEY, one_of_each(OF_2099)[role]), (KEY, deep), (KEY, good)])
    async with following(settings, START) as (read_model, follower):

        async def read() -> bool:
            return {read_model.topics[role].event_ms for role in KINDS} == {START}

        await eventually_async(read, 30, "the current records in the read model")
        assert (
            read_model.topics[TopicRole.CANDLES].undecodable == 1
        )  # of the other topics, throttling shows one of the records that arrive together
        assert (list(read_model.markets[SYMBOL].candles), follower.kafka.failures) == ([START - MINUTE_MS], 0)


async def test_records_ahead_of_the_clock_are_dropped_once_the_clock_starts(settings: Settings) -> None:
    clock: list[int] = []
    await topics.ensure(settings)
    for role, good in one_of_each(START).items():
        await send(settings, role, [(KEY, good), (KEY, one_of_each(OF_2099)[role])])
    async with following(settings, lambda: clock[0] if clock else None) as (read_model, _):

        async def of(at_ms: int) -> bool:
            return {read_model.topics[role].event_ms for role in KINDS} == {at_ms}

        await eventually_async(lambda: of(OF_2099), 30, "all records in the read model, while the time is unknown")
        clock.append(START)
        await eventually_async(lambda: of(START), 30, "the current records in the read model")
