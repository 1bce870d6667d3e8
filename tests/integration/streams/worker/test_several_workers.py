"""Several real workers with both feeds of the simulated exchange: the leader is killed, another worker is added."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from config import Settings
from marketdata.records import DeadLetter, FeatureRow, Tick
from marketdata.times import MINUTE_MS
from marketdata.topics import TopicRole
from streams.kafka import topics
from tests.support.stack import ExchangeUnderTest, Program, eventually_async
from tests.support.streams_worker import (
    are_ready,
    assert_features,
    counted,
    decoded,
    fed,
    hold_all,
    one_of_many,
    worker,
)

SPEED = 60.0
TAKEOVER_S = 30.0


async def collected(settings: Settings) -> list[Tick]:
    return await decoded(settings, TopicRole.TICKS, Tick)


async def newest_ms(settings: Settings) -> int:
    return max((tick.timestamp_ms for tick in await collected(settings)), default=0)


async def flow(settings: Settings, living: list[Program], deadline_s: float, after_ms: int, what: str) -> None:
    """Wait for polled and streamed ticks of every market that are newer than `after_ms`."""

    async def newer() -> bool:
        for program in living:
            program.check_running()
        ticks = [tick for tick in await collected(settings) if tick.timestamp_ms > after_ms]
        polled = {tick.symbol for tick in ticks if tick.n_updates is None}
        return polled == {tick.symbol for tick in ticks if tick.n_updates is not None} == set(settings.markets)

    await eventually_async(newer, deadline_s, what, every_s=0.3)


def instants(ticks: list[Tick]) -> list[int]:
    """Instants of the polls, oldest first."""
    return sorted({tick.timestamp_ms for tick in ticks if tick.n_updates is None})


def missed(ticks: list[Tick], from_ms: int) -> int:
    """Number of instants of the grid without a poll, from `from_ms` to the newest poll."""
    later = [at for at in instants(ticks) if at > from_ms]
    return (later[-1] - from_ms) // MINUTE_MS - len(later) if later else 0


async def skipped(workers: list[Settings]) -> Counter[str]:
    """Skipped polls counted by these workers, by reason."""
    found: Counter[str] = Counter()
    for one in workers:
        for labels, value in (await counted(one, "bitcoin_skipped_polls")).items():
            found[labels.removeprefix('reason="').removesuffix('"')] += int(value)
    return found


async def leading(workers: list[Settings]) -> int:
    """Index of the leader: the only worker that polled lately; the one that polled most may have led earlier."""
    before = [await counted(one, "bitcoin_polls") for one in workers]

    async def polled_alone() -> list[int]:
        nonlocal before
        now = [await counted(one, "bitcoin_polls") for one in workers]
        polled = [number for number, counts in enumerate(now) if counts != before[number]]
        before = now
        return polled if len(polled) == 1 else []

    (leader,) = await eventually_async(polled_alone, 20, "one worker that polls alone", every_s=3.0)
    return leader


async def assert_gaps_counted(settings: Settings, workers: list[Settings], before: Counter[str], last_ms: int) -> None:
    """The survivors count every instant without a poll since the leader died, and no instant with one.

    `before`: what they had counted when it died.
    """
    missing = missed(await collected(settings), last_ms)

    async def all_counted() -> Counter[str] | None:
        reasons = await skipped(workers) - before
        return reasons if reasons.total() >= missing else None

    reasons = await eventually_async(all_counted, 20, f"{missing} missing instants counted", every_s=0.3)
    missing = missed(await collected(settings), last_ms)
    # A new leader also counts an instant whose ticks are not on the topic yet: at most one per change of the leader.
    assert 0 < reasons["no_leader"] <= missing + len(workers)
    # An instant that passed during a poll may be counted by the poll's leader and, as above, by the next one.
    assert reasons.total() - reasons["no_leader"] <= missing + len(workers)
    assert sum([sum((await counted(one, "bitcoin_stream_gap_seconds")).values()) for one in workers]) > 0


async def assert_all_is_there_once(settings: Settings, exchange: ExchangeUnderTest, living: list[Program]) -> None:
    """Stop the exchange's data, wait until all ticks are processed, and compare them."""
    for fault in ("500", "ws_close"):
        exchange.control("POST", "faults", fault=fault, match="/")

    async def finished() -> bool:
        for program in living:
            program.check_running()
        ended = any(tick.price is None and tick.bid_price is None for tick in await collected(settings))
        clean = await decoded(settings, TopicRole.TICKS_CLEAN, Tick)
        return ended and hold_all(await decoded(settings, TopicRole.FEATURES, FeatureRow), clean)

    await eventually_async(finished, 40, "features of all ticks", every_s=0.5)
    clean = await decoded(settings, TopicRole.TICKS_CLEAN, Tick)
    assert [one for one, count in Counter(tick.tick_id for tick in clean).items() if count > 1] == []
    held = {tick.tick_id for tick in await collected(settings) if (tick.price, tick.bid_price) != (None, None)}
    assert held == {tick.tick_id for tick in clean}
    assert_features(await decoded(settings, TopicRole.FEATURES, FeatureRow), clean)
    assert {letter.reason for letter in await decoded(settings, TopicRole.DEAD_LETTERS, DeadLetter)} <= {"no_data"}


async def test_both_feeds_survive_a_killed_leader_and_a_new_worker(
    settings: Settings, start_exchange: Callable[..., ExchangeUnderTest], tmp_path: Path
) -> None:
    exchange = start_exchange(start="2024-08-05T00:00:00Z", speed=SPEED)
    own = fed(settings, exchange, "both", SPEED)
    await topics.ensure(own)
    workers = [one_of_many(own, number, tmp_path) for number in range(3)]
    with ExitStack() as running:

        def start(number: int) -> Program:
            return running.enter_context(worker(workers[number], tmp_path / f"worker{number}.log"))

        programs = [start(0), start(1)]
        await are_ready(workers[:2])
        await flow(own, programs, 40, await newest_ms(own), "ticks of both feeds")
        leader = await leading(workers[:2])
        counted_before = await skipped([workers[1 - leader]])
        programs[leader].process.kill()
        programs[leader].process.wait()
        last_ms = instants(await collected(own))[-1]
        living, places = [programs[1 - leader]], [workers[1 - leader], workers[2]]
        await flow(own, living, TAKEOVER_S, last_ms, "another leader")
        living.append(start(2))
        await are_ready(places)
        await flow(own, living, 40, await newest_ms(own), "ticks with the third")
        await assert_gaps_counted(own, places, counted_before, last_ms)
        await assert_all_is_there_once(own, exchange, living)
    assert "no worker led" in "".join(program.output() for program in living)
    assert all("Traceback" not in program.output() for program in [*programs, *living])
