"""The predictor service: it schedules the updates of all markets it owns, until it is stopped.

Published records are known from the topics: they are read when a market is assigned to this predictor, and again when
the outcome of a send is unknown.
"""

import asyncio
import logging
from collections import Counter
from functools import partial

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from clients.clock import Clock
from clients.kafka.connection import close_client, start_producer
from clients.kafka.ownership import PartitionOwnership
from clients.kafka.status import StatusPublisher
from clients.kafka.topics import wait_for_topics
from clients.webhdfs import WebHdfs
from config.settings import Settings
from forecasting.data.hourly_store import HourlyStore
from forecasting.registry.versions import Registry
from forecasting.serving import kafka
from forecasting.serving.market_state import MarketState
from forecasting.serving.published_records import TAIL_HOURS
from marketdata.codec import encode
from marketdata.errors import BrokerError, ForecastError, RetryableSourceError, StorageError
from marketdata.records import Prediction, Score
from marketdata.topics import TopicRole
from marketdata.vocabulary import ProductPart

log = logging.getLogger(__name__)

RECORDS_PER_HOUR = 4
"""Predictions of one market and hour: champion, challenger and two baselines."""


class PredictorService:
    """The predictor service.

    Args:
        settings: all settings.
        storage: HDFS, with hourly rows and models.
        clock: event time.
        statuses: publishes the states of forecaster and trainer; None: they are not published.
    """

    def __init__(
        self, settings: Settings, storage: WebHdfs, clock: Clock, statuses: StatusPublisher | None = None
    ) -> None:
        self._settings = settings
        statuses = StatusPublisher(settings) if statuses is None else statuses
        self._forecaster = statuses.part(ProductPart.FORECASTER)
        self._trainer = statuses.part(ProductPart.TRAINER)
        self._problems: dict[str, str] = {}  # by market, of its last update
        self._n_trainings = 0
        self._ownership: PartitionOwnership | None = None
        self._unexpected: Counter[str] = Counter()
        self._predictions = settings.topic(TopicRole.PREDICTIONS).name
        self._scores = settings.topic(TopicRole.PREDICTION_SCORES).name
        self._markets = [
            MarketState(
                symbol,
                settings.forecasting,
                HourlyStore(storage, settings.hdfs.hourly_metrics, symbol),
                Registry(storage, settings.hdfs.models, symbol),
                clock,
            )
            for symbol in settings.forecasting.symbols
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set.

        Raises:
            BrokerError: no broker answers, or a topic does not exist, in time.
        """
        own, wait_s = self._settings.kafka, self._settings.hdfs.wait_s
        await wait_for_topics(own, [self._predictions, self._scores], wait_s, close_s=kafka.GRACEFUL_CLOSE_S)
        group = f"{self._settings.topics.prefix}forecasting"
        self._ownership = ownership = await PartitionOwnership.join(
            own, self._predictions, group, wait_s, close_s=kafka.GRACEFUL_CLOSE_S
        )
        try:
            producer = await self._start_producer()
        except BaseException:
            await ownership.leave()
            raise
        log.info("serving symbols=%s", ",".join(m.symbol for m in self._markets))
        try:
            while not stop.is_set():
                for market in self._markets:
                    producer = await self._serve(market, producer)
                self._report()
                try:
                    await asyncio.wait_for(stop.wait(), self._settings.forecasting.poll_s)
                except TimeoutError:
                    continue
        finally:
            for market in self._markets:
                await market.stop_training()
            await asyncio.gather(close_client(producer, kafka.GRACEFUL_CLOSE_S), ownership.leave())

    async def _start_producer(self) -> AIOKafkaProducer:
        wait_s = self._settings.hdfs.wait_s
        return await start_producer(self._settings.kafka, wait_s=wait_s, close_s=kafka.GRACEFUL_CLOSE_S)

    def _report(self) -> None:
        """Report the state of forecaster and trainer after an update of all markets."""
        owned = [market for market in self._markets if self._owns(market)]
        problems = [f"{one.symbol}: {self._problems[one.symbol]}" for one in owned if one.symbol in self._problems]
        waiting = [f"{one.symbol}: {one.waiting_for}" for one in owned if one.waiting_for is not None]
        n_trainings = sum(market.n_trainings for market in self._markets)
        if n_trainings > self._n_trainings:
            self._n_trainings = n_trainings
            self._trainer.succeeded()
        if not owned:
            self._forecaster.waiting("no market is assigned to this instance")
        elif problems:
            self._forecaster.failing(_first_of(problems))
        elif len(waiting) == len(owned):
            self._forecaster.waiting(_first_of(waiting))
        else:
            self._forecaster.succeeded()
        trainings = [f"{one.training} for {one.symbol}" for one in owned if one.training is not None]
        failing = [f"{one.failing_training} for {one.symbol}" for one in owned if one.failing_training is not None]
        if trainings:
            self._trainer.running(_first_of(trainings))
        elif failing:
            self._trainer.failing(f"the last training failed and is repeated later: {_first_of(failing)}")
        else:
            self._trainer.waiting("no training is due")

    def _owns(self, market: MarketState) -> bool:
        return self._ownership is not None and self._ownership.owns(market.key)

    async def _serve(self, market: MarketState, producer: AIOKafkaProducer) -> AIOKafkaProducer:
        """Update a market if this predictor owns it; return the producer for the next one."""
        if not self._owns(market):
            await market.release()
            return producer
        try:
            await self._update(market, producer)
        except KafkaError as error:
            # The broker may have the record or not, and this producer may not be able to send any more.
            log.warning("symbol=%s publishing failed, reading the topics again: %s", market.symbol, error)
            self._problems[market.symbol] = f"publishing failed: {error}"
            market.invalidate()
            return await self._new_producer(producer)
        return producer

    async def _update(self, market: MarketState, producer: AIOKafkaProducer) -> None:
        """One update of one market. After other errors than Kafka's, the next update retries.

        Raises:
            KafkaError: the outcome of a publication is unknown.
        """
        publish = partial(self._publish, market, producer)
        try:
            if not market.is_restored:
                await self._restore(market)
            market.check_training()
            await market.refresh()
            await market.score(publish)
            await market.predict(publish)
            await market.retrain()
            self._problems.pop(market.symbol, None)
        except (StorageError, ForecastError, BrokerError, RetryableSourceError) as error:
            log.warning("symbol=%s update failed, retrying: %s", market.symbol, error)
            self._problems[market.symbol] = str(error)
        except KafkaError:
            raise
        except Exception as error:
            self._unexpected[market.symbol] += 1
            self._problems[market.symbol] = repr(error)
            log.exception(
                "symbol=%s update failed unexpectedly (%d times since the start), retrying",
                market.symbol,
                self._unexpected[market.symbol],
            )

    async def _restore(self, market: MarketState) -> None:
        """Read the market's records from the ends of the topics."""
        count = TAIL_HOURS * RECORDS_PER_HOUR * len(self._markets)
        own, wait_s = self._settings.kafka, self._settings.hdfs.wait_s
        scores = await kafka.tail(own, self._scores, Score, count, wait_s, key=market.key)
        predictions = await kafka.tail(own, self._predictions, Prediction, count, wait_s, key=market.key)
        market.restore(predictions, scores)

    async def _publish(self, market: MarketState, producer: AIOKafkaProducer, record: Prediction | Score) -> None:
        """Send a record and wait for its acknowledgement.

        Raises:
            ForecastError: another predictor owns the market.
            KafkaError: the outcome of the send is unknown.
        """
        if not self._owns(market):
            raise ForecastError(f"{market.symbol}: owned by another predictor now: not published")
        topic = self._predictions if isinstance(record, Prediction) else self._scores
        await producer.send_and_wait(topic, encode(record), key=market.key)

    async def _new_producer(self, failed: AIOKafkaProducer) -> AIOKafkaProducer:
        """Replace a failed producer, waiting as long as the broker is away."""
        await close_client(failed)
        while True:
            try:
                return await self._start_producer()
            except BrokerError as error:
                log.warning("%s; retrying", error)


def _first_of(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{texts[0]} (and {len(texts) - 1} more)"
