"""Calibration of log-odds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from pacx.statistics import calibration_error
from pacx.statistics.platt import fit_platt


def test_large_samples_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    score = rng.normal(3, 5, 20_000)
    target = (rng.random(20_000) < expit(0.4 * score - 1)).astype(float)
    expected = LogisticRegression(C=np.inf, tol=1e-10).fit(score[:, None], target)
    found = fit_platt(target, score)
    assert found.fitted
    assert found.slope == pytest.approx(expected.coef_[0, 0], abs=2e-3)  # the smoothing of the targets is 1e-4 here
    assert found.shift == pytest.approx(expected.intercept_[0], abs=5e-3)
    calibrated = expit(found.slope * score + found.shift)
    assert calibration_error(target, calibrated) < 0.02 < calibration_error(target, expit(score))


def test_perfect_separation_does_not_make_it_certain() -> None:
    target = np.repeat([0.0, 1.0], 10)
    found = fit_platt(target, np.repeat([-5.0, 5.0], 10))
    low, high = expit(found.slope * np.array([-5, 5]) + found.shift)
    assert low == pytest.approx(1 / 12, abs=1e-4)  # Platt's targets
    assert high == pytest.approx(11 / 12, abs=1e-4)


@pytest.mark.parametrize(
    ("target", "score"),
    [
        ([0, 0, 0, 0, 0, 1, 1, 1, 1], np.arange(9)),
        ([0] * 9, np.arange(9)),
        ([1] * 10 + [0] * 10, np.arange(20)),
        ([0, 1] * 10, np.ones(20)),
        ([], []),
    ],
    ids=["too few positives", "no positives", "falls where it should rise", "constant", "nothing"],
)
def test_what_cannot_be_fitted_is_left_as_it_is(target: list[int], score: np.ndarray) -> None:
    assert fit_platt(np.array(target, float), score) == (1.0, 0.0, False)


def test_unknown_answers_are_left_out() -> None:
    rng = np.random.default_rng(1)
    score = rng.normal(size=200)
    target = (rng.random(200) < expit(score)).astype(float)
    with_gaps = np.concatenate([target, np.full(50, np.nan)])
    assert fit_platt(with_gaps, np.concatenate([score, np.full(50, 99.0)])) == fit_platt(target, score)
