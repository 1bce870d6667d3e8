"""Metrics and calibration against other implementations and against what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_pinball_loss

from forecasting.data.samples import trailing_mean
from forecasting.evaluation.conformal import GAMMA, Calibrator, Track
from forecasting.evaluation.walk_forward import clark_west_t, directions, hac_t, pinball, qlike, winkler, worst_week
from forecasting.models.interface import LEVELS
from forecasting.models.trailing import WINDOW_H, trailing_quantiles

number = st.floats(-1.0, 1.0, allow_nan=False)
NORMAL = np.array([-1.6449, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449])


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


@given(st.lists(st.one_of(st.just(float("nan")), number), min_size=1, max_size=60), st.integers(1, 20))
def test_trailing_mean_equals_the_plain_loop(values: list[float], width: int) -> None:
    got = trailing_mean(np.array(values), width, 1)
    for i in range(len(values)):
        known = [v for v in values[max(0, i - width + 1) : i + 1] if not np.isnan(v)]
        expected = np.mean(known) if known else np.nan
        np.testing.assert_allclose(got[i], expected, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(200, 3_000), st.integers(0, 10_000))
def test_trailing_quantiles_equal_numpys(horizon: int, n: int, seed: int) -> None:
    z = np.random.default_rng(seed).standard_normal(n)
    at = np.array([n - 1, n // 2 + horizon])
    got, rms = trailing_quantiles(z, at, horizon)
    for row, t in enumerate(at):
        known = z[max(0, t - horizon + 1 - WINDOW_H) : t - horizon + 1]
        if len(known) < 100:
            assert np.isnan(got[row]).all()
        else:
            np.testing.assert_allclose(got[row], np.quantile(known, LEVELS))
            assert rms[row] == pytest.approx(np.sqrt(np.mean(known**2)))


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
def test_a_calibrator_goes_on_from_its_saved_state(truths: list[float]) -> None:
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


def test_calibration_does_not_see_the_truth_it_is_judged_by() -> None:
    rng = np.random.default_rng(3)
    truth = rng.standard_normal(1_000)
    quantiles = np.tile(NORMAL, (1_000, 1))
    changed = truth.copy()
    changed[700:] = 50.0
    before = Calibrator().replay(quantiles, np.ones(1_000), truth).quantiles
    after = Calibrator().replay(quantiles, np.ones(1_000), changed).quantiles
    np.testing.assert_array_equal(before[:701], after[:701])
    assert not np.array_equal(before[701:], after[701:])


def test_hac_t_of_white_noise_is_the_plain_t_and_of_correlated_noise_is_smaller() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(20_000) + 0.05
    plain = noise.mean() / (noise.std() / np.sqrt(len(noise)))
    assert hac_t(noise) == pytest.approx(plain, rel=0.15)
    slow = np.convolve(rng.standard_normal(20_000), np.ones(12), "same") + 0.5
    assert hac_t(slow) < 0.5 * slow.mean() / (slow.std() / np.sqrt(len(slow)))


def test_direction_and_clark_west_tell_skill_from_none() -> None:
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
