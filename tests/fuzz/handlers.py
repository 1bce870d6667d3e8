"""Whole handlers of records, without Kafka: each takes a batch of cases and counts what became of them.

A handler raises only if something escapes that is not declared.
"""

import asyncio
import io
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self, TextIO
from unittest.mock import patch

import msgspec
from aiokafka.structs import ConsumerRecord, TopicPartition
from prometheus_client import CollectorRegistry, generate_latest

from batch.spark.dead_letters import DeadLetterWriter
from batch.sql.parse import CANDLE, TICK
from clients.kafka.reader import TopicReader
from config.sections import ForecastingSettings
from devstack.events import EventReporter
from forecasting.data.hourly_store import HourlyStore
from forecasting.registry.versions import Registry
from forecasting.serving import kafka
from forecasting.serving.market_state import MarketState
from marketdata.bounds import MAX_RECORD_BYTES
from marketdata.codec import decode, encode
from marketdata.errors import DecodeError
from marketdata.printable import printable
from marketdata.records import RECORDS, DeadLetter, Prediction, Score
from marketdata.topics import TOPICS, TopicRole
from streams.agents.clean_agent import CleanAgent
from streams.agents.features_agent import FeaturesAgent
from streams.collection import candles, last_tick
from streams.commands import arguments, republish, show
from streams.commands.dead_letters import dead_letters as dead_letters_command
from streams.kafka import delivered_offsets
from streams.kafka.records import OutgoingRecord
from streams.metrics import Metrics
from streams.views import responses
from streams.views.exposition import ReadModelCollector
from streams.views.pages import Views
from tests.fuzz.cases import HOURS, NOW_MS, Case, republish_record
from tests.support.fake_clock import FakeClock
from tests.support.forecasting_hours import month_files, walk
from tests.support.memory_storage import MemoryStorage
from tests.support.stack import settings_with

KAFKA_LIMIT = 1_048_576
"""Bytes of a request (`max.request.size`) and of a record batch."""
_OVERHEAD = 512  # of a record and its batch
SYMBOL = "BTC-USD"


class Handler:
    """Handles batches of cases of the topics `roles`."""

    roles: tuple[TopicRole, ...] = tuple(TopicRole)

    def __init__(self) -> None:
        self.settings = settings_with({})
        self.clock = FakeClock(NOW_MS)
        self.outcomes: Counter[str] = Counter()
        self.offset = 0

    def records(self, batch: Sequence[Case]) -> list[tuple[TopicRole, ConsumerRecord]]:
        found = []
        for case in batch:
            found.append((case.role, case.record(self.settings.topic(case.role).name, self.offset)))
            self.offset += 1
        return found

    async def handle(self, batch: Sequence[Case]) -> None:
        raise NotImplementedError


class Codec(Handler):
    """`marketdata.codec.decode` of every record, and `encode` of what passes."""

    async def handle(self, batch: Sequence[Case]) -> None:
        for case in batch:
            cls = RECORDS[TOPICS[case.role].record]
            try:
                record = decode(cls, case.value)
            except DecodeError as error:
                self.outcomes[error.reason] += 1
                continue
            self.outcomes["decoded"] += 1
            assert decode(cls, encode(record)) == record


class _Table(dict[bytes, bytes]):
    async def flush_changelog(self) -> None:
        assert all(len(key) + len(value) + _OVERHEAD < KAFKA_LIMIT for key, value in self.items())


