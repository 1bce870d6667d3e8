"""Metrics against other implementations and known cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_pinball_loss

from forecasting.evaluation.metrics import clark_west_t, directions, hac_t, pinball, qlike, winkler, worst_week
from forecasting.models.interface import LEVELS

number = st.floats(-1.0, 1.0, allow_nan=False)


@given(st.lists(st.tuples(number, st.lists(number, min_size=7, max_size=7)), min_size=1, max_size=30))
def test_pinball_equals_scikit_learns(rows: list[tuple[float, list[float]]]) -> None:
    truth = np.array([row[0] for row in rows])
    quantiles = np.array([row[1] for row in rows])
    expected = np.mean([mean_pinball_loss(truth, quantiles[:, i], alpha=level) for i, level in enumerate(LEVELS)])
    assert pinball(quantiles, truth).mean() == pytest.approx(expected, abs=1e-12)


@given(number, number, number)
def test_winkler_is_the_pinball_of_its_two_ends(truth: float, a: float, b: float) -> None:
    """Winkler = 2 / alpha × (pinball at alpha/2 + pinball at 1 - alpha/2)."""
    low, high = min(a, b), max(a, b)
    ends = mean_pinball_loss([truth], [low], alpha=0.05) + mean_pinball_loss([truth], [high], alpha=0.95)
    got = winkler(np.array([low]), np.array([high]), np.array([truth]), 0.9)[0]
    assert got == pytest.approx(20 * ends, abs=1e-9)


def test_hac_t_of_white_noise_is_the_plain_t_and_of_correlated_noise_is_smaller() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(20_000) + 0.05
    plain = noise.mean() / (noise.std() / np.sqrt(len(noise)))
    assert hac_t(noise) == pytest.approx(plain, rel=0.15)
    slow = np.convolve(rng.standard_normal(20_000), np.ones(12), "same") + 0.5
    assert hac_t(slow) < 0.5 * slow.mean() / (slow.std() / np.sqrt(len(slow)))


def test_direction_and_clark_west_distinguish_skill_from_chance() -> None:
    rng = np.random.default_rng(1)
    truth = rng.standard_normal(4_000)
    share, p, n = directions(truth, 0.2 * truth + rng.standard_normal(4_000))
    assert share > 0.52
    assert p < 0.01
    assert n == 4_000
    assert directions(truth, rng.standard_normal(4_000))[1] > 0.01
    assert clark_west_t(truth, 0.3 * truth) > 5
    assert abs(clark_west_t(truth, 0.3 * rng.standard_normal(4_000))) < 3


def test_qlike_is_least_at_the_true_variance_and_zero_there() -> None:
    proxy = np.full(10, 4.0)
    assert qlike(np.full(10, 2.0), proxy) == pytest.approx(0.0)
    assert qlike(np.full(10, 1.5), proxy) > 0.1


def test_the_worst_week_is_found() -> None:
    covered = np.ones(168 * 3)
    covered[170:204] = 0.0
    assert worst_week(covered, np.arange(168 * 3)) == pytest.approx(1 - 34 / 168)
