"""The views' follower on the real Kafka: what it tells of sources and topics."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from config import Settings
from marketdata.codec import encode
from marketdata.records import Prediction, SourceState, Tick
from marketdata.times import HOUR_MS, MINUTE_MS, to_rfc3339
from marketdata.topics import TopicRole
from streams import topics
from streams.views import documents
from streams.views.board import Board
from streams.views.follower import Follower
from tests.integration.streams_support import send
from tests.stack import eventually_async

START = 1_722_816_000_000
SYMBOL = "BTC-USD"
KEY = SYMBOL.encode()


def polled(minute: int, **statuses: str) -> Tick:
    timestamp = to_rfc3339(START + minute * MINUTE_MS)
    return Tick(
        symbol=SYMBOL,
        tick_id=Tick.make_id(SYMBOL, timestamp),
        timestamp=timestamp,
        quote="USD",
        sources={name: SourceState(status=status) for name, status in statuses.items()},
    )


@asynccontextmanager
async def following(settings: Settings, now_ms: int) -> AsyncIterator[tuple[Board, Follower]]:
    await topics.ensure(settings)
    board = Board(settings.markets)
    follower = Follower(settings, board, lambda _role, _record: None, lambda: now_ms)
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
    start = to_rfc3339(START)
    one = Prediction(
        symbol=SYMBOL,
        prediction_id="0",
        issued_at=start,
        data_through=start,
        target_start=start,
        target_end=to_rfc3339(START + HOUR_MS),
        horizon_h=1,
        last_price=100.0,
        pred_avg_price=101.0,
        quantiles={},
        lower=99.0,
        upper=103.0,
        interval_level=0.9,
        sigma=0.01,
        n_calib=10,
        model_version="1",
        trained_through=None,
        role="champion",
        origin="live",
        stale_reason=None,
    )
    role = TopicRole.PREDICTIONS
    async with following(settings, START) as (board, follower):

        async def connected() -> bool:
            return role in follower.kafka.on_topic

        await eventually_async(connected, 30, "the follower")
        for batch in range(3):
            records = [msgspec.structs.replace(one, prediction_id=f"{batch}|{i}") for i in range(10)]
            await send(settings, role, [(KEY, encode(record)) for record in records])

            async def read(wanted: int = 10 * (batch + 1)) -> bool:
                assert follower.kafka.on_topic[role] >= board.topics[role].records
                return board.topics[role].records == wanted

            await eventually_async(read, 30, "the records on the board", every_s=0.01)
