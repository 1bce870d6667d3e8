"""The predictor that runs for months: watches hourly rows, predicts each next hour once, scores, retrains.

What was published is known from the topics themselves: they are read when a market becomes ours to serve, and again
when the outcome of a send is not known.
"""

import asyncio
import logging

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from clients.clock import Clock
from clients.kafka.connection import close_client
from clients.webhdfs import Storage
from config.settings import Settings
from forecasting.data.hourly_grid import to_hours
from forecasting.data.hourly_store import HourlyStore
from forecasting.data.samples import WEEK_H, Samples, build_samples
from forecasting.evaluation import plots
from forecasting.evaluation.scoring import WAIT_H, known_truths, score
from forecasting.registry.versions import Registry, model_of
from forecasting.serving import kafka
from forecasting.serving.market_state import TAIL_HOURS, Market
from forecasting.serving.predictor import forecast_set, newest_hour
from forecasting.serving.threads import in_thread
from forecasting.training.child import TrainingChild
from marketdata.codec import encode
from marketdata.errors import ForecastError, RetryableSourceError, StorageError
from marketdata.records import Prediction, Score
from marketdata.times import HOUR_MS, from_rfc3339, to_rfc3339
from marketdata.topics import TopicRole

log = logging.getLogger(__name__)

ROWS_AN_HOUR = 4
RETRY_TRAINING_H = 6


