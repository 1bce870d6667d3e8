"""The published predictions and scores of one market. Pure."""

from collections.abc import Iterable

import numpy as np

from forecasting.registry.promotion import HAR_WATCH_H, har_serves
from forecasting.registry.versions import model_of
from marketdata.records import Prediction, Score
from marketdata.times import from_rfc3339
from marketdata.vocabulary import StaleReason

TAIL_HOURS = 2_200
"""Hours of predictions and scores that are read from the ends of the topics, and that are compared with HAR."""


_MAX_PREDICTIONS = TAIL_HOURS * 4  # bounds memory: champion, challenger and two baselines an hour


class PublishedRecords:
    """Predictions and scores on the topics.

    Per target hour, horizon and model there is one prediction, whatever the model's version.
    """

    def __init__(self, symbol: str) -> None:
        self._symbol = symbol
        self._slots: set[tuple[str, int, str]] = set()
        self._pending: dict[str, Prediction] = {}
        self._predictions: dict[str, Prediction] = {}  # the newest ones, which can be scored again
        self._scores: dict[str, Score] = {}  # of each prediction the highest revision
        self._losses: dict[str, dict[int, float]] = {}

    @property
    def pending(self) -> tuple[Prediction, ...]:
        """Predictions that are neither scored nor discarded."""
        return tuple(self._pending.values())

    @property
    def n_predictions(self) -> int:
        return len(self._slots)

    @property
    def n_scores(self) -> int:
        return len(self._scores)

    @property
    def scored(self) -> list[tuple[Prediction, Score]]:
        """Scored predictions with their newest scores."""
        return [(made, self._scores[key]) for key, made in self._predictions.items() if key in self._scores]

    def replace(self, predictions: Iterable[Prediction], scores: Iterable[Score]) -> None:
        """Replace all records by those read from the topics; records of other markets are ignored."""
        for records in (self._slots, self._pending, self._predictions, self._scores, self._losses):
            records.clear()
        for known in scores:
            if known.symbol == self._symbol:
                self.add_score(known)
        for prediction in predictions:
            if prediction.symbol == self._symbol:
                self.add_prediction(prediction)

    def contains(self, prediction: Prediction) -> bool:
        """Whether a prediction of the same target hour, horizon and model is published."""
        return _slot(prediction) in self._slots

    def add_prediction(self, prediction: Prediction) -> None:
        """Add a published prediction; it is pending unless its score is known."""
        self._slots.add(_slot(prediction))
        self._predictions[prediction.prediction_id] = prediction
        while len(self._predictions) > _MAX_PREDICTIONS:
            oldest = next(iter(self._predictions))
            del self._predictions[oldest]
            self._scores.pop(oldest, None)
        if prediction.prediction_id not in self._scores:
            self._pending[prediction.prediction_id] = prediction

    def add_score(self, known: Score) -> None:
        """Add a published score, which replaces a lower revision; its prediction is no longer pending."""
        earlier = self._scores.get(known.prediction_id)
        if earlier is not None and known.revision <= earlier.revision:
            return
        self._scores[known.prediction_id] = known
        self._pending.pop(known.prediction_id, None)
        # Longer than HAR_WATCH_H: hours that one of two models missed must not end their comparison.
        losses = self._losses.setdefault(model_of(known.model_version), {})
        losses[from_rfc3339(known.target_start)] = known.pinball_bps  # a revision replaces the loss of its hour
        if len(losses) > TAIL_HOURS:
            del losses[min(losses)]

    def discard(self, prediction: Prediction) -> None:
        """Do not score a prediction any more."""
        self._pending.pop(prediction.prediction_id, None)
        self._predictions.pop(prediction.prediction_id, None)

    def demotion(self, champion: str) -> str | None:
        """Return why HAR serves in place of a champion of this model; None if it does not.

        The two models are compared by their pinball losses of common target hours.
        """
        own, har = self._losses.get(champion, {}), self._losses.get("har", {})
        common = sorted(own.keys() & har.keys())
        if har_serves(np.array([own[t] for t in common]), np.array([har[t] for t in common])):
            return f"{StaleReason.CHAMPION_TRAILS_HAR} over {HAR_WATCH_H} h"
        return None


def _slot(prediction: Prediction) -> tuple[str, int, str]:
    return (prediction.target_start, prediction.horizon_h, model_of(prediction.model_version))
