"""The predictor that runs for months: watches hourly rows, predicts each next hour once, scores, retrains.

Everything that takes long (HDFS, the net) runs in daemon threads, so that a stop takes effect at once.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from config.clock import Clock
from config.settings import Settings
from forecasting import kafka, plots
from forecasting.dataset import HourlyStore, Hours, to_hours
from forecasting.predictor import look_ahead, newest_hour
from forecasting.process import TrainingChild
from forecasting.promotion import HAR_WATCH_H, har_serves
from forecasting.registry import Loaded, Registry
from forecasting.samples import WEEK_H, Samples, build_samples
from forecasting.scoring import score
from forecasting.storage import Storage
from marketdata.codec import encode
from marketdata.errors import ForecastError, RetryableSourceError, StorageError
from marketdata.records import Prediction, Score
from marketdata.times import HOUR_MS, from_rfc3339, to_rfc3339
from marketdata.topics import TopicRole

log = logging.getLogger(__name__)

T = TypeVar("T")

TAIL_HOURS = 2_200
ROWS_AN_HOUR = 3
PENDING_H = 48
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
    """What the service keeps of one market."""

    symbol: str
    store: HourlyStore
    registry: Registry
    loaded: Loaded | None = None
    samples: Samples | None = None
    handled_ms: int = 0
    pending: dict[str, Prediction] = field(default_factory=dict)
    published: set[str] = field(default_factory=set)
    scored: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    champion_pinball: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=HAR_WATCH_H))
    har_pinball: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=HAR_WATCH_H))
    child: TrainingChild | None = None
    tried_ms: int = 0


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
        await self._remember()
        producer = await kafka.start_producer(self._settings.kafka, self._settings.hdfs.wait_s)
        log.info("serving symbols=%s", ",".join(m.symbol for m in self._markets))
        try:
            while not stop.is_set():
                for market in self._markets:
                    await self._look(market, producer)
                try:
                    await asyncio.wait_for(stop.wait(), self._settings.forecasting.poll_s)
                except TimeoutError:
                    continue
        finally:
            for market in self._markets:
                if market.child is not None:
                    await market.child.stop()
            await producer.stop()

    async def _remember(self) -> None:
        """What was published and scored before this start, from the tails of the topics."""
        count = TAIL_HOURS * ROWS_AN_HOUR * len(self._markets)
        wait_s = self._settings.hdfs.wait_s
        scores = await kafka.tail(self._settings.kafka, self._scores, Score, count, wait_s)
        predictions = await kafka.tail(self._settings.kafka, self._predictions, Prediction, count, wait_s)
        for market in self._markets:
            for known in scores:
                if known.symbol == market.symbol:
                    self._note_score(market, known)
            for prediction in predictions:
                if prediction.symbol == market.symbol:
                    market.published.add(prediction.prediction_id)
                    if prediction.prediction_id not in market.scored:
                        market.pending[prediction.prediction_id] = prediction
            log.info(
                "remembered symbol=%s predictions=%d scores=%d unscored=%d",
                market.symbol,
                len(market.published),
                len(market.scored),
                len(market.pending),
            )

    @staticmethod
    def _note_score(market: _Market, known: Score) -> None:
        market.scored.add(known.prediction_id)
        if known.role in {"champion", "challenger"}:
            market.champion_pinball.append((from_rfc3339(known.target_start), known.pinball_bps))
        elif known.model_version == "har":
            market.har_pinball.append((from_rfc3339(known.target_start), known.pinball_bps))

    async def _look(self, market: _Market, producer: AIOKafkaProducer) -> None:
        """One poll of one market; what fails now is tried again at the next."""
        try:
            await self._tend_training(market)
            changed = await in_thread(market.store.refresh)
            if changed:
                market.samples = await in_thread(lambda: self._build(market))
            if market.samples is None:
                return
            if changed:
                await self._score(market, market.samples, producer)
            await self._predict(market, market.samples, producer)
            await self._retrain_if_due(market, market.samples)
        except (StorageError, ForecastError, KafkaError, RetryableSourceError) as error:
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
        demoted = self._demotion(market)
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
            lambda: look_ahead(samples, at, market.loaded, forecasting, issued_at_ms=now_ms, demoted=demoted)
        )
        issued_at_ms = await in_thread(self._clock.now_ms)
        for prediction in outlook.predictions:
            if prediction.prediction_id not in market.published:
                await self._issue(market, prediction, issued_at_ms, producer)
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

    async def _issue(
        self, market: _Market, prediction: Prediction, issued_at_ms: int, producer: AIOKafkaProducer
    ) -> None:
        if issued_at_ms >= from_rfc3339(prediction.target_end):
            log.warning("prediction=%s its target is over: not issued", prediction.prediction_id)
            return
        # Noted before it is sent: should the acknowledgement be lost, once too few is better than twice.
        market.published.add(prediction.prediction_id)
        await producer.send_and_wait(self._predictions, encode(prediction), key=market.symbol.encode())
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
        for key, prediction in sorted(market.pending.items(), key=lambda item: item[1].target_start):
            start_ms = from_rfc3339(prediction.target_start)
            at = (start_ms - int(hours.start_ms[0])) // HOUR_MS
            if at < 0 or hours.end_ms - start_ms > PENDING_H * HOUR_MS:
                log.warning("prediction=%s no live hour came in %d h: not scored", key, PENDING_H)
                del market.pending[key]
                continue
            if at >= len(hours) or not _is_truth(hours, at) or prediction.origin != "live":
                continue
            made = score(
                prediction,
                actual=float(hours.avg_price[at]),
                n_ticks=int(hours.n_ticks[at]),
                coverage=float(hours.coverage[at]),
                scored_at_ms=await in_thread(self._clock.now_ms),
            )
            market.pending.pop(key)
            await producer.send_and_wait(self._scores, encode(made), key=market.symbol.encode())
            self._note_score(market, made)
            log.info(
                "scored id=%s error_bps=%.2f last_price_error_bps=%.2f covered=%s pinball_bps=%.2f",
                key,
                made.error_bps,
                made.last_price_error_bps,
                made.covered,
                made.pinball_bps,
            )

    async def _load_champion(self, market: _Market) -> bool:
        """Follow the champion pointer; True where another champion was loaded."""
        pointer = await in_thread(market.registry.champion)
        if pointer is None or pointer["version"] in market.refused:
            return False
        name = pointer["version"]
        if market.loaded is not None and market.loaded.version.name == name:
            return False
        try:
            market.loaded = await in_thread(lambda: market.registry.load(name))
        except ForecastError as error:
            market.refused.add(name)
            log.error("symbol=%s champion=%s cannot be used: %s", market.symbol, name, error)  # noqa: TRY400
            return False
        log.info("symbol=%s champion=%s provisional=%s", market.symbol, name, pointer.get("provisional"))
        return True

    @staticmethod
    def _demotion(market: _Market) -> str | None:
        champion, har = dict(market.champion_pinball), dict(market.har_pinball)
        both = sorted(champion.keys() & har.keys())
        if har_serves(np.array([champion[t] for t in both]), np.array([har[t] for t in both])):
            return f"champion_trails_har over {HAR_WATCH_H} h"
        return None

    async def _tend_training(self, market: _Market) -> None:
        if market.child is None or market.child.exit_code is None:
            return
        log.info("symbol=%s training ended exit_code=%s", market.symbol, market.child.exit_code)
        market.child = None
        await self._load_champion(market)

    async def _retrain_if_due(self, market: _Market, samples: Samples) -> None:
        end_ms = samples.hours.end_ms
        if market.child is not None or end_ms - market.tried_ms < RETRY_TRAINING_H * HOUR_MS:
            return
        if market.loaded is not None:
            age_h = (end_ms - market.loaded.version.trained_through_ms) / HOUR_MS
            if age_h < self._settings.forecasting.retrain_every_h:
                return
        market.tried_ms = end_ms
        if len(samples.anchors) < self._settings.forecasting.calibration_hours:
            return
        market.child = await TrainingChild.start(market.symbol)
        log.info("symbol=%s training started through=%s", market.symbol, to_rfc3339(end_ms))


def _is_truth(hours: Hours, at: int) -> bool:
    return bool(hours.present[at] and hours.live[at])