class _Producer:
    """Checks that each record fits Kafka's limits, and keeps it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, OutgoingRecord]] = []

    async def send_many(
        self, topic: str, _partition: int, records: Sequence[OutgoingRecord]
    ) -> list[asyncio.Future[None]]:
        for key, value, headers in records:
            size = len(key or b"") + len(value or b"") + sum(len(name) + len(text) for name, text in headers)
            assert size + _OVERHEAD < KAFKA_LIMIT, f"{topic}: {size} bytes"
            self.sent.append((topic, (key, value, headers)))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return [future]


class Clean(Handler):
    """The clean agent: each record is a tick, a duplicate, or a dead letter that can be decoded."""

    roles: tuple[TopicRole, ...] = (TopicRole.TICKS,)
    agent_of: Any = CleanAgent

    def __init__(self) -> None:
        super().__init__()
        self.producer = _Producer()
        self.record_of = {self.settings.topic(role).name: RECORDS[topic.record] for role, topic in TOPICS.items()}
        self.agent = self.agent_of(self.settings, self.clock, Metrics(), _Table(), lambda: self.producer)

    async def handle(self, batch: Sequence[Case]) -> None:
        records = [record for _role, record in self.records(batch)]
        self.agent.delivered._delivered[0], self.agent.delivered._ends[0] = -1, self.offset
        self.producer.sent.clear()
        await self.agent.handle(0, records)
        name = self.settings.topic(TopicRole.DEAD_LETTERS).name
        letters = [decode(DeadLetter, record[1]) for topic, record in self.producer.sent if topic == name]
        self.outcomes.update(letter.reason for letter in letters)
        self.outcomes["accepted"] += len(batch) - len(letters)
        assert {letter.offset for letter in letters} <= {record.offset for record in records}
        for topic, (_key, value, _headers) in self.producer.sent:
            decode(self.record_of[topic], value)


class Features(Clean):
    """The features agent."""

    roles = (TopicRole.TICKS_CLEAN,)
    agent_of = FeaturesAgent


class Raw(Handler):
    """The Python side of `batch raw`: the reason of a record that Spark refused, and its dead letter."""

    roles = (TopicRole.TICKS_CLEAN, TopicRole.CANDLES)

    def __init__(self) -> None:
        super().__init__()
        self.writer = DeadLetterWriter(None, self.settings, lambda: NOW_MS)  # type: ignore[arg-type]

    async def handle(self, batch: Sequence[Case]) -> None:
        rows = [
            SimpleNamespace(
                kind=CANDLE if role is TopicRole.CANDLES else TICK,
                topic=raw.topic,
                partition=raw.partition,
                offset=raw.offset,
                key=None if raw.key is None else bytearray(raw.key),
                value=None if raw.value is None else bytearray(raw.value),
                error="refused by Spark",
            )
            for role, raw in self.records(batch)
        ]
        found = list(self.writer._encode(rows, Counter(), NOW_MS, NOW_MS))
        assert len(found) == len(batch)
        for key, value in found:
            assert len(key or b"") + len(value) + _OVERHEAD < KAFKA_LIMIT
            self.outcomes[decode(DeadLetter, bytes(value)).reason] += 1


class ScriptedReader(TopicReader):
    """A reader of records that a test sets."""

    scripted: Sequence[ConsumerRecord] = ()
    last: "ScriptedReader"

    async def __aenter__(self) -> Self:
        self.partitions = [TopicPartition(self.topic, 0)]
        type(self).last = self
        return self

    async def __aexit__(self, *_exception: object) -> None:
        return

    async def starts(self) -> dict[TopicPartition, int]:
        return dict.fromkeys(self.partitions, self.scripted[0].offset if self.scripted else 0)

    async def ends(self) -> dict[TopicPartition, int]:
        return dict.fromkeys(self.partitions, self.scripted[-1].offset + 1 if self.scripted else 0)

    async def between(
        self, froms: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> AsyncIterator[ConsumerRecord]:
        for tp in froms:
            for record in self.scripted:
                if froms[tp] <= record.offset < ends[tp]:
                    yield record


@contextmanager
def scripted(module: Any, records: Sequence[ConsumerRecord]) -> Iterator[None]:
    """Make a module read these records."""
    with patch.object(module, "TopicReader", ScriptedReader):
        ScriptedReader.scripted = records
        yield


class CandleCollection(Handler):
    """What candle collection and a new leader read from the topics, and an agent from its outputs."""

    roles = (TopicRole.CANDLES, TopicRole.TICKS)

    async def handle(self, batch: Sequence[Case]) -> None:
        own, records = self.settings.kafka, self.records(batch)
        written = [record for role, record in records if role is TopicRole.CANDLES]
        with scripted(candles, written):
            found = await candles.published_minutes(own, "candles", [SYMBOL, "ETH-USD"], NOW_MS)
            self.outcomes.update(ScriptedReader.last.skipped)
            self.outcomes["accepted"] += len(written) - ScriptedReader.last.skipped.total()
        for minutes in found.values():
            minutes.due(NOW_MS)
        ticks = [record for role, record in records if role is TopicRole.TICKS]
        for streamed in (True, False):
            with scripted(last_tick, ticks):
                newest_ms = await last_tick.newest_tick_ms(own, "ticks", NOW_MS, streamed=streamed)
            assert newest_ms is None or newest_ms < NOW_MS
        self.outcomes.update(ScriptedReader.last.skipped)
        self.outcomes["accepted"] += len(ticks) - ScriptedReader.last.skipped.total()
        with scripted(delivered_offsets, [record for _role, record in records]):
            await delivered_offsets.DeliveredOffsets(own, "ticks", "ticks-clean").load([0])


class Predictor(Handler):
    """The predictor and scorer: restores published records, scores what is pending, compares with HAR."""

    roles = (TopicRole.PREDICTIONS, TopicRole.PREDICTION_SCORES)

    def __init__(self) -> None:
        super().__init__()
        months = month_files(walk(HOURS, live=True))
        storage = MemoryStorage({f"hourly/{name}": data for name, data in months.items()})
        registry: Any = Registry(storage, "models", SYMBOL)  # type: ignore[arg-type]
        store = HourlyStore(storage, "hourly", SYMBOL)
        self.market = MarketState(SYMBOL, ForecastingSettings(), store, registry, self.clock)

    async def handle(self, batch: Sequence[Case]) -> None:
        records = self.records(batch)
        read: dict[TopicRole, list[Any]] = {}
        for role, cls in ((TopicRole.PREDICTIONS, Prediction), (TopicRole.PREDICTION_SCORES, Score)):
            own = [record for one, record in records if one is role]
            with scripted(kafka, own):
                read[role] = await kafka.tail(self.settings.kafka, role.value, cls, len(own), 0.0)
            self.outcomes.update(ScriptedReader.last.skipped)
            self.outcomes["accepted"] += len(read[role])
        await self.market.refresh()
        self.market.restore(read[TopicRole.PREDICTIONS], read[TopicRole.PREDICTION_SCORES])
        await self.market.score(self._publish)
        for name in ("m1", "har"):
            self.market._published.demotion(name)

    async def _publish(self, record: Prediction | Score) -> None:
        encode(record)
        self.outcomes["scored"] += 1


class ViewsFollower(Handler):
    """The views' follower with a listener, and after each batch every document and metric."""

    def __init__(self) -> None:
        super().__init__()
        clock: Any = self.clock
        self.views = Views(self.settings, clock)
        self._listening = self.views.hub.listen(SYMBOL)
        self.listener = self._listening.__enter__()
        self.metrics = CollectorRegistry()
        self.metrics.register(ReadModelCollector(self.views.read_model, self.views.now_ms, [SYMBOL]))

    async def handle(self, batch: Sequence[Case]) -> None:
        by_topic: dict[TopicPartition, list[ConsumerRecord]] = {}
        for _role, record in self.records(batch):
            by_topic.setdefault(TopicPartition(record.topic, 0), []).append(record)
        failures = self.views.follower.kafka.failures
        self.views.follower._process(by_topic)
        self.render()
        assert self.views.follower.kafka.failures == failures
        topics = self.views.read_model.topics.values()
        self.outcomes["applied"] = sum(topic.records for topic in topics)
        self.outcomes["undecodable"] = sum(topic.undecodable for topic in topics)
        self.outcomes["ahead of the clock"] = sum(topic.skipped for topic in topics)
        self.outcomes["unexpected"] = sum(topic.unexpected for topic in topics)

    def render(self) -> None:
        model = self.views.read_model
        health = self.views._health_document()
        documents = [
            health,
            responses.markets(model, NOW_MS),
            responses.features(model, SYMBOL),
            responses.history(model, SYMBOL, model.points),
            responses.predictions(model, None, 100),
            responses.scores(model, None, 100),
            responses.snapshot(model, SYMBOL, health, 100, is_forecast=True),
            responses.summary(model, model.symbols),
        ]
        assert len(msgspec.json.encode(documents)) < 100 * MAX_RECORD_BYTES
        generate_latest(self.metrics)


