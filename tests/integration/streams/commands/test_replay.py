"""`replay` and `dead-letters republish` on a real Kafka and HDFS, and a real worker that reads their records."""

import asyncio
import io
import shlex
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.schemas import RAW, column_names
from clients.kafka.ownership import only_member
from clients.kafka.reader import TopicReader
from clients.webhdfs import connect
from config import Settings
from marketdata.codec import encode
from marketdata.dead_letters import RepublishRecord
from marketdata.records import Candle, DeadLetter, FeatureRow, SourceState, Tick
from marketdata.times import from_rfc3339, to_datetime, to_rfc3339
from marketdata.topics import TOPICS, TopicRole
from marketdata.vocabulary import Reason
from streams.commands.replay import Copied, Source, replay
from streams.commands.republish import HEADER, dead_letter_id
from streams.kafka import topics
from streams.kafka.records import OutgoingRecord
from streams.kafka.sender import Sender
from streams.kafka.topics import TopicAdmin
from tests.integration.streams.agents.test_agents import START_MS, are_through, keyed, tick, walk
from tests.support.builders import dead_letter
from tests.support.stack import environment_of, eventually, eventually_async, free_ports, running
from tests.support.streams_worker import FAUST, command, decoded, everything, lines, send, without_exchanges, worker

Stored = dict[int, list[tuple[bytes | None, bytes | None]]]


async def on(settings: Settings, topic: str) -> Stored:
    """The records of a topic: partition to keys and values, in order."""
    found: Stored = defaultdict(list)
    async with TopicReader(settings.kafka, topic, wait_s=30.0) as reader:
        froms, ends = await reader.tails(None)
        async for record in reader.between(froms, ends):
            found[record.partition].append((record.key, record.value))
    return found


async def final_rows(settings: Settings) -> dict[tuple[str, str], FeatureRow]:
    """The newest revision of each row, renumbered: revisions count batches, which differ in a replay."""
    rows = sorted(await decoded(settings, TopicRole.FEATURES, FeatureRow), key=lambda row: row.revision)
    return {(row.symbol, row.timestamp): msgspec.structs.replace(row, revision=0) for row in rows}


def to_dead_letter(value: bytes, offset: int, reason: str, **changed: Any) -> DeadLetter:
    fields = {
        "field": "price",
        "value": "-1.0",
        "expected": "a number > 0",
        "topic": "",
        "partition": 1,
        "offset": offset,
    }
    return dead_letter(original=value, reason=reason, **{**fields, **changed})


async def test_a_worker_on_a_replay_makes_the_same_features(settings: Settings, tmp_path: Path) -> None:
    """The second worker is started with the printed variables, and has no access to the original time."""
    own = without_exchanges(settings)
    await topics.ensure(own)
    ticks = walk(1_200, seed=5)
    old = encode(tick("BTC-USD", START_MS - 86_400_000, 90.0))  # older than every timestamp that the worker remembers
    source = own.topic(TopicRole.TICKS).name
    await send(own, TopicRole.TICKS, [*keyed(ticks), (b"BTC-USD", b"garbage")])
    (partition,) = {one.partition for one in await everything(own, TopicRole.TICKS) if one.key == b"BTC-USD"}
    refused = to_dead_letter(old, 1, "future", topic=source, partition=partition)
    await send(own, TopicRole.DEAD_LETTERS, [(b"BTC-USD", encode(refused))])
    with worker(own, tmp_path / "first.log") as program:

        async def through() -> bool:
            program.check_running()
            return await are_through(own, ticks)

        await eventually_async(through, 40, "the ticks are through")
        copy = f"{own.topics.prefix}again-{TOPICS[TopicRole.TICKS].name}"
        (result,) = lines(command(own, "replay", "ticks", copy, "--json"))
        assert (result["delivered"], result["left_out"]) == (1_201, 0)
        assert await on(own, copy) == await on(own, source)
        expected = await final_rows(own)

        (sent,) = lines(command(own, "dead-letters", "republish", "--reason", "future", "--json"))
        assert (sent["sent"], sent["already_sent"]) == (1, 0)

        async def republished() -> bool:
            return len(await everything(own, TopicRole.TICKS_CLEAN)) == len(ticks) + 1

        await eventually_async(republished, 20, "the letter's tick is clean")
    assert [one.value for one in await everything(own, TopicRole.TICKS_CLEAN)].count(old) == 1
    assert len(await everything(own, TopicRole.DEAD_LETTERS)) == 2  # the dead letter, and the garbage

    words = dict(word.split("=", 1) for word in shlex.split(result["worker"]))
    assert words["BDI_TOPICS__PREFIX"] == f"{own.topics.prefix}again-"
    own_places = {"BDI_STREAMS__DATA_DIR": str(tmp_path / "again"), "BDI_STREAMS__WEB_PORT": str(free_ports(1)[0])}
    again = own.model_copy(update={"topics": own.topics.model_copy(update={"prefix": words["BDI_TOPICS__PREFIX"]})})
    started = environment_of(settings) | words | own_places
    with running([*FAUST, "worker", "-l", "info"], tmp_path / "second.log", started) as second:

        async def replayed() -> bool:
            second.check_running()
            return await are_through(again, ticks)

        await eventually_async(replayed, 40, "the replayed ticks are through")
    got = await final_rows(again)
    assert got.keys() == expected.keys()
    for identity, row in expected.items():
        for name, value in flat(row).items():
            wanted = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
            assert flat(got[identity])[name] == wanted, (identity, name)
    assert "no polling: no source is enabled" in second.output()


