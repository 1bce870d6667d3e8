"""What the predictor keeps of one market: what its topics hold, and the models that speak for it.

It must never publish, and never read a clock.
"""

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from forecasting.data.hourly_store import HourlyStore
from forecasting.data.samples import Samples
from forecasting.registry.promotion import HAR_WATCH_H, har_serves
from forecasting.registry.versions import Loaded, Registry, model_of
from forecasting.serving.threads import in_thread
from forecasting.training.child import TrainingChild
from marketdata.errors import ForecastError, StorageError
from marketdata.records import Prediction, Score
from marketdata.times import from_rfc3339

log = logging.getLogger(__name__)

TAIL_HOURS = 2_200
"""So far back the topics are remembered."""


@dataclass
class Market:
    """One market.

    remembered: what is below is what the topics hold. pending: published and not scored, by id. published: the target
    hour, horizon and model of each prediction: one is published of each, whatever version it is of. losses: pinball
    by target hour (ms) for each model. refused: versions that cannot be used. tried_ms: by model, the end of the
    newest hour when its training was begun.
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

    def remember(self, predictions: Iterable[Prediction], scores: Iterable[Score]) -> None:
        """Take what the topics hold, of any market, in place of what was known."""
        for notes in (self.pending, self.published, self.scored, self.losses):
            notes.clear()
        for known in scores:
            if known.symbol == self.symbol:
                self.note_score(known)
        for prediction in predictions:
            if prediction.symbol == self.symbol:
                self.published.add(_slot(prediction))
                if prediction.prediction_id not in self.scored:
                    self.pending[prediction.prediction_id] = prediction
        self.remembered, self.unscored, self.handled_ms = True, True, 0
        log.info(
            "remembered symbol=%s predictions=%d scores=%d unscored=%d",
            self.symbol,
            len(self.published),
            len(self.scored),
            len(self.pending),
        )

    def is_published(self, prediction: Prediction) -> bool:
        """Whether one of this target hour, horizon and model was, of whatever version."""
        return _slot(prediction) in self.published

    def note_prediction(self, prediction: Prediction) -> None:
        """It is on the topic."""
        self.published.add(_slot(prediction))
        self.pending[prediction.prediction_id] = prediction

    def note_score(self, known: Score) -> None:
        """It is on the topic."""
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

    async def load_champion(self) -> bool:
        """Follow the champion pointer; True where another champion was loaded."""
        pointer = await in_thread(self.registry.champion)
        if pointer is None:
            return False
        made = await self._load(pointer["version"], self.loaded)
        if made is None or made is self.loaded:
            return False
        self.loaded = made
        log.info("symbol=%s champion=%s provisional=%s", self.symbol, made.version.name, pointer.get("provisional"))
        return True

    async def load_challengers(self) -> None:
        """Follow what the registry has of other models."""
        champion = None if self.loaded is None else self.loaded.version.name
        names = await in_thread(lambda: self.registry.challengers(champion))
        found = {}
        for model, name in names.items():
            known = self.challengers.get(model)
            try:
                made = await self._load(name, known)
            except StorageError as error:  # the champion speaks all the same
                log.warning("symbol=%s challenger=%s: %s", self.symbol, name, error)
                made = known
            if made is not None:
                found[model] = made
        self.challengers = found

    async def _load(self, name: str, known: Loaded | None) -> Loaded | None:
        """A version, `known` where it is that already; None where it cannot be used, which is said once."""
        if known is not None and known.version.name == name:
            return known
        if name in self.refused:
            return None
        try:
            return await in_thread(lambda: self.registry.load(name))
        except ForecastError as error:
            self.refused.add(name)
            log.error("symbol=%s version=%s cannot be used: %s", self.symbol, name, error)  # noqa: TRY400
            return None


def _slot(prediction: Prediction) -> tuple[str, int, str]:
    return (prediction.target_start, prediction.horizon_h, model_of(prediction.model_version))
