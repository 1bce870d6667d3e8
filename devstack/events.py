"""What the demo tells while it runs: predictions and scores as they are published, and health when it changes."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import httpx
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import ConsumerStoppedError, KafkaError

from clients.kafka.connection import client_options, close_client
from config import Settings
from devstack.status import collect_status
from marketdata.codec import decode
from marketdata.errors import DecodeError, StackError
from marketdata.records import Prediction, Score
from marketdata.times import to_rfc3339
from marketdata.topics import TopicRole

_HEALTH_EVERY_S = 5.0
_AGAIN_S = 5.0


def _hour(start: str, end: str) -> str:
    return f"{start[:10]} {start[11:16]}–{end[11:16]}"


def tell_prediction(prediction: Prediction) -> str:
    """One line for a person."""
    why = f", {prediction.stale_reason}" if prediction.stale_reason else ""
    return (
        f"prediction  {prediction.symbol} {_hour(prediction.target_start, prediction.target_end)}: "
        f"{prediction.pred_avg_price:,.2f}, {prediction.interval_level:.0%} within {prediction.lower:,.2f} … "
        f"{prediction.upper:,.2f} ({prediction.role} {prediction.model_version}{why})"
    )


def tell_score(score: Score) -> str:
    """One line for a person."""
    band = "inside its band" if score.covered else "outside its band"
    return (
        f"score       {score.symbol} {_hour(score.target_start, score.target_end)}: was {score.actual_avg_price:,.2f}, "
        f"predicted {score.pred_avg_price:,.2f}: {score.error_bps:+.1f} bp, last price "
        f"{score.last_price_error_bps:+.1f} bp, {band} ({score.role} {score.model_version})"
    )


class EventTeller:
    """Follows predictions and scores from where the topics end when it is opened.

    Args:
        tell: called with each line.
        first_prediction: called once, at the first prediction seen.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None], first_prediction: Callable[[], None]) -> None:
        self._tell = tell
        self._first_prediction: Callable[[], None] | None = first_prediction
        self._predictions = settings.topic(TopicRole.PREDICTIONS).name
        self._scores = settings.topic(TopicRole.PREDICTION_SCORES).name
        self._brokers = settings.kafka.brokers
        self._consumer = AIOKafkaConsumer(
            self._predictions, self._scores, **client_options(settings.kafka), enable_auto_commit=False
        )

    async def open(self) -> None:
        """Take the topics' present ends; both topics must be there.

        Raises:
            StackError: the broker does not tell them.
        """
        try:
            await self._consumer.start()
            await self._consumer.seek_to_end()
        except (KafkaError, OSError, TimeoutError) as error:
            topics = f"{self._predictions} and {self._scores}"
            raise StackError(f"kafka.brokers: {self._brokers}: {topics} cannot be followed: {error!r}") from error

    async def follow(self) -> None:
        """Tell each record until cancelled."""
        while True:
            try:
                record = await self._consumer.getone()
            except ConsumerStoppedError:
                return
            except KafkaError as error:  # aiokafka reconnects by itself; what it does not mend is tried again
                self._tell(f"predictions and scores cannot be followed, tried again: {error!r}")
                await asyncio.sleep(_AGAIN_S)
                continue
            try:
                if record.topic == self._scores:
                    self._tell(tell_score(decode(Score, record.value)))
                    continue
                self._tell(tell_prediction(decode(Prediction, record.value)))
            except DecodeError as error:
                self._tell(f"{record.topic}: offset {record.offset} cannot be read: {error}")
                continue
            if self._first_prediction is not None:
                self._first_prediction()
                self._first_prediction = None

    async def close(self) -> None:
        await close_client(self._consumer)


async def follow_health(settings: Settings, parts: frozenset[str], tell: Callable[[str], None]) -> None:
    """Tell a part's health whenever it changes, until cancelled; all are taken to be healthy at first."""
    healthy = dict.fromkeys(parts, True)
    while True:
        await asyncio.sleep(_HEALTH_EVERY_S)
        for name, part in (await collect_status(settings)).items():
            if name in healthy and part["healthy"] != healthy[name]:
                healthy[name] = part["healthy"]
                tell(
                    f"health      {name} at {part['address']}: {'healthy again' if part['healthy'] else part['detail']}"
                )


async def follow_replay(address: str, tell: Callable[[str], None]) -> None:
    """Tell once that the simulated exchange at `address` has played all its history."""
    async with httpx.AsyncClient(trust_env=False, timeout=_HEALTH_EVERY_S) as client:
        while True:
            with suppress(httpx.HTTPError, ValueError):  # its health is told by `follow_health`
                clock = (await client.get(f"{address}/control/clock")).json()
                if clock.get("ended"):
                    end = to_rfc3339(clock["end_ms"])
                    tell(
                        f"the replayed history ends at {end}: the exchange's clock stands still; anew: make clean demo"
                    )
                    return
            await asyncio.sleep(_HEALTH_EVERY_S)
