import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from pacx.errors import PacxError
from pacx.statistics import (
    auroc,
    auroc_draws,
    average_precision,
    bootstrap_auroc,
    bootstrap_macro_auroc,
    bootstrap_mean,
    difference_of,
    interval_of,
    macro_auroc,
    paired_auroc_difference,
    paired_macro_auroc_difference,
    paired_mean_difference,
    resample_patients,
    retrieval,
    retrieval_hits,
)


def _cohort(seed, *, rows=200, patients=60, ties=True):
    rng = np.random.default_rng(seed)
    target = (rng.random(rows) < 0.3).astype(float)
    score = rng.normal(size=rows) + target
    patient = np.array([f"p{i}" for i in rng.integers(0, patients, rows)])
    return target, np.round(score, 1) if ties else score, patient


def _auroc_by_counting_pairs(target, score, weight):
    won = total = 0.0
    for i in np.flatnonzero(target == 1):
        for j in np.flatnonzero(target == 0):
            pair = weight[i] * weight[j]
            total += pair
            won += pair * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
    return won / total if total else np.nan


@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_average_precision_equal_scikit_learn_with_and_without_weights(seed):
    target, score, _ = _cohort(seed)
    weight = np.random.default_rng(seed + 100).integers(0, 4, len(target)).astype(float)
    assert abs(auroc(target, score) - roc_auc_score(target, score)) < 1e-12
    assert abs(auroc(target, score, weight) - roc_auc_score(target, score, sample_weight=weight)) < 1e-12
    assert abs(average_precision(target, score) - average_precision_score(target, score)) < 1e-12
    weighted = average_precision_score(target, score, sample_weight=weight)
    assert abs(average_precision(target, score, weight) - weighted) < 1e-12


def test_auroc_of_a_worked_example_with_one_tie():
    # positives .4 .8; negatives .1 .4: wins 1 + .5 + 1 + 1 of 4 pairs
    assert auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8]) == 0.875


def test_constant_scores_score_one_half():
    assert auroc([0, 1, 1, 0], [3.0, 3.0, 3.0, 3.0]) == 0.5


def test_one_class_gives_nan_not_one_half():
    assert np.isnan(auroc([1, 1], [0.2, 0.3]))
    assert np.isnan(average_precision([0, 0], [0.2, 0.3]))
    assert all(np.isnan(bootstrap_auroc([0, 0], [0.2, 0.3], ["a", "b"])))


def test_unknown_labels_leave_the_row_out():
    assert auroc([0, np.nan, 1], [0.1, 5.0, 0.2]) == auroc([0, 1], [0.1, 0.2])


def test_labels_that_are_not_binary_and_nan_scores_are_refused():
    with pytest.raises(PacxError, match="0, 1 or NaN"):
        auroc([0, 2], [0.1, 0.2])
    with pytest.raises(PacxError, match="diverged"):
        auroc([0, 1], [0.1, np.nan])


def test_bootstrap_interval_equals_a_plain_loop_over_the_same_weights():
    target, score, patient = _cohort(1, rows=80, patients=25)
    target[:5] = np.nan
    resamples = resample_patients(patient, draws=50, seed=3)
    drawn = []
    for counts in resamples.weights:
        weight = np.array([counts[code] for code in resamples.codes])
        drawn.append(_auroc_by_counting_pairs(target, score, weight))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    found = bootstrap_auroc(target, score, patient, draws=50, seed=3)
    assert np.allclose(auroc_draws(target, score, resamples), drawn, atol=1e-12, equal_nan=True)
    assert np.allclose(found, (auroc(target, score), low, high), atol=1e-12)


def test_draws_are_computed_in_blocks_without_changing_them(monkeypatch):
    target, score, patient = _cohort(2)
    resamples = resample_patients(patient, draws=37)
    whole = auroc_draws(target, score, resamples)
    monkeypatch.setattr("pacx.statistics.ordering._BLOCK", 1000)
    assert np.array_equal(whole, auroc_draws(target, score, resamples))


