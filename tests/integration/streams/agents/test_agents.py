"""The clean and features agents in a real worker on a real Kafka: each tick once, across crashes and rebalances."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from config import Settings
from marketdata.codec import decode, encode
from marketdata.records import DeadLetter, FeatureRow, Tick
from marketdata.topics import TopicRole
from streams.kafka import topics
from tests.support import builders
from tests.support.stack import Program, eventually_async
from tests.support.streams_worker import (
    SLOWLY_MOVING,
    assert_features,
    counted,
    decoded,
    everything,
    hold_all,
    one_of_many,
    send,
    without_exchanges,
    worker,
)

START_MS = 1_722_816_000_000
SYMBOLS = ("BTC-USD", "ETH-USD", "ADA-USD", "BTC-EUR", "ETH-EUR", "XRP-EUR")  # each of four partitions has one


def tick(symbol: str, timestamp_ms: int, price: float) -> Tick:
    """A tick whose mid is its price."""
    quote = {"bid_price": price - 0.5, "bid_qty": 1.0, "ask_price": price + 0.5, "ask_qty": 3.0}
    return builders.tick(timestamp_ms, symbol, price=price, sources={}, price_change_percentage_24h=None, **quote)


def walk(count: int, seed: int) -> list[Tick]:
    """`count` ticks, seconds apart, spread over the markets; some out of order within the lateness."""
    dice = random.Random(seed)
    ticks = []
    for number in range(count):
        late_ms = dice.choice((0, 0, 0, 30_000))
        at_ms = START_MS + 60_000 + number // len(SYMBOLS) * 1_000 - late_ms + (500 if late_ms else 0)
        ticks.append(tick(SYMBOLS[number % len(SYMBOLS)], at_ms, 100.0 + dice.random()))
    return ticks


def keyed(ticks: Sequence[Tick]) -> list[tuple[bytes | None, bytes | None]]:
    return [(one.symbol.encode(), encode(one)) for one in ticks]


async def count(settings: Settings, role: TopicRole) -> int:
    return len(await everything(settings, role))


async def are_through(settings: Settings, ticks: Sequence[Tick]) -> bool:
    """Whether all ticks are clean and each market's newest row includes its ticks."""
    if await count(settings, TopicRole.TICKS_CLEAN) < len(ticks):
        return False
    return hold_all(await decoded(settings, TopicRole.FEATURES, FeatureRow), ticks)


async def test_ticks_are_cleaned_and_refused_with_reasons(settings: Settings, tmp_path: Path) -> None:
    own = without_exchanges(settings)
    await topics.ensure(own)
    good = walk(120, seed=1)
    crossed = encode(tick("BTC-USD", START_MS, 100.0)).replace(b'"bid_price":99.5', b'"bid_price":999.5')
    bad = [(b"BTC-USD", b"{"), (b"BTC-USD", crossed), (b"BTC-EUR", encode(good[0])), (None, b"")]
    await send(own, TopicRole.TICKS, [*keyed(good), *bad, *keyed(good[:30])])
    with worker(own, tmp_path / "worker.log") as program:

        async def done() -> bool:
            program.check_running()
            return await are_through(own, good)

        await eventually_async(done, 40, "the ticks are through")
        assert program.process.poll() is None
    assert program.process.returncode == 0
    clean = await everything(own, TopicRole.TICKS_CLEAN)
    source = {
        value: (record.partition, record.offset)
        for record in await everything(own, TopicRole.TICKS)
        if (value := record.value)
    }
    assert Counter(record.value for record in clean) == Counter(encode(one) for one in good)
    letters = await decoded(own, TopicRole.DEAD_LETTERS, DeadLetter)
    assert Counter(letter.reason for letter in letters) == {"json": 1, "crossed_quote": 1, "key": 1, "empty": 1}
    (letter,) = [one for one in letters if one.reason == "crossed_quote"]
    assert (letter.partition, letter.offset) == source[crossed]
    assert_features(await decoded(own, TopicRole.FEATURES, FeatureRow), good)


async def test_records_fetched_during_a_rebalance_are_handled_without_later_records(
    settings: Settings, tmp_path: Path
) -> None:
    """The second worker recovers tables; records fetched meanwhile are handled afterwards."""
    own = without_exchanges(settings)
    await topics.ensure(own)
    ticks = walk(1_200, seed=5)
    for number, sent in enumerate((600, 1_200)):
        await send(own, TopicRole.TICKS, keyed(ticks[sent - 600 : sent]))
        one = one_of_many(own, number, tmp_path)
        with worker(one, tmp_path / f"worker{number}.log", faust=SLOWLY_MOVING) as program:

            async def done(program: Program = program, sent: int = sent) -> bool:
                program.check_running()
                return await are_through(own, ticks[:sent])

            await eventually_async(done, 40, f"{sent} ticks are through")
    assert "fetched in the moment" in program.output()


