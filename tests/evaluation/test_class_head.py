import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from pacx.errors import PacxError
from pacx.evaluation.class_head import find_question, fit_head
from pacx.evaluation.linear import STRENGTHS


@pytest.fixture(scope="module")
def features(store):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(len(store), 6)).astype(np.float32) * [1, 5, 0.1, 1, 1, 0] + 3
    noise[:, 1] += 4 * store.manifest["side"].to_numpy()
    return noise.astype(np.float32)


def test_the_head_is_scikit_learns_with_the_best_c_by_validation(store, features):
    question = find_question(store, "side")
    answers = question.answers(store)
    head = fit_head(features, answers, store)
    parts = {split: store.rows(split, needs=("image",)) for split in ("train", "val", "test")}
    scaler = StandardScaler().fit(features[parts["train"]].astype(np.float64))
    x = {split: scaler.transform(features[rows].astype(np.float64)) for split, rows in parts.items()}
    y = {split: answers[rows] for split, rows in parts.items()}
    models = [LogisticRegression(C=c, tol=1e-12, max_iter=10_000).fit(x["train"], y["train"]) for c in STRENGTHS]
    scores = [roc_auc_score(y["val"], model.decision_function(x["val"])) for model in models]
    best = int(np.argmax(scores))
    assert head.strength == STRENGTHS[best]
    assert head.auroc["val"] == pytest.approx(scores[best], abs=1e-9)
    logits = features[parts["test"]] @ head.weight + head.intercept
    assert np.allclose(logits, models[best].decision_function(x["test"]), atol=1e-4)
    assert head.auroc["test"] == pytest.approx(roc_auc_score(y["test"], logits))


def test_unknown_labels_neither_train_nor_choose(store, features):
    answers = find_question(store, "several/partly").answers(store)
    unknown = np.isnan(answers)
    assert unknown.sum() == store.manifest["partly"].isna().sum() > 0
    changed = features.copy()
    changed[unknown & (store.manifest["split"] != "train").to_numpy()] = 1e6
    head, same = fit_head(features, answers, store), fit_head(changed, answers, store)
    assert np.array_equal(head.weight, same.weight)
    assert head.auroc == same.auroc


def test_one_class_in_validation_takes_the_fixed_strength(store, features):
    head = fit_head(features, find_question(store, "quiet_val").answers(store), store)
    assert head.strength == pytest.approx(1 / 6)
    assert np.isnan(head.auroc["val"])


def test_a_question_is_a_task_or_an_output_of_one(store):
    assert find_question(store, "side").column == "side"
    middle = find_question(store, "third/middle")
    assert (middle.column, middle.positive) == ("third", 1.0)
    assert np.array_equal(middle.answers(store), (store.manifest["third"] == 1).astype(float))
    with pytest.raises(PacxError, match="several/side, several/partly, several/coin"):
        find_question(store, "several")
    with pytest.raises(PacxError, match="third/top, third/middle, third/bottom"):
        find_question(store, "third/left")
    with pytest.raises(PacxError, match="has no task 'elsewhere'"):
        find_question(store, "elsewhere")


def test_a_label_without_positives_in_training_is_refused(store, features):
    with pytest.raises(PacxError, match="0 positive and"):
        fit_head(features, find_question(store, "rare").answers(store), store)
