import logging

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pacx.evaluation.logistic import fit_logistic

STRENGTHS = 10.0 ** np.arange(-5, 2)


def _problem(seed, rows, features):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)) * np.exp(-np.arange(features) / features * 4)
    x = x @ np.linalg.qr(rng.normal(size=(features, features)))[0]
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    probability = 1 / (1 + np.exp(1.5 - x @ rng.normal(size=features)))
    return x, (rng.random(rows) < probability).astype(float)


@pytest.mark.parametrize(("rows", "features"), [(300, 12), (25, 40)], ids=["more rows", "more features"])
def test_all_strengths_equal_scikit_learn(rows, features):
    x, y = _problem(0, rows, features)
    fit = fit_logistic(x, np.repeat(y[:, None], len(STRENGTHS), axis=1), STRENGTHS)
    for i, strength in enumerate(STRENGTHS):
        reference = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(x, y)
        assert np.allclose(fit.weight[:, i], reference.coef_[0], atol=1e-3)
        assert np.allclose(fit.intercept[i], reference.intercept_[0], atol=1e-3)
        found = 1 / (1 + np.exp(-fit.logits(x)[:, i]))
        assert np.allclose(found, reference.predict_proba(x)[:, 1], atol=1e-3)


def test_problems_solved_together_equal_problems_solved_alone():
    x, y = _problem(1, 120, 8)
    labels = np.stack([y, 1 - y, np.roll(y, 7)], axis=1)
    together = fit_logistic(x, labels, [0.1, 1.0, 1e-4])
    for i, strength in enumerate([0.1, 1.0, 1e-4]):
        alone = fit_logistic(x, labels[:, [i]], [strength])
        assert np.allclose(together.weight[:, i], alone.weight[:, 0], atol=1e-6)


def test_separable_classes_converge(caplog):
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    with caplog.at_level(logging.WARNING, logger="pacx"):
        fit = fit_logistic(x, np.array([[0.0], [0.0], [1.0], [1.0]]), [1.0])
    assert not caplog.records
    # stationarity: w = C sum_i (y_i - p_i) x_i
    p = 1 / (1 + np.exp(-fit.logits(x)[:, 0]))
    assert fit.weight[0, 0] == pytest.approx(np.sum((np.array([0, 0, 1, 1]) - p) * x[:, 0]), abs=1e-5)


def test_a_constant_feature_gets_no_weight():
    x, y = _problem(2, 60, 3)
    fit = fit_logistic(np.column_stack([x, np.zeros(60)]), y[:, None], [1.0])
    assert fit.weight[3, 0] == 0