async def test_repeated_kills_lose_and_duplicate_nothing(settings: Settings, tmp_path: Path) -> None:
    """Three SIGKILLs under load; the data folder is kept twice and deleted once."""
    own = without_exchanges(settings)
    await topics.ensure(own)
    ticks = walk(9_000, seed=2)
    parts = [ticks[:3_000], ticks[3_000:6_000], ticks[6_000:]]
    for number, part in enumerate(parts):
        before = await count(own, TopicRole.TICKS_CLEAN)
        with worker(own, tmp_path / f"worker{number}.log") as program:
            for start in range(0, len(part), 300):
                await send(own, TopicRole.TICKS, keyed(part[start : start + 300]))

            async def some(before: int = before, own: Settings = own) -> bool:
                return await count(own, TopicRole.TICKS_CLEAN) > before

            await eventually_async(some, 40, "the worker works")
            program.process.kill()
            program.process.wait()
        if number == 1:
            own = own.model_copy(update={"streams": own.streams.model_copy(update={"data_dir": tmp_path / "another"})})
    with worker(own, tmp_path / "last.log") as program:

        async def done() -> bool:
            program.check_running()
            return await are_through(own, ticks)

        await eventually_async(done, 60, "all ticks are through")
    clean = [decode(Tick, record.value) for record in await everything(own, TopicRole.TICKS_CLEAN)]
    assert Counter(one.tick_id for one in clean) == Counter(one.tick_id for one in ticks)
    by_symbol: defaultdict[str, list[str]] = defaultdict(list)
    for one in clean:
        by_symbol[one.symbol].append(one.tick_id)
    for symbol in SYMBOLS:
        assert by_symbol[symbol] == [one.tick_id for one in ticks if one.symbol == symbol]
    assert await count(own, TopicRole.DEAD_LETTERS) == 0
    assert_features(await decoded(own, TopicRole.FEATURES, FeatureRow), ticks)


async def test_rebalances_of_three_workers_under_load_lose_and_duplicate_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    """One worker dies and one joins while ticks arrive continuously, so many are fetched during rebalances."""
    supply = walk(150_000, seed=3)
    own = without_exchanges(settings)
    await topics.ensure(own)
    ticks: list[Tick] = []
    over = asyncio.Event()

    async def load() -> None:
        while not over.is_set() and len(ticks) < len(supply):
            part = supply[len(ticks) : len(ticks) + 500]
            await send(own, TopicRole.TICKS, keyed(part))
            ticks.extend(part)
            await asyncio.sleep(0.1)  # the rate of the load

    async def works(programs: Sequence[Program], workers: Sequence[Settings]) -> None:
        """Wait until each worker has handled ticks, while more are sent."""

        async def each() -> bool:
            for program in programs:
                program.check_running()
            return all([await handled(one) > 0 for one in workers])

        await eventually_async(each, 60, "each worker handles ticks", every_s=0.3)

    settings_of = [one_of_many(own, number, tmp_path) for number in range(4)]
    with ExitStack() as programs:
        started = [
            programs.enter_context(worker(one, tmp_path / f"worker{number}.log", faust=SLOWLY_MOVING))
            for number, one in enumerate(settings_of[:3])
        ]
        loading = asyncio.create_task(load())
        await works(started, settings_of[:3])
        started[0].process.kill()
        started[0].process.wait()
        another = worker(settings_of[3], tmp_path / "worker3.log", faust=SLOWLY_MOVING)
        started.append(programs.enter_context(another))
        await works(started[1:], settings_of[1:])
        over.set()
        await loading

        async def done() -> bool:
            for program in started[1:]:
                program.check_running()
            return await are_through(own, ticks)

        await eventually_async(done, 90, "all ticks are through", every_s=0.5)
    assert any("fetched in the moment" in program.output() for program in started)
    clean = [decode(Tick, record.value) for record in await everything(own, TopicRole.TICKS_CLEAN)]
    assert Counter(one.tick_id for one in clean) == Counter(one.tick_id for one in ticks)
    assert_features(await decoded(own, TopicRole.FEATURES, FeatureRow), ticks)


async def handled(settings: Settings) -> float:
    """Ticks handled by a worker's features agent; 0 before its web server listens."""
    return (await counted(settings, "bitcoin_agent_events")).get('agent="features"', 0.0)