def flat(row: FeatureRow) -> dict[str, Any]:
    plain = msgspec.to_builtins(row)
    windows = plain.pop("windows")
    return plain | {f"{window}.{name}": value for window, fields in windows.items() for name, value in fields.items()}


async def test_a_range_is_copied_into_empty_topics_only(settings: Settings) -> None:
    await topics.ensure(settings)
    ticks = walk(120, seed=6)
    source, target = settings.topic(TopicRole.TICKS).name, f"{settings.topics.prefix}range"
    await send(settings, TopicRole.TICKS, [*keyed(ticks), (b"BTC-USD", b"garbage"), (None, b"")])
    stored = await on(settings, source)
    since, until = START_MS + 62_000, START_MS + 70_000
    span = ("--from", to_rfc3339(since), "--to", to_rfc3339(until))
    chosen = {encode(one) for one in ticks if since <= one.timestamp_ms < until}

    (result,) = lines(command(settings, "replay", source, target, *span, "--json"))
    assert (result["delivered"], result["left_out"], result["untimed"]) == (len(chosen), 122 - len(chosen), 2)
    wanted = {number: [one for one in records if one[1] in chosen] for number, records in stored.items()}
    assert await on(settings, target) == {number: records for number, records in wanted.items() if records}
    assert result["worker"].startswith("BDI_TOPICS__PREFIX='' BDI_TOPICS__NAMES=")
    like = topics.TopicPolicy(target, settings.kafka.partitions, 1, settings.topic(TopicRole.TICKS).config)
    async with TopicAdmin(settings.kafka) as admin:
        assert await admin.drift([like]) == []

    refused = command(settings, "replay", source, target, code=1).stderr
    assert f"{target!r}: expected a topic that never held a record" in refused
    number, records = next((number, records) for number, records in stored.items() if len(records) > 5)
    part = f"{settings.topics.prefix}part"
    done = command(settings, "replay", "ticks", part, "--offsets", f"{number}:2:5", "--by", "arrival")
    assert done.stdout.startswith(f"3 records delivered to {part} (3 in partition {number}); 0 left out")
    assert "progress: records read 3/3" in done.stderr
    assert await on(settings, part) == {number: records[2:5]}


@pytest.mark.parametrize(
    ("words", "expected", "code"),
    [
        (("ticks", "a b"), "target: 'a b': expected a topic name", 2),
        (("ticks_clean", "ticks_clean"), "expected another topic than the source", 2),
        (("raw_data", "x"), "range: 'all': expected a range in which", 1),
        (("ticks", "x", "--offsets", "0:1:2"), "--offsets: '0:1:2': expected a rising range within 0:0", 2),
    ],
)
async def test_an_invalid_replay_fails_with_one_line(
    settings: Settings, words: Sequence[str], expected: str, code: int
) -> None:
    await topics.ensure(settings)
    (line,) = [
        line for line in command(settings, "replay", *words, code=code).stderr.splitlines() if "progress:" not in line
    ]
    assert expected in line


