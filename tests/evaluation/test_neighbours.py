import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pacx.evaluation import neighbours as module
from pacx.evaluation.neighbours import TEMPERATURE, run_neighbours
from pacx.evaluation.probe import probe
from pacx.evaluation.problems import ProbeData, make_problems
from pacx.frozen.features import extract


@pytest.fixture(scope="module")
def data(store, encoder):
    rows = store.rows()
    return ProbeData.standardised(store, rows, extract(encoder, store, rows, token="both"))


def _log_odds(training, label, query, k):
    """One row at a time, as the module's first lines say."""
    unit = training / np.linalg.norm(training, axis=1, keepdims=True)
    cosine = unit @ (query / np.linalg.norm(query))
    nearest = np.argsort(-cosine)[:k]
    weight = np.exp((cosine[nearest] - cosine[nearest[0]]) / TEMPERATURE)
    p = (label.mean() + np.sum(weight * label[nearest])) / (1 + weight.sum())
    return np.log(p / (1 - p))


@pytest.mark.parametrize("block", [7, 1024])
def test_votes_are_those_of_the_definition_whatever_the_size_of_a_block(data, store, monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK_ROWS", block)
    problems = make_problems(data, [store.task("several"), store.task("third")], fractions=[0.3, 1.0], seeds=2)
    for attempt in run_neighbours(data, problems):
        problem, k = attempt.problem, attempt.chosen["k"]
        training = data.of(problem.rows).astype(np.float64)
        values = list(problem.learnable(data).values())
        for split, found in (("val", attempt.val), ("test", attempt.test)):
            assert found.rows.tolist() == data.known(problem.label, split).tolist()
            for number in (0, len(found.rows) // 2, len(found.rows) - 1):
                query = data.of(found.rows[[number]])[0].astype(np.float64)
                expected = [
                    _log_odds(training, data.label(problem.label, problem.rows) == value, query, k) for value in values
                ]
                assert np.allclose(found.score[number], expected, atol=1e-4)


def test_k_is_the_best_on_validation_and_never_more_than_there_are_rows(data, store, monkeypatch):
    problems = make_problems(data, [store.task("side")], fractions=[0.2, 1.0], seeds=1)
    alone = {}
    for k in (1, 5, 20, 100):
        monkeypatch.setattr(module, "NEIGHBOURS", (k,))
        monkeypatch.setattr(module.math, "isqrt", lambda _, k=k: k)
        alone[k] = run_neighbours(data, problems)
    monkeypatch.undo()
    monkeypatch.setattr(module, "NEIGHBOURS", (1, 5, 20, 100))
    for number, attempt in enumerate(run_neighbours(data, problems)):
        most = len(attempt.problem.rows)
        tried = {
            min(k, most): roc_auc_score(found[number].val.target, found[number].val.score) for k, found in alone.items()
        }
        assert attempt.val_auroc == pytest.approx(max(attempt.val_auroc, *tried.values()))
        assert attempt.chosen["k"] <= most


def test_an_undefined_choice_takes_the_square_root_and_says_so(data, store):
    (attempt,) = run_neighbours(data, make_problems(data, [store.task("quiet_val")], fractions=[1.0], seeds=1))
    assert attempt.chosen["k"] == int(len(attempt.problem.rows) ** 0.5)
    assert attempt.notes == ("one class in the validation split: k = square root of the training rows",)
    (nothing,) = run_neighbours(data, make_problems(data, [store.task("rare")], fractions=[1.0], seeds=1))
    assert nothing.notes == ("one class in the training subset",) and nothing.outputs == ()


def test_neighbours_stand_beside_the_probe_with_intervals_and_can_be_left_out(store, encoder_folder, tmp_path):
    shared = {"store": store.path, "encoder": encoder_folder, "tasks": ["side"], "fractions": [0.2, 1.0], "seeds": 2}
    found = probe(**shared, out=tmp_path / "with", draws=50)["results"]["neighbours"]
    predictions = pd.read_parquet(tmp_path / "with" / "neighbours.parquet")
    for row in found:
        own = predictions[predictions["fraction"] == row["fraction"]]
        aurocs = [roc_auc_score(one["target"], one["score"]) for _, one in own.groupby("seed")]
        assert row["value"] == pytest.approx(np.mean(aurocs))
        assert row["low"] < row["value"] < row["high"]
        assert len(row["k"]) == len(aurocs) == row["num_seeds"]
    without = probe(**shared, out=tmp_path / "without", draws=5, neighbours=False)["results"]
    assert "neighbours" not in without and not (tmp_path / "without" / "neighbours.parquet").exists()