class Commands(Handler):
    """The commands: `tail`, `dead-letters`, `republish`, `features` and `predictions` on whatever the topics hold."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(1)

    async def handle(self, batch: Sequence[Case]) -> None:
        sink = io.StringIO()
        terminal = printing(sink)
        for role, raw in self.records(batch):
            cls = arguments.record_of(role)
            terminal._show(raw, cls, as_json=self.rng.random() < 0.5)
            with scripted(arguments, [raw]):
                found = await arguments.newest(self.settings, role, cls, None)
            self.outcomes.update(ScriptedReader.last.skipped)
            self.outcomes["accepted"] += len(found)
            for record in found:
                if isinstance(record, DeadLetter):
                    self.republish(record)
                    dead_letters_command._show_list(terminal, [record], as_json=False)
                    dead_letters_command._show_counts(terminal, [record], as_json=True)
            republish._ids_in(raw.headers)
            state = Case(role, None, republish_record(self.rng), NOW_MS, ()).record("republished", raw.offset)
            republish._republish_record(state)
        assert [line for line in sink.getvalue().split("\n") if printable(line) != line] == []

    def republish(self, letter: DeadLetter) -> None:
        known = republish.refusable_topics(self.settings)
        if republish.not_restorable(self.settings, letter, 1) is None:
            original = republish._original(republish.dead_letter_id(letter), letter)
            republish._refused(original, known[letter.topic], NOW_MS)


def printing(output: TextIO) -> show.tail:
    """A command, without its application, that prints to this stream."""
    made = show.tail.__new__(show.tail)
    made.stdout = output
    return made


class DemoEvents(Handler):
    """The demo's lines about predictions and scores."""

    roles = (TopicRole.PREDICTIONS, TopicRole.PREDICTION_SCORES)

    async def handle(self, batch: Sequence[Case]) -> None:
        lines: list[str] = []
        reporter = EventReporter(self.settings, lines.append, lambda: None)
        try:
            for _role, record in self.records(batch):
                reporter.handle(record)
        finally:
            await reporter.close()
        self.outcomes.update(reporter.skipped)
        self.outcomes["accepted"] += len(batch) - reporter.skipped.total()
        assert len(lines) == len(batch)
        assert [line for line in lines if printable(line) != line] == []


HANDLERS: dict[str, tuple[type[Handler], int]] = {
    "codec": (Codec, 20),
    "clean": (Clean, 15),
    "features": (Features, 15),
    "raw": (Raw, 10),
    "candle collection": (CandleCollection, 10),
    "predictor and scorer": (Predictor, 5),
    "views": (ViewsFollower, 15),
    "commands": (Commands, 5),
    "demo events": (DemoEvents, 5),
}
"""Handlers by name, each with its share of the cases in percent."""
