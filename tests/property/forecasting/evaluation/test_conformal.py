"""Calibration: coverage, causality, saved state."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.evaluation.conformal import GAMMA, Calibrator, Track

NORMAL = np.array([-1.6449, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.4, 2.5))
def test_coverage_comes_to_its_level_however_wrong_sigma_is(seed: int, wrong: float) -> None:
    rng = np.random.default_rng(seed)
    n = 6_000
    truth = rng.standard_normal(n) * 0.01
    quantiles = np.tile(NORMAL * 0.01 * wrong, (n, 1))
    replay = Calibrator().replay(quantiles, np.full(n, 0.01 * wrong), truth)
    assert replay.covered[500:].mean() == pytest.approx(0.9, abs=0.02)
    inside = (truth >= replay.interval_95[:, 0]) & (truth <= replay.interval_95[:, 1])
    assert inside[500:].mean() == pytest.approx(0.95, abs=0.02)
    assert np.all(np.diff(replay.quantiles, axis=1) >= 0)


@given(st.lists(st.floats(-2.0, 2.0), min_size=50, max_size=200))
def test_a_calibrator_continues_from_its_saved_state(truths: list[float]) -> None:
    whole, first = Calibrator(), Calibrator()
    half = len(truths) // 2
    for truth in truths[:half]:
        whole.update(NORMAL, 1.0, truth)
        first.update(NORMAL, 1.0, truth)
    second = Calibrator.from_state(first.state())
    for truth in truths[half:]:
        whole.update(NORMAL, 1.0, truth)
        second.update(NORMAL, 1.0, truth)
    assert whole.state() == second.state()
    assert whole.band(NORMAL, 1.0).interval == second.band(NORMAL, 1.0).interval


@given(st.lists(st.floats(-5.0, 5.0), min_size=31, max_size=300))
def test_alpha_moves_by_gamma_times_the_miss(scores: list[float]) -> None:
    track = Track(0.1)
    for i, value in enumerate(scores):
        before, margin = track.alpha, track.margin()
        covered = track.update(value)
        assert covered == (value <= margin)
        if i >= 30:
            assert track.alpha == pytest.approx(before + GAMMA * (0.1 - (not covered)))


def test_calibration_uses_no_truth_of_its_own_hour() -> None:
    rng = np.random.default_rng(3)
    truth = rng.standard_normal(1_000)
    quantiles = np.tile(NORMAL, (1_000, 1))
    changed = truth.copy()
    changed[700:] = 50.0
    before = Calibrator().replay(quantiles, np.ones(1_000), truth).quantiles
    after = Calibrator().replay(quantiles, np.ones(1_000), changed).quantiles
    np.testing.assert_array_equal(before[:701], after[:701])
    assert not np.array_equal(before[701:], after[701:])