class PredictorService:
    """See the module.

    Args:
        settings: the whole tree.
        storage: HDFS.
        clock: event time.
    """

    def __init__(self, settings: Settings, storage: Storage, clock: Clock) -> None:
        self._settings = settings
        self._storage = storage
        self._clock = clock
        self._turns: kafka.Turns | None = None
        self._predictions = settings.topic(TopicRole.PREDICTIONS).name
        self._scores = settings.topic(TopicRole.PREDICTION_SCORES).name
        self._markets = [
            Market(
                symbol,
                HourlyStore(storage, settings.hdfs.hourly_metrics, symbol),
                Registry(storage, settings.hdfs.models, symbol),
            )
            for symbol in settings.forecasting.symbols
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set.

        Raises:
            ForecastError: the broker or the topics are not there in time.
        """
        own, wait_s = self._settings.kafka, self._settings.hdfs.wait_s
        await kafka.tail(own, self._scores, Score, 0, wait_s)  # both topics are waited for
        group = f"{self._settings.topics.prefix}forecasting"
        self._turns = turns = await kafka.Turns.join(own, self._predictions, group, wait_s)
        try:
            producer = await kafka.start_producer(own, wait_s)
        except BaseException:
            await turns.leave()
            raise
        log.info("serving symbols=%s", ",".join(m.symbol for m in self._markets))
        try:
            while not stop.is_set():
                for market in self._markets:
                    if not turns.has(market.key):
                        await self._yield(market)
                        continue
                    try:
                        await self._look(market, producer)
                    except KafkaError as error:
                        # Whether the broker took it is not known, and a later send of this producer may be refused.
                        log.warning("symbol=%s publishing failed, the topics are read: %s", market.symbol, error)
                        market.remembered = False
                        producer = await self._renewed(producer)
                try:
                    await asyncio.wait_for(stop.wait(), self._settings.forecasting.poll_s)
                except TimeoutError:
                    continue
        finally:
            for market in self._markets:
                if market.child is not None:
                    await market.child.stop()
            await asyncio.gather(close_client(producer, kafka.CLOSING_S), turns.leave())

    async def _renewed(self, producer: AIOKafkaProducer) -> AIOKafkaProducer:
        """A fresh producer in place of one that failed, however long the broker is away."""
        await close_client(producer)
        while True:
            try:
                return await kafka.start_producer(self._settings.kafka, self._settings.hdfs.wait_s)
            except ForecastError as error:
                log.warning("%s; tried again", error)

    async def _publish(
        self, market: Market, topic: str, record: Prediction | Score, producer: AIOKafkaProducer
    ) -> None:
        if self._turns is None or not self._turns.has(market.key):
            raise ForecastError(f"{market.symbol}: given to another predictor meanwhile: expected to be ours")
        await producer.send_and_wait(topic, encode(record), key=market.key)

    async def _yield(self, market: Market) -> None:
        """Another predictor serves the market: this one stands by."""
        if market.remembered or market.child is not None:
            log.info("symbol=%s is served by another predictor now", market.symbol)
        market.remembered = False
        if market.child is not None:
            await market.child.stop()
            market.child = None

    async def _remember(self, market: Market) -> None:
        """What is published and scored of a market, from the tails of the topics."""
        count = TAIL_HOURS * ROWS_AN_HOUR * len(self._markets)
        own, wait_s = self._settings.kafka, self._settings.hdfs.wait_s
        scores = await kafka.tail(own, self._scores, Score, count, wait_s, key=market.key)
        predictions = await kafka.tail(own, self._predictions, Prediction, count, wait_s, key=market.key)
        market.remember(predictions, scores)

    async def _look(self, market: Market, producer: AIOKafkaProducer) -> None:
        """One poll of one market; what fails now is tried again at the next.

        Raises:
            KafkaError: something may have been published or not.
        """
        try:
            if not market.remembered:
                await self._remember(market)
            self._tend_training(market)
            if await in_thread(market.store.refresh):
                market.samples = await in_thread(lambda: self._build(market))
                market.unscored = True
            if market.samples is None:
                return
            if market.unscored:
                await self._score(market, market.samples, producer)
                market.unscored = False
            await self._predict(market, market.samples, producer)
            await self._retrain_if_due(market, market.samples)
        except (StorageError, ForecastError, RetryableSourceError) as error:
            log.warning("symbol=%s look failed, will be made again: %s", market.symbol, error)

    def _build(self, market: Market) -> Samples | None:
        forecasting = self._settings.forecasting
        table = market.store.table(forecasting.train_hours + forecasting.sequence_h + WEEK_H)
        if table.num_rows == 0:
            return None
        hours = to_hours(table, market.symbol)
        return build_samples(hours, sequence_h=forecasting.sequence_h, horizon_h=forecasting.horizon_h)

    async def _predict(self, market: Market, samples: Samples, producer: AIOKafkaProducer) -> None:
        at = newest_hour(samples)
        if at is None:
            return
        hour_end_ms = int(samples.hours.start_ms[at]) + HOUR_MS
        fresh = hour_end_ms > market.handled_ms
        if not fresh and market.loaded is not None:
            return
        promoted = await market.load_champion()
        if not fresh and not promoted:
            return
        await market.load_challengers()
        demoted = market.demotion()
        forecasting = self._settings.forecasting
        target_end_ms = hour_end_ms + forecasting.horizon_h * HOUR_MS
        now_ms = await in_thread(self._clock.now_ms)
        if now_ms >= target_end_ms:
            log.warning(
                "symbol=%s target_end=%s is over at now=%s: nothing is issued",
                market.symbol,
                to_rfc3339(target_end_ms),
                to_rfc3339(now_ms),
            )
            market.handled_ms = hour_end_ms
            return
        outlook = await in_thread(
            lambda: forecast_set(
                samples,
                at,
                market.loaded,
                forecasting,
                issued_at_ms=now_ms,
                demoted=demoted,
                challengers=tuple(market.challengers.values()),
            )
        )
        for prediction in outlook.predictions:
            if not market.is_published(prediction):
                await self._issue(market, prediction, producer)
        market.handled_ms = hour_end_ms
        if outlook.champion_run is not None:
            title = f"{market.symbol}: next hour's average price, {market.loaded.version.name if market.loaded else ''}"
            picture = await in_thread(lambda: plots.draw(outlook.champion_run, samples, title))  # type: ignore[arg-type]
            await in_thread(lambda: self._show(picture))

    def _show(self, picture: bytes) -> None:
        path = self._settings.forecasting.plot_path
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(picture)
        fresh.replace(path)

    async def _issue(self, market: Market, prediction: Prediction, producer: AIOKafkaProducer) -> None:
        issued_at_ms = await in_thread(self._clock.now_ms)  # the forecast itself may have taken minutes of event time
        if issued_at_ms >= from_rfc3339(prediction.target_end):
            log.warning("prediction=%s its target is over: not issued", prediction.prediction_id)
            return
        prediction = msgspec.structs.replace(prediction, issued_at=to_rfc3339(issued_at_ms))
        await self._publish(market, self._predictions, prediction, producer)
        market.note_prediction(prediction)
        log.info(
            "predicted id=%s role=%s price=%.2f lower=%.2f upper=%.2f n_calib=%d stale_reason=%s",
            prediction.prediction_id,
            prediction.role,
            prediction.pred_avg_price,
            prediction.lower,
            prediction.upper,
            prediction.n_calib,
            prediction.stale_reason,
        )

    async def _score(self, market: Market, samples: Samples, producer: AIOKafkaProducer) -> None:
        hours = samples.hours
        ready, given_up = known_truths(market.pending.values(), hours)
        for prediction in given_up:
            log.warning("prediction=%s no live hour came in %d h: not scored", prediction.prediction_id, WAIT_H)
            del market.pending[prediction.prediction_id]
        for prediction, at in ready:
            made = score(
                prediction,
                actual=float(hours.avg_price[at]),
                n_ticks=int(hours.n_ticks[at]),
                coverage=float(hours.coverage[at]),
                scored_at_ms=await in_thread(self._clock.now_ms),
            )
            await self._publish(market, self._scores, made, producer)
            del market.pending[prediction.prediction_id]
            market.note_score(made)
            log.info(
                "scored id=%s error_bps=%.2f last_price_error_bps=%.2f covered=%s pinball_bps=%.2f",
                prediction.prediction_id,
                made.error_bps,
                made.last_price_error_bps,
                made.covered,
                made.pinball_bps,
            )

    @staticmethod
    def _tend_training(market: Market) -> None:
        """Note the end of a training; what it promoted is loaded with the next forecast."""
        if market.child is not None and market.child.exit_code is not None:
            log.info(
                "symbol=%s training of %s ended exit_code=%s", market.symbol, market.child.model, market.child.exit_code
            )
            market.child = None

    async def _retrain_if_due(self, market: Market, samples: Samples) -> None:
        forecasting, end_ms = self._settings.forecasting, samples.hours.end_ms
        if market.child is not None or len(samples.anchors) < forecasting.calibration_hours:
            return
        newest = dict(market.challengers)
        if market.loaded is not None:
            newest[model_of(market.loaded.version.name)] = market.loaded
        for model in dict.fromkeys([forecasting.model, *forecasting.challengers]):
            made = newest.get(model)
            due_ms = 0 if made is None else made.version.trained_through_ms + forecasting.retrain_every_h * HOUR_MS
            if end_ms < due_ms or end_ms - market.tried_ms.get(model, 0) < RETRY_TRAINING_H * HOUR_MS:
                continue
            market.tried_ms[model] = end_ms
            market.child = await TrainingChild.start(market.symbol, model)
            log.info("symbol=%s training of %s started through=%s", market.symbol, model, to_rfc3339(end_ms))
            return
