"""The views' follower on the real Kafka: what it tells of sources and topics."""

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
from streams.views import responses as documents
from streams.views.follower import Follower, OnRecord
from streams.views.read_model import Board
from tests.support import view_records as records
from tests.support.stack import eventually_async
from tests.support.streams_worker import send

START = 1_722_816_000_000
SYMBOL = "BTC-USD"
KEY = SYMBOL.encode()


def polled(minute: int, **statuses: str) -> Tick:
    return records.polled(START + minute * MINUTE_MS, **statuses)


@asynccontextmanager
async def following(
    settings: Settings, now_ms: int | Callable[[], int | None], on_record: OnRecord = lambda _role, _record: None
) -> AsyncIterator[tuple[Board, Follower]]:
    await topics.ensure(settings)
    board = Board(settings.markets)
    follower = Follower(settings, board, on_record, now_ms if callable(now_ms) else lambda: now_ms)
    running = asyncio.create_task(follower.run())
    try:
        yield board, follower
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_outage_of_all_sources_shows_the_error_of_each_and_since_when(settings: Settings) -> None:
    """Such ticks are never clean: cryptoTopic alone has them, beside whatever else was written to it."""
    ticks = [
        polled(0, binance="ok", coingecko="ok"),
        polled(1, binance="rate_limited", coingecko="ok"),
        polled(2, binance="rate_limited", coingecko="timeout"),
    ]
    now_ms = START + 2 * MINUTE_MS
    async with following(settings, now_ms) as (board, follower):
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
            states = board.sources.values()
            return len(states) == 2 and {state.tick_ms for state in states} == {now_ms}

        await eventually_async(seen, 30, "the last poll on the board")
        document = documents.health(board, follower.kafka, settings, now_ms)
    found = {s["source"]: (s["state"], s["status"], s["failing_since"]) for s in document["sources"]}
    assert found == {
        "binance": ("outage", "rate_limited", to_rfc3339(START + MINUTE_MS)),
        "coingecko": ("outage", "timeout", to_rfc3339(now_ms)),
    }
    assert board.topics[TopicRole.TICKS].undecodable == 1
    assert board.markets[SYMBOL].tick is None


async def test_a_topic_never_holds_fewer_records_than_were_read_of_it(settings: Settings) -> None:
    one = records.prediction(START)
    role = TopicRole.PREDICTIONS
    async with following(settings, START) as (board, follower):

        async def connected() -> bool:
            return role in follower.kafka.on_topic

        await eventually_async(connected, 30, "the follower")
        for batch in range(3):
            made = [msgspec.structs.replace(one, prediction_id=f"{batch}|{i}") for i in range(10)]
            await send(settings, role, [(KEY, encode(record)) for record in made])

            async def read(wanted: int = 10 * (batch + 1)) -> bool:
                assert follower.kafka.on_topic[role] >= board.topics[role].records
                return board.topics[role].records == wanted

            await eventually_async(read, 30, "the records on the board", every_s=0.01)


async def test_the_views_go_on_after_a_surprise_and_count_it(settings: Settings) -> None:
    """An error that nobody foresaw, in what listens to the board: it costs its batch, not the views."""
    role, surprises = TopicRole.FEATURES, [RuntimeError("a surprise")]

    def on_record(_role: TopicRole, _record: Record) -> None:
        if surprises:
            raise surprises.pop()

    async with following(settings, START, on_record) as (board, follower):
        await send(settings, role, [(KEY, encode(records.feature_row(START)))])

        async def failed() -> bool:
            return follower.kafka.failures == 1

        await eventually_async(failed, 30, "the surprise")
        assert "a surprise" in str(follower.kafka.problem)
        await send(settings, role, [(KEY, encode(records.feature_row(START + 1_000)))])

        async def shown() -> bool:
            row = board.markets[SYMBOL].features
            return follower.kafka.connected and row is not None and row.timestamp_ms == START + 1_000

        await eventually_async(shown, 30, "what came after it")
        document = documents.health(board, follower.kafka, settings, START + 1_000)
    assert (document["kafka"]["failures"], document["kafka"]["problem"]) == (1, None)


OF_2099 = 4_070_908_800_000
KINDS = (TopicRole.TICKS_CLEAN, TopicRole.CANDLES, TopicRole.FEATURES)


def one_of_each(at_ms: int) -> dict[TopicRole, bytes]:
    made = (records.tick(at_ms), records.candle(at_ms - MINUTE_MS), records.feature_row(at_ms))
    return {role: encode(record) for role, record in zip(KINDS, made, strict=True)}


async def test_what_is_ahead_of_the_clock_or_beyond_reading_hides_nothing(settings: Settings) -> None:
    """Whatever is written to the topics: the records after it, of the same batch, are shown and judged."""
    deep = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
    await topics.ensure(settings)
    for role, good in one_of_each(START).items():
        await send(settings, role, [(KEY, one_of_each(OF_2099)[role]), (KEY, deep), (KEY, good)])
    async with following(settings, START) as (board, follower):

        async def read() -> bool:
            return {board.topics[role].event_ms for role in KINDS} == {START}

        await eventually_async(read, 30, "what is of now on the board")
        assert board.topics[TopicRole.CANDLES].undecodable == 1  # of the others one is shown of what comes at once
        assert (list(board.markets[SYMBOL].candles), follower.kafka.failures) == ([START - MINUTE_MS], 0)


async def test_what_was_ahead_before_the_clock_ran_is_forgotten(settings: Settings) -> None:
    clock: list[int] = []
    await topics.ensure(settings)
    for role, good in one_of_each(START).items():
        await send(settings, role, [(KEY, good), (KEY, one_of_each(OF_2099)[role])])
    async with following(settings, lambda: clock[0] if clock else None) as (board, _):

        async def of(at_ms: int) -> bool:
            return {board.topics[role].event_ms for role in KINDS} == {at_ms}

        await eventually_async(lambda: of(OF_2099), 30, "all on the board, as nobody knows the time")
        clock.append(START)
        await eventually_async(lambda: of(START), 30, "what is of now on the board")
