"""DeLong's variance against a published example and the sums over all pairs; adjusted p-values against worked ones."""

import numpy as np
import pytest
from scipy.stats import norm

from pacx.errors import PacxError
from pacx.statistics import (
    auroc,
    benjamini_hochberg,
    bootstrap_auroc,
    delong,
    delong_contrast,
    delong_difference,
    delong_interval,
    holm,
    one_row_each,
    paired_auroc_difference,
)

# Albumin, total protein, K-G score and outcome of the 43 of DeLong's 49 patients without a missing value, as printed in
# the SAS/STAT User's Guide, PROC LOGISTIC, "Comparing Receiver Operating Characteristic Curves"; so are the results.
_OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def _ovarian():
    albumin, protein, kg, outcome = np.array(_OVARIAN.split(), dtype=float).reshape(-1, 4).T
    return outcome, np.stack([10 - kg, albumin, protein], axis=1)


def test_the_published_example_of_ovarian_cancer_comes_out():
    target, scores = _ovarian()
    found = delong(target, scores)
    assert found.auroc == pytest.approx([0.7258, 0.7366, 0.6478], abs=5e-5)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx([0.1028, 0.0927, 0.1000], abs=5e-5)
    albumin, protein = (delong_difference(target, scores[:, one], scores[:, 0]) for one in (1, 2))
    assert albumin == pytest.approx((0.0108, -0.1761, 0.1976, 0.9102), abs=5e-5)
    assert protein == pytest.approx((-0.0780, -0.2830, 0.1271, 0.4561), abs=5e-5)
    assert norm.isf(albumin.p_value / 2) ** 2 == pytest.approx(0.0127, abs=5e-5)
    assert norm.isf(protein.p_value / 2) ** 2 == pytest.approx(0.5554, abs=5e-5)


def _by_all_pairs(target, scores):
    """DeLong's structural components from every pair of a positive and a negative."""
    positive, negative = scores[target == 1].T, scores[target == 0].T
    won = (positive[:, :, None] > negative[:, None, :]) + 0.5 * (positive[:, :, None] == negative[:, None, :])
    of_positives, of_negatives = won.mean(axis=2), won.mean(axis=1)
    covariance = np.cov(of_positives) / positive.shape[1] + np.cov(of_negatives) / negative.shape[1]
    return won.mean(axis=(1, 2)), covariance


@pytest.mark.parametrize("seed", range(5))
def test_mid_ranks_give_what_all_pairs_give(seed):
    rng = np.random.default_rng(seed)
    target = (rng.random(70) < 0.3).astype(float)
    scores = np.round(rng.normal(size=(70, 3)) + target[:, None], 1)  # with ties
    value, covariance = _by_all_pairs(target, scores)
    found = delong(np.append(target, np.nan), np.vstack([scores, [9, 9, 9]]))
    assert np.allclose(found.auroc, value, atol=1e-12)
    assert np.allclose(found.auroc, [auroc(target, column) for column in scores.T], atol=1e-12)
    assert np.allclose(found.covariance, covariance, atol=1e-12)


def test_one_image_per_patient_gives_about_the_interval_of_the_bootstrap():
    rng = np.random.default_rng(0)
    target = (rng.random(1000) < 0.3).astype(float)
    a, b = rng.normal(size=(2, 1000)) + target + 0.8 * rng.normal(size=1000)
    plain = delong_interval(target, a, scale="plain")
    drawn = bootstrap_auroc(target, a, np.arange(1000), draws=2000)
    assert plain == pytest.approx(drawn, abs=0.004)
    assert delong_interval(target, a) == pytest.approx(plain, abs=0.002)
    together = delong_difference(target, a, b)
    assert together[:3] == pytest.approx(
        paired_auroc_difference(target, a, b, np.arange(1000), draws=2000)[:3], abs=0.004
    )


def test_repeating_every_image_fools_delong_but_not_the_bootstrap():
    rng = np.random.default_rng(1)
    target = np.repeat([0.0, 1.0], 50)
    score, patient = rng.normal(size=100) + target, np.arange(100)
    once, thrice = (delong_interval(np.tile(target, k), np.tile(score, k)) for k in (1, 3))
    assert thrice.high - thrice.low < 0.65 * (once.high - once.low)
    assert one_row_each(patient)
    assert not one_row_each(np.tile(patient, 3))


def test_a_score_does_not_differ_from_itself_and_perfect_scores_have_no_logit():
    target, score = np.array([0, 0, 1, 1, 0, 1]), np.array([0.1, 0.4, 0.35, 0.8, 0.2, 0.9])
    assert delong_difference(target, score, 2 * score + 1) == (0.0, 0.0, 0.0, 1.0)
    perfect = delong_interval(target, target.astype(float))
    assert perfect.value == 1.0
    assert np.isnan(perfect.low)
    assert delong_interval(target, target.astype(float), scale="plain") == (1.0, 1.0, 1.0)


def test_the_mean_of_several_scores_uses_their_covariance():
    target, scores = _ovarian()
    found = delong(target, scores)
    mean = delong_contrast(found, np.full(3, 1 / 3))
    assert delong_interval(target, scores, scale="plain") == pytest.approx(mean[:3], abs=1e-12)
    se = np.sqrt(found.covariance.sum()) / 3
    assert mean.high - mean.low == pytest.approx(2 * norm.ppf(0.975) * se)


def test_too_few_rows_of_a_class_have_no_variance():
    assert np.isnan(delong([0, 0, 1], [0.1, 0.2, 0.3]).covariance).all()
    assert all(np.isnan(delong_interval([1, 1], [0.1, 0.2])))
    assert all(np.isnan(delong_difference([0, 0], [0.1, 0.2], [0.3, 0.1])))


def test_holm_of_a_worked_example():
    # sorted .005 .01 .03 .04 times 4 3 2 1, then made monotone
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])


def test_benjamini_hochberg_of_a_worked_example():
    # sorted .005 .01 .03 .04 times 4/1 4/2 4/3 4/4
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_undefined_p_values_belong_to_no_family():
    for adjust in (holm, benjamini_hochberg):
        assert np.isnan(adjust([np.nan, np.nan])).all()
        assert adjust([0.02, np.nan, 0.5])[[0, 2]] == pytest.approx(adjust([0.02, 0.5]))
        assert len(adjust([])) == 0
        with pytest.raises(PacxError, match="p-values lie in"):
            adjust([0.5, 1.5])


def test_holm_keeps_the_chance_of_any_false_finding_below_the_level():
    rng = np.random.default_rng(0)
    false = [(holm(rng.random(20)) < 0.05).any() for _ in range(1000)]
    assert 0.03 < np.mean(false) < 0.07  # exactly 1 - .95^20 to the first order; without Holm .64
