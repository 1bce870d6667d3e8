"""The predictor that runs for months: watches hourly rows, predicts each next hour once, scores, retrains.

What was published is known from the topics themselves: they are read when a market becomes ours to serve, and again
when the outcome of a send is not known. Everything that takes long (HDFS, the net) runs in daemon threads, so that a
stop takes effect at once.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from config.clock import Clock
from config.kafka import close_client
from config.settings import Settings
from forecasting import kafka, plots
from forecasting.dataset import HourlyStore, to_hours
from forecasting.predictor import look_ahead, newest_hour
from forecasting.process import TrainingChild
from forecasting.promotion import HAR_WATCH_H, har_serves
from forecasting.registry import Loaded, Registry, model_of
from forecasting.samples import WEEK_H, Samples, build_samples
from forecasting.scoring import WAIT_H, known_truths, score
from forecasting.storage import Storage
from marketdata.codec import encode
from marketdata.errors import ForecastError, RetryableSourceError, StorageError
from marketdata.records import Prediction, Score
from marketdata.times import HOUR_MS, from_rfc3339, to_rfc3339
from marketdata.topics import TopicRole

log = logging.getLogger(__name__)

T = TypeVar("T")

TAIL_HOURS = 2_200
ROWS_AN_HOUR = 4
RETRY_TRAINING_H = 6


async def in_thread(action: Callable[[], T]) -> T:
    """Run in a daemon thread: the default executor would hold a stopping program until a long import ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(finish: Callable[[], None]) -> None:
        if not future.cancelled():
            finish()

    def run() -> None:
        try:
            result = action()
        except BaseException as error:  # noqa: BLE001  handed to the awaiting coroutine, which raises it
            finish = partial(future.set_exception, error)
        else:
            finish = partial(future.set_result, result)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, finish)

    threading.Thread(target=run, daemon=True).start()
    return await future


@dataclass
class _Market:
    """What the service keeps of one market.

    remembered: what is below is what the topics hold. pending: published and not scored, by id. published: the target
    hour, horizon and model of each prediction: one is published of each, whatever version it is of. losses: pinball
    by target hour (ms) for each model.
    """

    symbol: str
    store: HourlyStore
    registry: Registry
    loaded: Loaded | None = None
    challengers: dict[str, Loaded] = field(default_factory=dict)
    remembered: bool = False
    unscored: bool = True
    samples: Samples | None = None
    handled_ms: int = 0
    pending: dict[str, Prediction] = field(default_factory=dict)
    published: set[tuple[str, int, str]] = field(default_factory=set)
    scored: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    losses: dict[str, deque[tuple[int, float]]] = field(default_factory=dict)
    child: TrainingChild | None = None
    tried_ms: dict[str, int] = field(default_factory=dict)

    @property
    def key(self) -> bytes:
        return self.symbol.encode()

    def note_score(self, known: Score) -> None:
        self.scored.add(known.prediction_id)
        # More than are compared: an hour that one of two models missed must not end the comparison.
        losses = self.losses.setdefault(model_of(known.model_version), deque(maxlen=TAIL_HOURS))
        losses.append((from_rfc3339(known.target_start), known.pinball_bps))

    def demotion(self) -> str | None:
        """Why HAR serves in the champion's place, None where it does not."""
        if self.loaded is None:
            return None
        champion = dict(self.losses.get(model_of(self.loaded.version.name), ()))
        har = dict(self.losses.get("har", ()))
        both = sorted(champion.keys() & har.keys())
        if har_serves(np.array([champion[t] for t in both]), np.array([har[t] for t in both])):
            return f"champion_trails_har over {HAR_WATCH_H} h"
        return None


