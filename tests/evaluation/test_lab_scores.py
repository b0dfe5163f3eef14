import numpy as np
import pandas as pd
import pytest
from lab_runs import make_predictions
from scipy.stats import spearmanr

from pacx.errors import PacxError
from pacx.evaluation.lab_scores import compare_physiology, summarise_physiology


def only(found):
    assert len(found["labs"]) == 1
    return found["labs"][0]


def test_one_run_is_scored_as_scipy_and_a_plain_calculation_do():
    table = make_predictions()
    lab = only(summarise_physiology(table, draws=200))
    error, reference = ((table["truth"] - table[name]) ** 2 for name in ("predicted", "baseline"))
    assert lab["spearman"].value == pytest.approx(spearmanr(table["score"], table["value"]).statistic, abs=1e-12)
    assert lab["skill"].value == pytest.approx(1 - error.mean() / reference.mean(), abs=1e-12)
    assert lab["spearman"].low < lab["spearman"].value < lab["spearman"].high
    assert (lab["n"], lab["num_patients"], lab["few"]) == (80, 40, False)


def test_the_training_mean_has_no_skill_and_no_order():
    table = make_predictions().assign(score=0.5, predicted=0.5)
    lab = only(summarise_physiology(table, draws=50))
    assert lab["skill"].value == 0
    assert np.isnan(lab["spearman"].value)


def test_ranks_are_compared_within_folds_and_averaged_by_their_rows():
    folds = [make_predictions(rows=60, fold=0), make_predictions(rows=30, noise=1.0, seed=1, fold=1)]
    folds[1]["score"] -= 1000  # another read-out has another scale
    alone = [only(summarise_physiology(fold, draws=20))["spearman"].value for fold in folds]
    pooled = only(summarise_physiology(pd.concat(folds), draws=20))
    assert pooled["spearman"].value == pytest.approx((60 * alone[0] + 30 * alone[1]) / 90)
    assert (pooled["n"], pooled["num_patients"], pooled["num_runs"]) == (90, 45, 2)


def test_a_pool_of_folds_has_a_narrower_interval_than_one_of_them():
    folds = [make_predictions(rows=60, seed=number, fold=number) for number in range(3)]
    one, all_three = (only(summarise_physiology(table)) for table in (folds[0], pd.concat(folds)))
    widths = [lab["spearman"].high - lab["spearman"].low for lab in (one, all_three)]
    assert 0.4 * widths[0] < widths[1] < 0.8 * widths[0]  # about 1 / sqrt(3)


def test_a_second_image_of_the_same_patient_does_not_narrow_the_interval():
    one = make_predictions(noise=0.6)
    two = pd.concat([one, one.assign(image_id=one["image_id"] + "b")])
    single, double = (only(summarise_physiology(table, draws=300)) for table in (one, two))
    assert double["n"] == 2 * single["n"]
    assert double["spearman"] == pytest.approx(single["spearman"])
    assert double["skill"] == pytest.approx(single["skill"])


def test_training_seeds_on_the_same_patients_do_not_count_as_more_patients():
    one = make_predictions(fold=0)
    twice = pd.concat([one, one.assign(run=1)])
    single, pooled = (only(summarise_physiology(table, draws=300)) for table in (one, twice))
    assert pooled["n"] == single["n"]
    assert pooled["spearman"] == pytest.approx(single["spearman"])


def test_labs_with_few_values_are_listed_and_not_counted():
    rare = make_predictions(rows=20, lab="rare", noise=0.0)
    one_patient = make_predictions(lab="ward", noise=0.0).assign(patient_id="p")
    found = summarise_physiology(pd.concat([make_predictions(noise=50, seed=3), rare, one_patient]), draws=100)
    assert {lab["lab"]: lab["few"] for lab in found["labs"]} == {"crp": False, "rare": True, "ward": True}
    assert (found["num_labs"], found["num_listed"]) == (1, 3)
    assert found["share_above_zero"] == {"spearman": 0, "skill": 0}
    assert summarise_physiology(make_predictions(), draws=100)["share_above_zero"]["spearman"] == 1


def test_two_encoders_are_compared_on_the_same_draws():
    good, bad = make_predictions(noise=0.2), make_predictions(noise=1.5)
    found = compare_physiology(good, bad.sample(frac=1, random_state=0), draws=300).set_index("metric")
    a, b = (only(summarise_physiology(table))["spearman"].value for table in (good, bad))
    assert found.loc["spearman", "difference"] == pytest.approx(a - b)
    assert found.loc["spearman", "low"] > 0
    same = compare_physiology(good, good, draws=50)
    assert (same["difference"] == 0).all() and (same["low"] == 0).all() and (same["high"] == 0).all()


def test_other_rows_other_folds_and_other_labs_cannot_be_compared():
    table = make_predictions(fold=0)
    with pytest.raises(PacxError, match="not tested on the same values of 'crp'"):
        compare_physiology(table, table.iloc[1:])
    with pytest.raises(PacxError, match="not tested on the same values"):
        compare_physiology(table, table.assign(fold=1))
    with pytest.raises(PacxError, match="share no lab"):
        compare_physiology(table, table.assign(lab="ldh"))
    with pytest.raises(PacxError, match=r"no predictions of `pacx physiology`.* score"):
        summarise_physiology(table.drop(columns="score"))
