"""The state of one market in the predictor: it predicts, scores and retrains.

Records are published through a function that the service passes in; what was published is restored from the topics.
"""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import msgspec

from clients.clock import Clock
from config.sections import ForecastingSettings
from exchanges.refusals import refusal_pause_s
from forecasting.data.hourly_grid import Hours, to_hours
from forecasting.data.hourly_store import HourlyStore
from forecasting.data.samples import WEEK_H, Samples, build_samples
from forecasting.evaluation import plots
from forecasting.evaluation.scoring import WAIT_H, changed_truths, known_truths, score
from forecasting.registry.versions import Registry, model_of
from forecasting.serving.loaded_models import LoadedModels
from forecasting.serving.predictor import ForecastSet, forecast_set, newest_hour
from forecasting.serving.published_records import PublishedRecords
from forecasting.serving.threads import in_thread
from forecasting.training.child import TrainingChild
from marketdata.codec import encode
from marketdata.errors import InvalidValueError
from marketdata.numbers import format_number
from marketdata.records import Prediction, Score
from marketdata.times import HOUR_MS, from_rfc3339, to_rfc3339

log = logging.getLogger(__name__)

RETRY_TRAINING_H = 6
"""Hours of new rows after which a model that was not promoted is trained again."""

Publish: TypeAlias = Callable[[Prediction | Score], Awaitable[None]]
"""Publishes a record of this market; returns once the broker has it."""
StartTraining: TypeAlias = Callable[[str, str], Awaitable[TrainingChild]]
"""Starts the training of a model (second argument) of a market (first argument)."""


