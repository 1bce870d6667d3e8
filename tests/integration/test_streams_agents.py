"""The clean and features agents in a real worker on a real Kafka: each tick once, whatever dies in between."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from config import Settings
from marketdata.codec import decode, encode
from marketdata.features import MarketFeatures
from marketdata.records import DeadLetter, FeatureRow, Tick
from marketdata.times import to_rfc3339
from marketdata.topics import TopicRole
from streams import topics
from tests.integration.streams_support import decoded, everything, send, without_exchanges, worker
from tests.stack import eventually_async, free_ports

START_MS = 1_722_816_000_000
SYMBOLS = ("BTC-USD", "ETH-USD", "XRP-USD", "BTC-EUR", "ETH-EUR", "XRP-EUR")


def tick(symbol: str, timestamp_ms: int, price: float) -> Tick:
    timestamp = to_rfc3339(timestamp_ms)
    quote = symbol[-3:]
    return Tick(
        symbol=symbol,
        tick_id=Tick.make_id(symbol, timestamp),
        timestamp=timestamp,
        quote=quote,
        price=price,
        price_usd=price if quote == "USD" else None,
        bid_price=price - 0.5,
        bid_qty=1.0,
        ask_price=price + 0.5,
        ask_qty=3.0,
    )


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


def reference(ticks: Sequence[Tick]) -> dict[str, FeatureRow]:
    """The features after these ticks, without a worker."""
    states = {symbol: MarketFeatures(symbol) for symbol in SYMBOLS}
    for one in ticks:
        states[one.symbol].add(one.timestamp_ms, one.bid_price, one.bid_qty, one.ask_price, one.ask_qty)
    return {symbol: state.result() for symbol, state in states.items()}


def assert_features(rows: Sequence[FeatureRow], ticks: Sequence[Tick]) -> None:
    """The newest row of each market is that of the reference, and no row stands twice."""
    identities = Counter((row.symbol, row.timestamp, row.revision) for row in rows)
    assert [identity for identity, count in identities.items() if count > 1] == []
    newest = {row.symbol: row for row in sorted(rows, key=lambda one: (one.timestamp_ms, one.revision))}
    for symbol, expected in reference(ticks).items():
        got = newest[symbol]
        assert (got.timestamp, got.mid, got.spread_bps) == (expected.timestamp, expected.mid, expected.spread_bps)
        for name, window in expected.windows.items():
            for field in window.__struct_fields__:
                value = getattr(window, field)
                wanted = None if value is None else pytest.approx(value, rel=1e-9)
                assert getattr(got.windows[name], field) == wanted, (symbol, name, field)


async def count(settings: Settings, role: TopicRole) -> int:
    return len(await everything(settings, role))


async def are_through(settings: Settings, ticks: Sequence[Tick]) -> bool:
    """True when all are clean and the newest rows hold every tick of theirs."""
    if await count(settings, TopicRole.TICKS_CLEAN) < len(ticks):
        return False
    rows = await decoded(settings, TopicRole.FEATURES, FeatureRow)
    newest = {row.symbol: row for row in sorted(rows, key=lambda one: (one.timestamp_ms, one.revision))}
    wanted = reference(ticks)
    return newest.keys() == wanted.keys() and all(
        (newest[symbol].timestamp, newest[symbol].windows["24h"].n_ticks) == (row.timestamp, row.windows["24h"].n_ticks)
        for symbol, row in wanted.items()
    )


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


async def test_a_worker_killed_again_and_again_loses_and_doubles_nothing(settings: Settings, tmp_path: Path) -> None:
    """Killed by SIGKILL under load, thrice: the data folder is kept twice and lost once."""
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


async def test_workers_that_join_and_die_lose_and_double_nothing(settings: Settings, tmp_path: Path) -> None:
    """A second worker takes over partitions under load, the first is killed, and a third joins."""
    ticks = walk(6_000, seed=3)
    own = without_exchanges(settings)
    await topics.ensure(own)

    def of(number: int) -> Settings:
        changed = {"data_dir": tmp_path / f"data{number}", "web_port": free_ports(1)[0]}
        return own.model_copy(update={"streams": own.streams.model_copy(update=changed)})

    async def load(part: Sequence[Tick]) -> None:
        before = await count(own, TopicRole.TICKS_CLEAN)
        for start in range(0, len(part), 300):
            await send(own, TopicRole.TICKS, keyed(part[start : start + 300]))

        async def some() -> bool:
            return await count(own, TopicRole.TICKS_CLEAN) > before

        await eventually_async(some, 40, "the workers work")

    with worker(of(1), tmp_path / "one.log") as first:
        await load(ticks[:2_000])
        with worker(of(2), tmp_path / "two.log") as second:
            await load(ticks[2_000:4_000])
            first.process.kill()
            first.process.wait()
            with worker(of(3), tmp_path / "three.log") as third:
                await load(ticks[4_000:])

                async def done() -> bool:
                    second.check_running()
                    third.check_running()
                    return await are_through(own, ticks)

                await eventually_async(done, 90, "all ticks are through")
    clean = [decode(Tick, record.value) for record in await everything(own, TopicRole.TICKS_CLEAN)]
    assert Counter(one.tick_id for one in clean) == Counter(one.tick_id for one in ticks)
    assert_features(await decoded(own, TopicRole.FEATURES, FeatureRow), ticks)