def _slot(prediction: Prediction) -> tuple[str, int, str]:
    return (prediction.target_start, prediction.horizon_h, model_of(prediction.model_version))


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
            _Market(
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
        producer = await kafka.start_producer(own, wait_s)
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
            await asyncio.gather(close_client(producer), turns.leave())

    async def _renewed(self, producer: AIOKafkaProducer) -> AIOKafkaProducer:
        """A fresh producer in place of one that failed, however long the broker is away."""
        await close_client(producer)
        while True:
            try:
                return await kafka.start_producer(self._settings.kafka, self._settings.hdfs.wait_s)
            except ForecastError as error:
                log.warning("%s; tried again", error)

    async def _publish(
        self, market: _Market, topic: str, record: Prediction | Score, producer: AIOKafkaProducer
    ) -> None:
        if self._turns is None or not self._turns.has(market.key):
            raise ForecastError(f"{market.symbol}: given to another predictor meanwhile: expected to be ours")
        await producer.send_and_wait(topic, encode(record), key=market.key)

    async def _yield(self, market: _Market) -> None:
        """Another predictor serves the market: this one stands by."""
        if market.remembered or market.child is not None:
            log.info("symbol=%s is served by another predictor now", market.symbol)
        market.remembered = False
        if market.child is not None:
            await market.child.stop()
            market.child = None

    async def _remember(self, market: _Market) -> None:
        """What is published and scored of a market, from the tails of the topics."""
        count = TAIL_HOURS * ROWS_AN_HOUR * len(self._markets)
        own, wait_s = self._settings.kafka, self._settings.hdfs.wait_s
        scores = await kafka.tail(own, self._scores, Score, count, wait_s, key=market.key)
        predictions = await kafka.tail(own, self._predictions, Prediction, count, wait_s, key=market.key)
        for notes in (market.pending, market.published, market.scored, market.losses):
            notes.clear()
        for known in scores:
            if known.symbol == market.symbol:
                market.note_score(known)
        for prediction in predictions:
            if prediction.symbol == market.symbol:
                market.published.add(_slot(prediction))
                if prediction.prediction_id not in market.scored:
                    market.pending[prediction.prediction_id] = prediction
        market.remembered, market.unscored, market.handled_ms = True, True, 0
        log.info(
            "remembered symbol=%s predictions=%d scores=%d unscored=%d",
            market.symbol,
            len(market.published),
            len(market.scored),
            len(market.pending),
        )

    async def _look(self, market: _Market, producer: AIOKafkaProducer) -> None:
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

    def _build(self, market: _Market) -> Samples | None:
        forecasting = self._settings.forecasting
        table = market.store.table(forecasting.train_hours + forecasting.sequence_h + WEEK_H)
        if table.num_rows == 0:
            return None
        hours = to_hours(table, market.symbol)
        return build_samples(hours, sequence_h=forecasting.sequence_h, horizon_h=forecasting.horizon_h)

    async def _predict(self, market: _Market, samples: Samples, producer: AIOKafkaProducer) -> None:
        at = newest_hour(samples)
        if at is None:
            return
        hour_end_ms = int(samples.hours.start_ms[at]) + HOUR_MS
        fresh = hour_end_ms > market.handled_ms
        if not fresh and market.loaded is not None:
            return
        promoted = await self._load_champion(market)
        if not fresh and not promoted:
            return
        await self._load_challengers(market)
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
            lambda: look_ahead(
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
            if _slot(prediction) not in market.published:
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

    async def _issue(self, market: _Market, prediction: Prediction, producer: AIOKafkaProducer) -> None:
        issued_at_ms = await in_thread(self._clock.now_ms)  # the forecast itself may have taken minutes of event time
        if issued_at_ms >= from_rfc3339(prediction.target_end):
            log.warning("prediction=%s its target is over: not issued", prediction.prediction_id)
            return
        prediction = msgspec.structs.replace(prediction, issued_at=to_rfc3339(issued_at_ms))
        await self._publish(market, self._predictions, prediction, producer)
        market.published.add(_slot(prediction))
        market.pending[prediction.prediction_id] = prediction
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

    async def _score(self, market: _Market, samples: Samples, producer: AIOKafkaProducer) -> None:
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

    async def _load_champion(self, market: _Market) -> bool:
        """Follow the champion pointer; True where another champion was loaded."""
        pointer = await in_thread(market.registry.champion)
        if pointer is None:
            return False
        made = await self._load(market, pointer["version"], market.loaded)
        if made is None or made is market.loaded:
            return False
        market.loaded = made
        log.info("symbol=%s champion=%s provisional=%s", market.symbol, made.version.name, pointer.get("provisional"))
        return True

    async def _load_challengers(self, market: _Market) -> None:
        champion = None if market.loaded is None else market.loaded.version.name
        names = await in_thread(lambda: market.registry.challengers(champion))
        found = {}
        for model, name in names.items():
            known = market.challengers.get(model)
            try:
                made = await self._load(market, name, known)
            except StorageError as error:  # the champion speaks all the same
                log.warning("symbol=%s challenger=%s: %s", market.symbol, name, error)
                made = known
            if made is not None:
                found[model] = made
        market.challengers = found

    async def _load(self, market: _Market, name: str, known: Loaded | None) -> Loaded | None:
        """A version, `known` where it is that already; None where it cannot be used, which is said once."""
        if known is not None and known.version.name == name:
            return known
        if name in market.refused:
            return None
        try:
            return await in_thread(lambda: market.registry.load(name))
        except ForecastError as error:
            market.refused.add(name)
            log.error("symbol=%s version=%s cannot be used: %s", market.symbol, name, error)  # noqa: TRY400
            return None

    @staticmethod
    def _tend_training(market: _Market) -> None:
        """Note the end of a training; what it promoted is loaded with the next forecast."""
        if market.child is not None and market.child.exit_code is not None:
            log.info(
                "symbol=%s training of %s ended exit_code=%s", market.symbol, market.child.model, market.child.exit_code
            )
            market.child = None

    async def _retrain_if_due(self, market: _Market, samples: Samples) -> None:
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