class MarketState:
    """One market. Call `restore` before the other methods, and again after `invalidate` or `release`.

    Args:
        symbol: the market.
        settings: models, lengths and ages.
        store: hourly rows of the market.
        registry: versions of the market.
        clock: event time.
        start_training: starts a training process.
        monotonic: real seconds.
    """

    def __init__(
        self,
        symbol: str,
        settings: ForecastingSettings,
        store: HourlyStore,
        registry: Registry,
        clock: Clock,
        start_training: StartTraining = TrainingChild.start,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.symbol = symbol
        self._settings = settings
        self._store = store
        self._clock = clock
        self._start_training = start_training
        self._monotonic = monotonic
        self._models = LoadedModels(symbol, registry)
        self._published = PublishedRecords(symbol)
        self._samples: Samples | None = None
        self._training: TrainingChild | None = None
        self._tried_ms: dict[str, int] = {}  # by model: end of the newest hour when its last training started
        self._failures: Counter[str] = Counter()  # by model: failed trainings in a row
        self._retry_s: dict[str, float] = {}  # by model: when a failed training is repeated, monotonic
        self._waiting_for: str | None = None
        self.n_trainings = 0  # completed successfully
        self._is_restored = False
        self._is_scoring_due = True
        self._predicted_through_ms = 0  # end of the newest hour whose predictions are complete

    @property
    def key(self) -> bytes:
        """Key of the market's records."""
        return self.symbol.encode()

    @property
    def is_restored(self) -> bool:
        """Whether the published records are known."""
        return self._is_restored

    @property
    def waiting_for(self) -> str | None:
        """Why there are no forecasts, or None."""
        return self._waiting_for

    @property
    def training(self) -> str | None:
        """The model that is being trained, or None."""
        return None if self._training is None else self._training.model

    @property
    def failing_training(self) -> str | None:
        """A model whose last training failed, or None."""
        return next((model for model, failures in self._failures.items() if failures), None)

    def restore(self, predictions: Iterable[Prediction], scores: Iterable[Score]) -> None:
        """Replace the published records by those on the topics (of any market)."""
        self._published.replace(predictions, scores)
        self._is_restored, self._is_scoring_due, self._predicted_through_ms = True, True, 0
        log.info(
            "restored symbol=%s predictions=%d scores=%d unscored=%d",
            self.symbol,
            self._published.n_predictions,
            self._published.n_scores,
            len(self._published.pending),
        )

    def invalidate(self) -> None:
        """Require `restore`, because the outcome of a publication is unknown."""
        self._is_restored = False

    async def release(self) -> None:
        """Require `restore` and stop a training, because another predictor owns the market."""
        if self._is_restored or self._training is not None:
            log.info("symbol=%s is served by another predictor now", self.symbol)
        self._is_restored = False
        await self.stop_training()

    async def stop_training(self) -> None:
        """Stop the training process, if one runs."""
        if self._training is not None:
            await self._training.stop()
            self._training = None

    async def refresh(self) -> None:
        """Read new hourly rows and build samples.

        Raises:
            StorageError: rows cannot be read or are invalid.
        """
        if await in_thread(self._store.refresh):
            self._samples = await in_thread(self._build_samples)
            self._is_scoring_due = True

    def _build_samples(self) -> Samples | None:
        own = self._settings
        table = self._store.table(own.train_hours + own.sequence_h + WEEK_H)
        if table.num_rows == 0:
            return None
        return build_samples(to_hours(table, self.symbol), sequence_h=own.sequence_h, horizon_h=own.horizon_h)

    async def score(self, publish: Publish) -> None:
        """Publish the scores of all predictions whose truth is known, if rows changed since the last call.

        A score whose hour was rewritten is published again with the next revision.

        Raises:
            ForecastError: another predictor owns the market.
            KafkaError: the outcome of a publication is unknown.
        """
        if self._samples is None or not self._is_scoring_due:
            return
        hours = self._samples.hours
        ready, expired = known_truths(self._published.pending, hours)
        for prediction in expired:
            log.warning("prediction=%s no live hour within %d h: not scored", prediction.prediction_id, WAIT_H)
            self._published.discard(prediction)
        for prediction, at in ready:
            await self._publish_score(prediction, hours, at, publish)
        for prediction, at, known in changed_truths(self._published.scored, hours):
            await self._publish_score(prediction, hours, at, publish, revision=known.revision + 1)
        self._is_scoring_due = False

    async def _publish_score(
        self, prediction: Prediction, hours: Hours, at: int, publish: Publish, revision: int = 0
    ) -> None:
        now_ms = await in_thread(self._clock.now_ms)
        try:  # a prediction of another program must not stop the scores of all others
            record = score(
                prediction,
                actual=float(hours.avg_price[at]),
                n_ticks=int(hours.n_ticks[at]),
                coverage=float(hours.coverage[at]),
                scored_at_ms=now_ms,
                revision=revision,
            )
            encode(record)
        except Exception:
            self._published.discard(prediction)
            log.exception("prediction=%s cannot be scored: discarded", prediction.prediction_id)
            return
        await publish(record)
        self._published.add_score(record)
        log.info(
            "scored id=%s revision=%d error_bps=%.2f last_price_error_bps=%.2f covered=%s pinball_bps=%.2f",
            record.prediction_id,
            record.revision,
            record.error_bps,
            record.last_price_error_bps,
            record.covered,
            record.pinball_bps,
        )

    async def predict(self, publish: Publish) -> None:
        """Publish the predictions made at the end of the newest hour: once, and again for a first champion.

        Raises:
            ForecastError: another predictor owns the market.
            StorageError: the registry cannot be read.
            RetryableSourceError: the clock has no time.
            KafkaError: the outcome of a publication is unknown.
        """
        if self._samples is None or (at := newest_hour(self._samples)) is None:
            self._wait_for("an hour with a price in hourly_metrics, from `batch backfill`, or from `batch raw`")
            return
        self._wait_for(None)
        hour_end_ms = int(self._samples.hours.start_ms[at]) + HOUR_MS
        if not await self._is_prediction_due(hour_end_ms):
            return
        await self._models.follow_challengers()
        forecasts = await self._forecast(self._samples, at, hour_end_ms)
        for prediction in forecasts.predictions:
            if not self._published.contains(prediction):
                await self._publish_prediction(prediction, publish)
        self._predicted_through_ms = hour_end_ms
        await in_thread(lambda: self._plot(forecasts))

    def _wait_for(self, what: str | None) -> None:
        if what != self._waiting_for:
            if what is None:
                log.info("symbol=%s has hours now", self.symbol)
            else:
                log.warning("symbol=%s no forecasts: waiting for %s", self.symbol, what)
        self._waiting_for = what

    async def _is_prediction_due(self, hour_end_ms: int) -> bool:
        """Whether the hour is new, or the registry has a first champion since; loads a new champion."""
        is_new = hour_end_ms > self._predicted_through_ms
        if not is_new and self._models.champion is not None:
            return False
        return await self._models.follow_champion() or is_new

    async def _forecast(self, samples: Samples, at: int, hour_end_ms: int) -> ForecastSet:
        """Forecasts at the end of hour `at`; none if the target hour is over."""
        target_end_ms = hour_end_ms + self._settings.horizon_h * HOUR_MS
        now_ms = await in_thread(self._clock.now_ms)
        if now_ms >= target_end_ms:
            log.warning(
                "symbol=%s target_end=%s is over at now=%s: no prediction published",
                self.symbol,
                to_rfc3339(target_end_ms),
                to_rfc3339(now_ms),
            )
            return ForecastSet((), None)
        champion = self._models.champion
        demoted = None if champion is None else self._published.demotion(model_of(champion.version.name))
        return await in_thread(
            lambda: forecast_set(
                samples,
                at,
                champion,
                self._settings,
                issued_at_ms=now_ms,
                demoted=demoted,
                challengers=tuple(self._models.challengers.values()),
            )
        )

    async def _publish_prediction(self, prediction: Prediction, publish: Publish) -> None:
        issued_at_ms = await in_thread(self._clock.now_ms)  # forecasting can take minutes of event time
        if issued_at_ms >= from_rfc3339(prediction.target_end):
            log.warning("prediction=%s target hour is over: not published", prediction.prediction_id)
            return
        prediction = msgspec.structs.replace(prediction, issued_at=to_rfc3339(issued_at_ms))
        try:
            encode(prediction)
        except InvalidValueError as error:  # a model that forecasts absurd prices must not stop the others
            log.error("prediction=%s not published: %s", prediction.prediction_id, error)  # noqa: TRY400
            return
        await publish(prediction)
        self._published.add_prediction(prediction)
        log.info(
            "predicted id=%s role=%s price=%s lower=%s upper=%s n_calib=%d stale_reason=%s",
            prediction.prediction_id,
            prediction.role,
            format_number(prediction.pred_avg_price),
            format_number(prediction.lower),
            format_number(prediction.upper),
            prediction.n_calib,
            prediction.stale_reason,
        )

    def _plot(self, forecasts: ForecastSet) -> None:
        champion = self._models.champion
        if self._samples is not None and forecasts.champion_run is not None and champion is not None:
            title = f"{self.symbol}: next hour's average price, {champion.version.name}"
            plots.save(plots.draw(forecasts.champion_run, self._samples, title), self._settings.plot_path)

    def check_training(self) -> None:
        """Log the end of a training. If it promoted a version, the next prediction loads it; if it failed, retry.

        The pause before the retry grows with each failure, up to an hour of real time; only the first one is logged.
        """
        training = self._training
        if training is None or training.exit_code is None:
            return
        self._training = None
        if training.exit_code == 0:
            del self._failures[training.model]
            self.n_trainings += 1
            log.info("symbol=%s training of %s ended exit_code=0", self.symbol, training.model)
            return
        self._failures[training.model] += 1
        failures = self._failures[training.model]
        self._retry_s[training.model] = self._monotonic() + refusal_pause_s(failures)
        if failures == 1:
            log.warning(
                "symbol=%s training of %s ended exit_code=%s, retrying after pauses of up to 1 h",
                self.symbol,
                training.model,
                training.exit_code,
            )

    async def retrain(self) -> None:
        """Start the training of the first model that is due, unless one runs or there is too little history."""
        samples = self._samples
        if samples is None or self._training is not None or len(samples.anchors) < self._settings.calibration_hours:
            return
        end_ms = samples.hours.end_ms
        model = self._model_to_train(end_ms)
        if model is None:
            return
        self._tried_ms[model] = end_ms
        self._retry_s.pop(model, None)
        self._training = await self._start_training(self.symbol, model)
        log.info("symbol=%s training of %s started through=%s", self.symbol, model, to_rfc3339(end_ms))

    def _model_to_train(self, end_ms: int) -> str | None:
        """The first configured model whose version is old enough and whose next training is due."""
        for model in dict.fromkeys([self._settings.model, *self._settings.challengers]):
            loaded = self._models.newest(model)
            through_ms = None if loaded is None else loaded.version.trained_through_ms
            is_due = through_ms is None or end_ms >= through_ms + self._settings.retrain_every_h * HOUR_MS
            has_new_rows = end_ms - self._tried_ms.get(model, 0) >= RETRY_TRAINING_H * HOUR_MS
            if is_due and (has_new_rows or self._monotonic() >= self._retry_s.get(model, float("inf"))):
                return model
        return None
