"""The demo's event lines: predictions and scores as they are published, health changes, the end of the replay."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import httpx
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from clients.kafka.reader import TopicReader
from config import Settings
from devstack.status import collect_status
from marketdata.codec import decode
from marketdata.errors import BrokerError, DecodeError, StackError
from marketdata.numbers import format_number
from marketdata.printable import printable
from marketdata.records import Prediction, Score
from marketdata.times import to_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import Reason

_HEALTH_EVERY_S = 5.0
_RETRY_S = 5.0
_OPEN_S = 5.0


def _hour(start: str, end: str) -> str:
    return f"{start[:10]} {start[11:16]}–{end[11:16]}"


def format_prediction(prediction: Prediction) -> str:
    """Return one line of text."""
    low, high = format_number(prediction.lower), format_number(prediction.upper)
    stale = f", {prediction.stale_reason}" if prediction.stale_reason else ""
    return (
        f"prediction  {prediction.symbol} {_hour(prediction.target_start, prediction.target_end)}: "
        f"average {format_number(prediction.pred_avg_price)}, {prediction.interval_level:.0%} band "
        f"{low} … {high} ({prediction.role} {prediction.model_version}{stale})"
    )


def format_score(score: Score) -> str:
    """Return one line of text."""
    interval = "inside" if score.covered else "outside"
    revision = f", revision {score.revision}: its hour was rewritten" if score.revision else ""
    return (
        f"score       {score.symbol} {_hour(score.target_start, score.target_end)}: "
        f"actual {format_number(score.actual_avg_price)}, predicted {format_number(score.pred_avg_price)}, "
        f"error {score.error_bps:+.1f} bps (last-price baseline {score.last_price_error_bps:+.1f} bps), "
        f"{interval} the band ({score.role} {score.model_version}{revision})"
    )


class EventReporter:
    """Reports the predictions and scores that are published after `open`.

    Args:
        report: called with each line.
        first_prediction: called once, after the first prediction.
    """

    def __init__(self, settings: Settings, report: Callable[[str], None], first_prediction: Callable[[], None]) -> None:
        self._kafka = settings.kafka
        self._report = report
        self.skipped: Counter[str] = Counter()
        self._first_prediction: Callable[[], None] | None = first_prediction
        self._predictions = settings.topic(TopicRole.PREDICTIONS).name
        self._scores = settings.topic(TopicRole.PREDICTION_SCORES).name
        self._clients = AsyncExitStack()
        self._positions: list[tuple[TopicReader, dict[TopicPartition, int]]] = []

    async def open(self) -> None:
        """Connect, and start at the current ends of both topics.

        Raises:
            StackError: the broker does not answer, or a topic does not exist.
        """
        for topic in (self._predictions, self._scores):
            try:
                reader = await self._clients.enter_async_context(TopicReader(self._kafka, topic, wait_s=_OPEN_S))
                self._positions.append((reader, await reader.ends()))
            except (BrokerError, KafkaError, OSError) as error:
                raise StackError(
                    f"kafka.brokers: {self._kafka.brokers}: {topic} cannot be followed: {error}"
                ) from error

    async def follow(self) -> None:
        """Report each record until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reader, positions in self._positions:
                group.create_task(self._follow(reader, positions))

    async def _follow(self, reader: TopicReader, positions: dict[TopicPartition, int]) -> None:
        while True:
            try:
                async for record in reader.follow(positions):
                    positions[TopicPartition(record.topic, record.partition)] = record.offset + 1
                    self.handle(record)
            except KafkaError as error:  # aiokafka reconnects without an error; this is for the other errors
                self._report(f"{reader.topic} cannot be followed, retry in {_RETRY_S:g} s: {error!r}")
                await asyncio.sleep(_RETRY_S)

    def handle(self, record: ConsumerRecord) -> None:
        """Report one record. A record that cannot be read is reported with its reason, and counted in `skipped`."""
        try:
            if record.topic == self._scores:
                self._report(printable(format_score(decode(Score, record.value))))
                return
            self._report(printable(format_prediction(decode(Prediction, record.value))))
        except DecodeError as error:
            self._skip(record, error.reason, error)
            return
        except Exception as error:  # noqa: BLE001  one record must not end the demo's output
            self._skip(record, Reason.UNEXPECTED, error)
            return
        if self._first_prediction is not None:
            self._first_prediction()
            self._first_prediction = None

    def _skip(self, record: ConsumerRecord, reason: Reason, error: Exception) -> None:
        self.skipped[reason] += 1
        self._report(printable(f"{record.topic}: cannot read the record at offset {record.offset} ({reason}): {error}"))

    async def close(self) -> None:
        await self._clients.aclose()


async def follow_health(settings: Settings, parts: frozenset[str], report: Callable[[str], None]) -> None:
    """Report each change of a part's health until cancelled; all parts are assumed healthy at first."""
    healthy = dict.fromkeys(parts, True)
    while True:
        await asyncio.sleep(_HEALTH_EVERY_S)
        for name, part in (await collect_status(settings, with_reports=False)).items():
            if name in healthy and part["healthy"] != healthy[name]:
                healthy[name] = part["healthy"]
                state = "healthy again" if part["healthy"] else part["detail"]
                report(f"health      {name} at {part['address']}: {state}")


async def follow_replay(address: str, report: Callable[[str], None]) -> None:
    """Report once that the simulated exchange at `address` has replayed all its history, then return."""
    async with httpx.AsyncClient(trust_env=False, timeout=_HEALTH_EVERY_S) as client:
        while True:
            with suppress(httpx.HTTPError, ValueError):  # `follow_health` reports that it does not answer
                clock = (await client.get(f"{address}/control/clock")).json()
                if clock.get("ended"):
                    end = to_rfc3339(clock["end_ms"])
                    report(f"the replayed history ended at {end}; to replay it from the start: make clean demo")
                    return
            await asyncio.sleep(_HEALTH_EVERY_S)
