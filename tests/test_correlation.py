import numpy as np
import pytest
from scipy.stats import spearmanr

from pacx.statistics import Resamples, resample_patients, spearman, spearman_draws


def _columns(rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 8, rows).astype(float)  # ties, as rounded laboratory values have
    return x, x + rng.normal(scale=4, size=rows)


def test_the_rank_correlation_equals_scipys_with_ties():
    x, y = _columns()
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -x) == pytest.approx(-1)


def test_every_draw_equals_scipy_on_the_rows_that_were_drawn():
    x, y = _columns()
    patient = np.arange(40) // 2
    resamples = resample_patients(patient, draws=30)
    expected = []
    for weight in resamples.weights[:, resamples.codes].astype(int):
        rows = np.repeat(np.arange(40), weight)
        expected.append(spearmanr(x[rows], y[rows]).statistic)
    assert np.allclose(spearman_draws(x, y, resamples), expected, atol=1e-12)


def test_rows_with_an_unknown_side_are_left_out():
    x, y = _columns()
    holes = np.append(x, [np.nan, 3]), np.append(y, [1, np.nan])
    assert spearman(*holes) == pytest.approx(spearman(x, y))


def test_a_constant_column_and_too_few_rows_have_no_correlation():
    assert np.isnan(spearman([1, 1, 1, 1], [1, 2, 3, 4]))
    assert np.isnan(spearman([1, 2], [1, 2]))
    only_one_patient = Resamples(np.array([0, 0, 1, 1]), np.array([[1.0, 0.0]]))
    assert np.isnan(spearman_draws([1, 2, 3, 4], [1, 2, 3, 4], only_one_patient)[0])
