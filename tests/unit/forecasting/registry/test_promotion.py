"""Promotion rules."""

import numpy as np

from forecasting.registry.promotion import HAR_WATCH_H, MIN_COMMON_H, WalkForwardLosses, contest, har_serves, refresh
from marketdata.times import HOUR_MS


def losses(level: float, n: int = 4_000, seed: int = 0) -> WalkForwardLosses:
    rng = np.random.default_rng(seed)
    covered = np.ones(n, dtype=bool)
    covered[::10] = False
    return WalkForwardLosses(HOUR_MS * np.arange(n), level + 0.05 * rng.standard_normal(n), covered, 1.0)


def test_a_better_challenger_is_promoted_and_an_equal_one_is_not() -> None:
    champion, har = losses(1.0, seed=1), losses(1.02, seed=2)
    assert contest(losses(0.98), champion, har, attempts=0).promoted
    refused = contest(losses(1.0), champion, har, attempts=0)
    assert not refused.promoted
    assert "pinball better" in refused.why


def test_with_too_few_common_hours_nothing_is_promoted() -> None:
    verdict = contest(losses(0.5, MIN_COMMON_H - 1), losses(1.0), losses(1.0), attempts=0)
    assert not verdict.promoted
    assert verdict.n_common == MIN_COMMON_H - 1


def test_repeated_attempts_lower_the_significance_level() -> None:
    noisy = WalkForwardLosses(
        HOUR_MS * np.arange(4_000), 0.996 + np.tile([0.05, -0.05], 2_000), losses(1.0).covered, 1.0
    )
    level = [dict(contest(noisy, losses(1.0), losses(1.1), attempts=n).checks) for n in (0, 4)]
    assert "Diebold-Mariano p < 0.0500" in level[0]
    assert "Diebold-Mariano p < 0.0100" in level[1]


def test_a_challenger_worse_than_har_is_refused() -> None:
    assert "no worse than har" in contest(losses(0.98), losses(1.0), losses(0.9), attempts=0).why


def test_a_refit_whose_band_is_off_is_refused() -> None:
    assert refresh(0.9, 1.001).promoted
    assert not refresh(0.7, 1.001).promoted


def test_har_serves_only_after_2000_hours_behind_it() -> None:
    assert har_serves(np.full(HAR_WATCH_H, 1.1), np.ones(HAR_WATCH_H))
    assert not har_serves(np.full(HAR_WATCH_H - 1, 1.1), np.ones(HAR_WATCH_H - 1))
    assert not har_serves(np.full(HAR_WATCH_H, 0.9), np.ones(HAR_WATCH_H))
