"""The parts of the quantile LSTM that need no Keras."""

import numpy as np

from forecasting.models.lstm_quantile import shrinkage, split_tail


def test_the_validation_block_lies_a_gap_after_what_is_fitted() -> None:
    fit_on, validate_on = split_tail(np.arange(1_000), 0.1)
    assert validate_on.tolist() == list(range(900, 1_000))
    assert fit_on[-1] < 900 - 60


def test_a_median_without_skill_is_not_trusted() -> None:
    truth = np.array([1.0, -1.0, 1.0, -1.0])
    assert shrinkage(truth / 2, truth) == 1.0
    assert shrinkage(-truth, truth) == 0.0
    assert shrinkage(np.zeros(4), truth) == 0.0