def test_each_draw_has_as_many_patients_as_the_cohort_and_ignores_row_order():
    patient = np.array(["b", "a", "b", "c"])
    first = resample_patients(patient, draws=200, seed=1)
    second = resample_patients(patient[::-1], draws=200, seed=1)
    assert (first.weights.sum(axis=1) == 3).all()
    assert np.array_equal(first.weights[:, first.codes], second.weights[:, second.codes[::-1]])


def test_repeating_every_image_of_a_patient_does_not_narrow_the_interval():
    target, score, _ = _cohort(4, rows=60)
    patient = np.arange(60)
    once = bootstrap_auroc(target, score, patient)
    thrice = bootstrap_auroc(np.tile(target, 3), np.tile(score, 3), np.tile(patient, 3))
    assert np.allclose(once, thrice, atol=1e-12)


def test_interval_covers_the_true_auroc_about_as_often_as_promised():
    # two unit normals one apart: AUROC = Phi(1 / sqrt 2)
    truth, covered = 0.7602499, 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        target = np.repeat([0.0, 1.0], 60)
        found = bootstrap_auroc(target, rng.normal(size=120) + target, np.arange(120), draws=300, seed=seed)
        covered += found.low <= truth <= found.high
    assert 88 <= covered <= 100


def test_paired_difference_uses_the_same_draws_for_both():
    target, score, patient = _cohort(5, ties=False)
    same = paired_auroc_difference(target, score, score * 2 + 1, patient)
    assert (same.value, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    better = paired_auroc_difference(target, score + target, score, patient)
    resamples = resample_patients(patient)
    drawn = auroc_draws(target, score + target, resamples) - auroc_draws(target, score, resamples)
    assert np.allclose((better.low, better.high), np.quantile(drawn, [0.025, 0.975]))
    assert better.low > 0
    assert better.p_value == pytest.approx(2 / 1001)


def test_p_value_is_below_five_percent_exactly_when_the_interval_excludes_zero():
    clear = difference_of(1.0, np.linspace(-0.1, 2, 1000) + 0.15)
    unclear = difference_of(1.0, np.linspace(-0.1, 2, 1000))
    assert clear.low > 0
    assert clear.p_value < 0.05
    assert unclear.low < 0
    assert unclear.p_value == pytest.approx(2 * 49 / 1001)


def test_macro_auroc_is_the_mean_over_labels_that_have_both_classes():
    rng = np.random.default_rng(0)
    target = (rng.random((100, 3)) < 0.4).astype(float)
    target[:, 2] = 0
    score, patient = rng.normal(size=(100, 3)) + target, np.arange(100) // 2
    expected = (auroc(target[:, 0], score[:, 0]) + auroc(target[:, 1], score[:, 1])) / 2
    assert macro_auroc(target, score) == pytest.approx(expected, abs=1e-12)
    found = bootstrap_macro_auroc(target, score, patient, draws=100)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.low < expected < found.high
    assert paired_macro_auroc_difference(target, score, score, patient).value == 0


def test_mean_interval_equals_a_plain_loop_and_leaves_nan_out():
    rng = np.random.default_rng(0)
    values, patient = rng.normal(size=30), rng.integers(0, 10, 30)
    values[3] = np.nan
    resamples = resample_patients(patient, draws=40, seed=7)
    assert not resamples.weights.flags.writeable, "the next question on as many patients gets the same array"
    drawn = []
    for counts in resamples.weights:
        kept = [
            v for v, c in zip(values, resamples.codes, strict=True) for _ in range(int(counts[c])) if np.isfinite(v)
        ]
        drawn.append(np.mean(kept))
    found = bootstrap_mean(values, patient, draws=40, seed=7)
    assert np.allclose(found, (np.nanmean(values), *np.quantile(drawn, [0.025, 0.975])), atol=1e-12)


def test_paired_mean_difference_drops_rows_that_either_side_lacks():
    found = paired_mean_difference([1.0, 2.0, np.nan], [0.0, np.nan, 5.0], ["a", "b", "c"])
    assert found.value == 1.0


def test_interval_of_ignores_undefined_draws():
    assert interval_of(2.0, [1.0, np.nan, 3.0], level=1.0) == (2.0, 1.0, 3.0)
    assert np.isnan(interval_of(2.0, [np.nan]).low)


def test_retrieval_finds_scaled_copies_and_reports_chance():
    rng = np.random.default_rng(0)
    query = rng.normal(size=(50, 8))
    found = retrieval(query, query * rng.uniform(0.1, 9, (50, 1)))
    assert found["r1"] == (1.0, 1.0, 1.0)
    assert found["chance"] == {"r1": 0.02, "r5": 0.1, "r10": 0.2}
    assert (found["n"], found["median_rank"]) == (50, 1.0)


def test_retrieval_of_permuted_pairs_is_at_chance():
    rng = np.random.default_rng(1)
    query = rng.normal(size=(400, 16))
    found = retrieval(query, query[rng.permutation(400)])
    for k in (1, 5, 10):
        assert found[f"r{k}"].low <= k / 400 <= found[f"r{k}"].high + 0.005
    assert found["r10"].value < 0.06


@pytest.mark.parametrize("constant", [np.zeros(6), np.full(6, 0.1)])
def test_constant_embeddings_score_chance_not_one(constant):
    rng = np.random.default_rng(0)
    found = retrieval(np.tile(constant, (40, 1)), rng.normal(size=(40, 6)))
    collapsed = retrieval(rng.normal(size=(40, 6)), np.tile(constant, (40, 1)))
    assert collapsed["r1"].value == pytest.approx(1 / 40)
    assert collapsed["r10"].value == pytest.approx(10 / 40)
    assert collapsed["median_rank"] == 20.5
    assert found["r1"].value == pytest.approx(1 / 40)


def test_retrieval_among_two_identical_gallery_rows_counts_half():
    gallery = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    hits, rank = retrieval_hits(gallery, gallery, ks=(1, 2))
    assert np.allclose(hits, [[0.5, 1.0], [0.5, 1.0], [1.0, 1.0]])
    assert np.allclose(rank, [1.5, 1.5, 1.0])


def test_retrieval_refuses_unequal_shapes_and_infinite_embeddings():
    with pytest.raises(PacxError, match="must agree"):
        retrieval_hits(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(PacxError, match="finite"):
        retrieval_hits(np.full((3, 2), np.inf), np.ones((3, 2)))


def test_random_scores_of_many_patients_score_close_to_one_half():
    rng = np.random.default_rng(0)
    target = (rng.random((10_000, 2)) < 0.1).astype(float)
    found = bootstrap_macro_auroc(target, rng.normal(size=target.shape), np.arange(10_000))
    assert 0.48 < found.low < found.value < found.high < 0.52


def test_nothing_to_score_gives_nan():
    assert np.isnan(bootstrap_mean([], []).value)
    assert np.isnan(retrieval(np.empty((0, 3)), np.empty((0, 3)))["r1"].value)


def test_a_stratified_draw_holds_as_many_patients_with_a_positive_as_the_cohort():
    rng = np.random.default_rng(0)
    patient = rng.integers(0, 200, 400)
    target = (rng.random(400) < 0.01).astype(float)
    target[5] = np.nan
    names, codes = np.unique(patient, return_inverse=True)
    sick = np.array([np.nanmax(np.append(target[codes == one], 0)) == 1 for one in range(len(names))])
    plain, kept = (resample_patients(patient, draws=300, stratify=given) for given in (None, target))
    assert (kept.weights[:, sick].sum(axis=1) == sick.sum()).all()
    assert (kept.weights[:, ~sick].sum(axis=1) == (~sick).sum()).all()
    assert np.ptp(plain.weights[:, sick].sum(axis=1)) > 0
    assert np.isfinite(auroc_draws(target, rng.normal(size=400), kept)).all()


def test_patients_without_a_known_label_are_a_stratum_of_their_own():
    drawn = resample_patients(["a", "b", "c", "c"], draws=50, stratify=[np.nan, 1, 0, np.nan])
    assert (drawn.weights == 1).all()
    with pytest.raises(PacxError, match="1 values for 2 rows"):
        resample_patients(["a", "b"], stratify=[1])


def test_one_stratum_draws_as_no_stratum_does():
    patient = np.arange(30) // 2
    plain, same = resample_patients(patient, seed=4), resample_patients(patient, seed=4, stratify=np.ones(30))
    assert np.array_equal(plain.weights, same.weights)
