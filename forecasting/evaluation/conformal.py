"""Conformal calibration of prediction intervals with adaptive levels (ACI). Pure.

A conformal score is the distance of the truth from a quantile pair, over sigma; it is negative inside the pair (Romano,
Patterson and Candès 2019). The pair is widened by the quantile of the trailing scores at level 1 - alpha_t. After each
truth, alpha_{t+1} = alpha_t + γ (alpha - missed) (Gibbs and Candès 2021).
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any

import numpy as np

from forecasting.data.hourly_grid import Bools, Floats
from forecasting.models.interface import LEVELS

WINDOW_H = 1_440
GAMMA = 0.005
TRACKS: tuple[tuple[int, float], ...] = ((0, 0.90), (0, 0.95), (1, 0.80), (2, 0.50))
"""(index of the quantile pair, 0 is the outermost; target coverage) of each calibrated interval."""
HEADLINE = 0
MIN_SCORES = 30


class Track:
    """Trailing scores and the current alpha of one interval level."""

    def __init__(self, alpha: float, *, window: int = WINDOW_H, gamma: float = GAMMA) -> None:
        self._target = alpha
        self._gamma = gamma
        self._window = window
        self.alpha = alpha
        self._scores: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._scores)

    def margin(self) -> float:
        """Widening of the pair in sigmas (negative: narrowing); 0 with fewer than MIN_SCORES scores."""
        n = len(self._sorted)
        if n < MIN_SCORES:
            return 0.0
        rank = ceil((n + 1) * (1.0 - self.alpha))
        return self._sorted[min(max(rank, 1), n) - 1]

    def update(self, score: float) -> bool:
        """Add the score of a truth; return whether the truth was covered."""
        covered = score <= self.margin()
        if len(self._sorted) >= MIN_SCORES:
            self.alpha += self._gamma * (self._target - (0.0 if covered else 1.0))
        self._scores.append(score)
        insort(self._sorted, score)
        if len(self._scores) > self._window:
            old = self._scores.popleft()
            del self._sorted[bisect_left(self._sorted, old)]
        return covered

    def state(self) -> dict[str, Any]:
        return {"target": self._target, "alpha": self.alpha, "scores": list(self._scores)}

    def restore(self, state: dict[str, Any]) -> None:
        """Replace alpha and scores.

        Raises:
            ValueError: a number is missing or not finite.
        """
        alpha, *scores = (float(value) for value in (state["alpha"], *state["scores"]))
        if not all(map(isfinite, (alpha, *scores))):
            raise ValueError("calibration: expected finite numbers")
        self.alpha, self._scores, self._sorted = alpha, deque(scores), sorted(scores)


@dataclass(frozen=True, slots=True)
class Band:
    """Calibrated quantiles of the log target, and the headline interval and the 95 % one: (lower, upper)."""

    quantiles: Floats
    interval: tuple[float, float]
    interval_95: tuple[float, float]
    n_calib: int


class Calibrator:
    """All tracks of one model. Forecasts and truths are passed in order of time."""

    def __init__(self) -> None:
        self._tracks = [Track(1.0 - level) for _, level in TRACKS]

    def __len__(self) -> int:
        return len(self._tracks[HEADLINE])

    def band(self, quantiles: Floats, sigma: float) -> Band:
        """Calibrate the quantiles of one forecast: shape (7,), log price."""
        out = quantiles.astype(float).copy()
        sides: list[tuple[float, float]] = []
        for (pair, _), track in zip(TRACKS, self._tracks, strict=True):
            move = track.margin() * sigma
            low, high = float(quantiles[pair]) - move, float(quantiles[-1 - pair]) + move
            middle = float(quantiles[len(LEVELS) // 2])
            # A pair is never narrowed past its median.
            sides.append((min(low, middle), max(high, middle)))
        for index in (0, 2, 3):
            pair = TRACKS[index][0]
            out[pair], out[-1 - pair] = sides[index]
        out.sort()
        interval = (float(out[0]), float(out[-1]))
        wide = (min(sides[1][0], interval[0]), max(sides[1][1], interval[1]))
        return Band(quantiles=out, interval=interval, interval_95=wide, n_calib=len(self))

    def update(self, quantiles: Floats, sigma: float, truth: float) -> None:
        """Add the truth (log target) of a forecast."""
        for (pair, _), track in zip(TRACKS, self._tracks, strict=True):
            track.update(max(float(quantiles[pair]) - truth, truth - float(quantiles[-1 - pair])) / sigma)

    def replay(self, quantiles: Floats, sigma: Floats, truth: Floats, lag: int = 1) -> "Replay":
        """Calibrate a series of forecasts in order of time, each with the truths known `lag` steps before it.

        Args:
            quantiles: shape (m, 7), log price.
            sigma: shape (m,), log price.
            truth: shape (m,); NaN truths are skipped.
            lag: steps between a forecast and the moment its truth is known (the horizon in hours).
        """
        m = len(truth)
        out = np.empty_like(quantiles)
        wide = np.empty((m, 2))
        for i in range(m):
            # The forecast at i is issued when the truth of i - lag has just become known.
            known = i - lag
            if known >= 0 and np.isfinite(truth[known]):
                self.update(quantiles[known], float(sigma[known]), float(truth[known]))
            band = self.band(quantiles[i], float(sigma[i]))
            out[i] = band.quantiles
            wide[i] = band.interval_95
        for known in range(max(m - lag, 0), m):
            if np.isfinite(truth[known]):
                self.update(quantiles[known], float(sigma[known]), float(truth[known]))
        return Replay(quantiles=out, interval_95=wide, covered=(truth >= out[:, 0]) & (truth <= out[:, -1]))

    def state(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {"window_h": WINDOW_H, "gamma": GAMMA, "tracks": [track.state() for track in self._tracks]}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Calibrator":
        made = cls()
        tracks: Iterable[dict[str, Any]] = state["tracks"]
        for track, saved in zip(made._tracks, tracks, strict=True):
            track.restore(saved)
        return made


@dataclass(frozen=True, slots=True)
class Replay:
    """Calibrated quantiles (m, 7), the 95 % interval (m, 2), and whether the outermost pair covers the truth (m,)."""

    quantiles: Floats
    interval_95: Floats
    covered: Bools
