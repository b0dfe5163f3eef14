"""The long table of measures: what stands in it, by scikit-learn, and what must not."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import accuracy_score, average_precision_score, brier_score_loss, f1_score, roc_auc_score

from pacx.measures import COLUMNS, measure
from pacx.measures.columns import RULES
from pacx.scoring import MACRO, summarise
from pacx.statistics import delong_interval, f1_threshold, rates, specificity_threshold

IMAGES = 240
MANIFEST = pd.DataFrame(
    {
        "image_id": [f"i{i:03d}" for i in range(IMAGES)],
        "sex": ["F", "M", None, " M"] * (IMAGES // 4),
        "age": np.linspace(20, 81, IMAGES),
        "view": "PA",
    }
)


def _predictions(*, seed, labels=("sick", "worse"), seeds=(0,), fractions=(1.0,), per_patient=2, task="t"):
    parts = []
    for number, label in enumerate(labels):
        shared = np.random.default_rng([seed, number])
        target = (shared.random(IMAGES) < 0.3).astype(int)
        parts += [
            pd.DataFrame(
                {
                    "task": task,
                    "label": label,
                    "output": label,
                    "fraction": fraction,
                    "seed": one,
                    "image_id": MANIFEST["image_id"],
                    "patient_id": [f"p{i // per_patient}" for i in range(IMAGES)],
                    "target": target,
                    "score": 1.5 * target - 1 + np.random.default_rng([seed, number, one]).normal(size=IMAGES),
                }
            )
            for fraction in fractions
            for one in seeds
        ]
    return pd.concat(parts, ignore_index=True)


def _value(table, metric, rule="", *, label="sick", column="value", **wanted):
    wanted = {"subgroup_kind": "", "metric": metric, "rule": rule, "label": label, **wanted}
    found = table.loc[np.logical_and.reduce([table[key] == value for key, value in wanted.items()])]
    assert len(found) == 1
    return found.iloc[0][column]


@pytest.fixture(scope="module")
def of_test():
    return _predictions(seed=1, seeds=(0, 1))


@pytest.fixture(scope="module")
def of_val():
    return _predictions(seed=2, seeds=(0, 1))


@pytest.fixture(scope="module")
def table(of_test, of_val):
    return measure(of_test, of_val, MANIFEST, draws=100)


def _by_seed(predictions, label):
    own = predictions[predictions["label"] == label]
    return [(one["target"].to_numpy(), one["score"].to_numpy()) for _, one in own.groupby("seed")]


def test_every_row_has_a_known_rule_and_all_columns(table):
    assert tuple(table.columns) == COLUMNS
    assert set(table["rule"]) <= set(RULES)
    assert not table.duplicated(["label", "output", "subgroup_kind", "subgroup", "metric", "rule"]).any()
    defined = table[table["note"] == ""]
    assert (defined["low"] <= defined["value"]).all()
    assert (defined["value"] <= defined["high"]).all()


@pytest.mark.parametrize("label", ["sick", "worse"])
def test_values_are_those_of_scikit_learn_averaged_over_seeds(table, of_test, label):
    pairs = _by_seed(of_test, label)
    expected = {
        ("auroc", ""): roc_auc_score,
        ("average_precision", ""): average_precision_score,
        ("f1", "half"): lambda y, s: f1_score(y, s >= 0),
        ("accuracy", "half"): lambda y, s: accuracy_score(y, s >= 0),
        ("brier", ""): lambda y, s: brier_score_loss(y, expit(s)),
    }
    for (metric, rule), of in expected.items():
        mean = np.mean([of(y, s) for y, s in pairs])
        assert _value(table, metric, rule, label=label) == pytest.approx(mean, abs=1e-9)


def test_the_macro_f1_is_that_of_scikit_learn(table, of_test):
    sides = [_by_seed(of_test, label) for label in ("sick", "worse")]
    macros = [
        f1_score(np.stack([y for y, _ in of_seed], 1), np.stack([s >= 0 for _, s in of_seed], 1), average="macro")
        for of_seed in zip(*sides, strict=True)
    ]
    assert _value(table, "f1", "half", label=MACRO) == pytest.approx(np.mean(macros), abs=1e-9)


def test_the_auroc_and_its_interval_are_those_of_the_summary(table, of_test):
    summary = summarise(of_test, draws=100).mean
    for label in ("sick", "worse", MACRO):
        for column in ("value", "low", "high"):
            found = _value(table, "auroc", label=label, column=column)
            assert found == pytest.approx(summary["t", label, 1.0][column], abs=1e-12)


def test_thresholds_come_from_the_validation_rows_of_the_same_seed(table, of_test, of_val):
    f1, sensitivity, chosen = [], [], []
    for (y, s), (y_val, s_val) in zip(_by_seed(of_test, "sick"), _by_seed(of_val, "sick"), strict=True):
        chosen.append(f1_threshold(y_val, s_val))
        f1.append(rates(y, s, threshold=chosen[-1])["f1"])
        sensitivity.append(rates(y, s, threshold=specificity_threshold(y_val, s_val))["sensitivity"])
    assert _value(table, "f1", "val_f1") == pytest.approx(np.mean(f1))
    assert _value(table, "sensitivity", "val_specificity") == pytest.approx(np.mean(sensitivity))
    assert _value(table, "f1", "val_f1", column="threshold") == pytest.approx(np.mean(expit(chosen)))
    assert _value(table, "f1", "half", column="threshold") == 0.5


def test_without_validation_scores_only_the_threshold_of_one_half_is_left(of_test):
    bare = measure(of_test, None, MANIFEST, draws=20)
    assert np.isnan(_value(bare, "f1", "val_f1"))
    assert _value(bare, "f1", "val_f1", column="note") == "no validation scores of both classes"
    assert np.isfinite(_value(bare, "f1", "half"))


def test_a_column_of_one_class_is_undefined_and_left_out_of_the_mean(of_test, of_val):
    lonely = of_test.copy()
    lonely.loc[lonely["label"] == "worse", "target"] = 0
    found = measure(lonely, of_val, MANIFEST, draws=20)
    for metric, rule in (("auroc", ""), ("f1", "half"), ("accuracy", "half"), ("brier", ""), ("calibration_error", "")):
        assert np.isnan(_value(found, metric, rule, label="worse"))
        assert _value(found, metric, rule, label="worse", column="note") == "one class in the test split"
        assert _value(found, metric, rule, label=MACRO) == _value(found, metric, rule, label="sick")


def test_delong_stands_beside_the_bootstrap_only_where_every_patient_has_one_image(table, of_test, of_val):
    assert "delong" not in set(table["rule"])
    single = _predictions(seed=1, seeds=(0, 1), per_patient=1)
    found = measure(single, of_val, MANIFEST, draws=20)
    pairs = _by_seed(single, "sick")
    expected = delong_interval(pairs[0][0], np.stack([score for _, score in pairs], axis=1))
    for column, number in expected._asdict().items():
        assert _value(found, "auroc", "delong", column=column) == pytest.approx(number)


def test_subgroups_are_those_of_the_manifest_with_the_thresholds_of_the_whole(table, of_test):
    groups = table[table["subgroup_kind"] != ""].groupby("subgroup_kind")["subgroup"].unique()
    assert {kind: list(names) for kind, names in groups.items()} == {
        "age": ["<40", "40-59", "60-79", ">=80"],
        "sex": ["F", "M"],  # the view is the same for all
    }
    women = MANIFEST.loc[MANIFEST["sex"] == "F", "image_id"]
    own = of_test[of_test["image_id"].isin(women)]
    expected = np.mean([roc_auc_score(y, s) for y, s in _by_seed(own, "sick")])
    which = {"subgroup_kind": "sex", "subgroup": "F"}
    assert _value(table, "auroc", **which) == pytest.approx(expected)
    assert _value(table, "auroc", column="num", **which) == len(women)
    whole = _value(table, "f1", "val_f1", column="threshold")
    assert _value(table, "f1", "val_f1", column="threshold", **which) == whole


def test_a_group_with_few_positives_is_undefined_and_says_so(table):
    which = {"subgroup_kind": "age", "subgroup": ">=80"}
    assert _value(table, "auroc", column="num", **which) < 10
    assert np.isnan(_value(table, "auroc", **which))
    assert _value(table, "auroc", column="note", **which) == "fewer than 10 positives or negatives"


def test_groups_are_averaged_over_the_same_outputs():
    table = _predictions(seed=1, labels=("common", "rare"))
    men = MANIFEST.loc[MANIFEST["sex"].isin(["M", " M"]), "image_id"]
    rare = (table["label"] == "rare") & table["image_id"].isin(men)
    table.loc[rare, "target"] = (np.arange(rare.sum()) < 9).astype(int)  # one positive too few
    facts = MANIFEST[["image_id", "sex"]]
    found = measure(table, _predictions(seed=2, labels=("common", "rare")), facts, draws=50)
    aurocs = found[(found["metric"] == "auroc") & (found["subgroup_kind"] == "sex")]
    by_label = aurocs.pivot(index="label", columns="subgroup", values="value")
    assert np.isnan(by_label.loc["rare", "M"])
    assert np.isfinite(by_label.loc["rare", "F"])
    assert by_label.loc[MACRO].to_dict() == pytest.approx(by_label.loc["common"].to_dict())
    notes = aurocs[aurocs["label"] == MACRO]["note"]
    assert set(notes) == {"mean over 1 of 2: the others are too rare in a group"}


def test_subgroups_are_measured_at_the_largest_fraction(of_val):
    scores = _predictions(seed=1, fractions=(0.1, 1.0))
    found = measure(scores, of_val, MANIFEST, draws=10)
    assert set(found.loc[found["subgroup_kind"] == "", "fraction"]) == {0.1, 1.0}
    assert set(found.loc[found["subgroup_kind"] != "", "fraction"]) == {1.0}


def test_classes_are_judged_one_by_one_and_by_the_highest_score():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, IMAGES)
    score = 1.5 * np.eye(3)[true] + rng.normal(size=(IMAGES, 3))
    parts = [
        _predictions(seed=0, labels=("kind",)).assign(output=name, target=(true == k).astype(int), score=score[:, k])
        for k, name in enumerate("abc")
    ]
    scores = pd.concat(parts)
    found = measure(scores, scores, MANIFEST, draws=20)
    called = score.argmax(axis=1)
    expected = accuracy_score(true, called), f1_score(true, called, average="macro")
    assert _value(found, "accuracy", "argmax", label="kind") == pytest.approx(expected[0])
    assert _value(found, "f1", "argmax", label="kind") == pytest.approx(expected[1])
    aurocs = [roc_auc_score(true == k, score[:, k]) for k in range(3)]
    assert _value(found, "auroc", label="kind", output="b") == pytest.approx(aurocs[1])
    assert _value(found, "auroc", label="kind", output=MACRO) == pytest.approx(np.mean(aurocs))
    rare = measure(pd.concat(parts[:2]), None, MANIFEST, draws=20)  # nothing was learnt about class c
    right = (called[called < 2] == true[called < 2]).sum()
    assert _value(rare, "accuracy", "argmax", label="kind") <= np.mean(true < 2)
    assert _value(rare, "accuracy", "argmax", label="kind") >= right / IMAGES


def test_several_labels_of_the_same_images_are_no_classes(table):
    assert "argmax" not in set(table["rule"])


def test_a_seed_that_could_not_learn_a_label_is_left_out_of_its_mean(of_test, of_val):
    fewer = of_test[~((of_test["seed"] == 1) & (of_test["label"] == "worse"))]
    found = measure(fewer, of_val, MANIFEST, draws=20)
    (y, s), _ = _by_seed(of_test, "worse")
    assert _value(found, "auroc", label="worse") == pytest.approx(roc_auc_score(y, s))
    assert [_value(found, "auroc", label=label, column="num_seeds") for label in ("worse", "sick")] == [1, 2]