async def test_an_interrupted_replay_is_reported_as_incomplete(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    await topics.ensure(settings)
    target = f"{settings.topics.prefix}cut"

    async def records() -> AsyncIterator[tuple[int | None, OutgoingRecord]]:
        for _number in range(3):
            yield None, (b"BTC-USD", b"x", ())
        raise asyncio.CancelledError  # as Ctrl-C does

    half = object.__new__(replay)
    half.app = SimpleNamespace(settings=settings)
    with pytest.raises(asyncio.CancelledError):
        await half._copy(Source("all", "all", TopicRole.TICKS, 4, records()), target, Copied())
    assert f"replay: {target} is incomplete" in capsys.readouterr().err
    assert "never held a record, but it held 3" in command(settings, "replay", "candles", target, code=1).stderr


async def test_ctrl_c_ends_a_command_cleanly(settings: Settings, tmp_path: Path) -> None:
    await topics.ensure(settings)
    await send(settings, TopicRole.TICKS, keyed(walk(1, seed=7)))
    follow = [*FAUST, "tail", "ticks", "-f", "--json"]
    with running(follow, tmp_path / "tail.log", environment_of(settings), end=signal.SIGINT) as program:
        eventually(lambda: "tick_id" in program.output(), 30, "the tick is shown")
    assert program.process.returncode == 130
    assert len(program.output().splitlines()) == 1


def in_hdfs(settings: Settings, ticks: Sequence[Tick]) -> None:
    """Write the ticks in the layout of the batch jobs: one file per hour, sorted by market."""
    types = {"timestamp": pa.timestamp("us", "UTC"), "flags": pa.list_(pa.string())}
    types |= {name: pa.timestamp("us", "UTC") for name in column_names(RAW) if name.endswith(("_at", "_timestamp"))}
    hours: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in sorted(ticks, key=lambda one: (one.symbol, one.timestamp)):
        row = msgspec.to_builtins(one)
        for source, state in row.pop("sources").items():
            row |= {f"{source}_{name}": value for name, value in state.items()}
        for name in types.keys() - {"flags"}:
            if row.get(name) is not None:
                row[name] = to_datetime(from_rfc3339(row[name]))
        at = to_datetime(one.timestamp_ms)
        hours[f"date={at:%Y-%m-%d}/hour={at.hour}"].append(row)
    client = connect(settings.hdfs)
    for hour, rows in hours.items():
        columns = {name: pa.array([row.get(name) for row in rows], types.get(name)) for name in column_names(RAW)}
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        client.write(f"{settings.hdfs.raw_data}/{hour}/ticks.parquet", data=buffer.getvalue())


async def test_ticks_of_hdfs_are_replayed_byte_for_byte(settings: Settings) -> None:
    await topics.ensure(settings)
    state = SourceState(
        status="ok",
        observed_at=to_rfc3339(START_MS - 5_001),
        received_at=to_rfc3339(START_MS + 7),
        staleness_ms=5_008,
    )
    ticks = [
        msgspec.structs.replace(
            tick(symbol, START_MS + minute * 60_000, 0.1 + minute / 3),
            trade_timestamp=None if minute % 2 else to_rfc3339(START_MS - 1),
            flags=("stale_binance", "divergent") if minute == 3 else (),
            n_updates=None if minute % 2 else minute,
            sources={"coingecko": SourceState(status="timeout"), "binance": state} if minute % 3 else {},
        )
        for minute in range(0, 200, 7)
        for symbol in ("BTC-USD", "BTC-EUR", "ETH-USD")
    ]
    in_hdfs(settings, ticks)
    await send(settings, TopicRole.TICKS_CLEAN, keyed(ticks))  # to get the partitions of these keys
    whole, part = f"{settings.topics.prefix}whole-cryptoTopic", f"{settings.topics.prefix}part-cryptoTopic"
    done = command(settings, "replay", "raw_data", whole)
    assert done.stdout.startswith(f"{len(ticks)} records delivered to {whole}")
    assert "progress: hours replayed 4/4" in done.stderr
    of_symbol = {one.symbol.encode(): 0 for one in ticks}
    expected = await on(settings, settings.topic(TopicRole.TICKS_CLEAN).name)
    got = await on(settings, whole)
    assert got.keys() == expected.keys()
    for number, records in expected.items():
        for key in of_symbol:
            assert [one for one in got[number] if one[0] == key] == [one for one in records if one[0] == key]
    since, until = START_MS + 3_600_000, START_MS + 7_000_000
    command(settings, "replay", "raw_data", part, "--from", to_rfc3339(since), "--to", to_rfc3339(until))
    values = {value for records in (await on(settings, part)).values() for _key, value in records}
    assert values == {encode(one) for one in ticks if since <= one.timestamp_ms < until}


async def test_each_dead_letter_is_republished_once(settings: Settings) -> None:
    settings = without_exchanges(settings)  # and without their clock
    await topics.ensure(settings)
    source = settings.topic(TopicRole.TICKS).name
    good = [encode(tick("BTC-USD", START_MS + number * 1_000, 100.0)) for number in range(4)]
    candle = encode(
        Candle(symbol="BTC-USD", open_time=to_rfc3339(START_MS), open=1.0, high=2.0, low=1.0, close=2.0, volume=0.0)
    )
    letters = [
        to_dead_letter(good[0], 1, "future", topic=source),
        to_dead_letter(good[0], 1, "future", topic=source),  # refused again after a crash: the same dead letter
        to_dead_letter(good[1], 2, "future", topic=source),
        to_dead_letter(good[2], 3, "unexpected", topic=source),
        to_dead_letter(good[3], 4, "unexpected", topic=source),
        to_dead_letter(b"{", 5, "json", topic=source, field="payload"),
        to_dead_letter(good[3], 6, "key", topic=source, key="\ufffd"),
        to_dead_letter(good[3], 7, "key", topic="elsewhere"),
        to_dead_letter(good[3], 7, "partition", topic=source, partition=99),  # the topic had more partitions before
        to_dead_letter(candle, 8, "type", topic=settings.topic(TopicRole.CANDLES).name),
        to_dead_letter(candle[:-1], 9, "type", topic=settings.topic(TopicRole.CANDLES).name),
    ]
    await send(settings, TopicRole.DEAD_LETTERS, [(b"BTC-USD", encode(one)) for one in letters])
    # An interrupted run had begun with two: the first was delivered, the second was not.
    policy = topics.republish_policy(settings)
    async with TopicAdmin(settings.kafka) as admin:
        await admin.create([policy])
    async with Sender(settings.kafka) as sender:
        for one in letters[3:5]:
            note = RepublishRecord(letter=dead_letter_id(one), state="begun", topic=source, partition=1, offset=0)
            await sender.publish(policy.name, [(note.letter.encode(), msgspec.json.encode(note), ())])
        await sender.send(source, (b"BTC-USD", good[2], ((HEADER, dead_letter_id(letters[3]).encode()),)), 1)
        await sender.flush()

    def counts(*words: str) -> dict[str, tuple[int, ...]]:
        names = ("would_send" if "--dry-run" in words else "sent", "still_bad", "already_sent", "not_restorable")
        rows = lines(command(settings, "dead-letters", "republish", *words, "--json"))
        return {row["reason"]: tuple(row[name] for name in names) for row in rows}

    expected = {"future": (2, 0, 0, 0), "json": (0, 1, 0, 0), "key": (0, 0, 0, 2), "partition": (0, 0, 0, 1)}
    expected |= {"type": (1, 1, 0, 0), "unexpected": (1, 0, 1, 0)}
    assert counts("--dry-run") == expected
    assert len((await on(settings, source))[1]) == 1
    assert counts("--reason", "future", "--to", to_rfc3339(START_MS)) == {}
    assert counts() == expected
    assert counts("--topic", "ticks") == {
        "future": (0, 0, 2, 0),
        "json": (0, 1, 0, 0),
        "key": (0, 0, 0, 1),
        "partition": (0, 0, 0, 1),
        "unexpected": (0, 0, 2, 0),
    }
    assert (await on(settings, source)) == {1: [(b"BTC-USD", good[number]) for number in (2, 0, 1, 3)]}
    assert counts("--force", "--field", "payload") == {"json": (1, 0, 0, 0)}
    assert counts("--force") == {
        "future": (0, 0, 2, 0),
        "json": (0, 0, 1, 0),
        "key": (0, 0, 0, 2),
        "partition": (0, 0, 0, 1),
        "type": (1, 0, 1, 0),
        "unexpected": (0, 0, 2, 0),
    }
    assert await on(settings, settings.topic(TopicRole.CANDLES).name) == {
        1: [(b"BTC-USD", candle), (b"BTC-USD", candle[:-1])]
    }
    assert [value for _key, value in (await on(settings, source))[1]][4:] == [b"{"]
    records = await everything(settings, TopicRole.TICKS)
    assert records[1].headers == ((HEADER, dead_letter_id(letters[0]).encode()),)
    error = command(settings, "dead-letters", "--force", code=2).stderr
    assert error == "dead-letters: --force: 'list': expected the action republish with this option\n"


async def test_two_runs_of_republish_exclude_each_other(settings: Settings) -> None:
    settings = without_exchanges(settings)
    await topics.ensure(settings)
    good = encode(tick("BTC-USD", START_MS, 100.0))
    letter = to_dead_letter(good, 1, "future", topic=settings.topic(TopicRole.TICKS).name)
    await send(settings, TopicRole.DEAD_LETTERS, [(b"BTC-USD", encode(letter))])
    name, group = topics.republish_policy(settings).name, f"{settings.streams.app_id}-republish"
    async with only_member(settings.kafka, name, group, 10.0):
        error = (await asyncio.to_thread(command, settings, "dead-letters", "republish", code=1)).stderr
    assert f"group: {group}: expected no other member" in error
    assert await everything(settings, TopicRole.TICKS) == []
    (row,) = lines(command(settings, "dead-letters", "republish", "--json"))
    assert row["sent"] == 1


def test_an_unknown_reason_is_refused_with_the_known_ones(settings: Settings) -> None:
    error = command(settings, "dead-letters", "--reason", "foo", code=2).stderr
    assert "'foo'" in error
    assert all(reason in error for reason in Reason)
