import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pacx.data.manifest import subset_rows
from pacx.errors import PacxError
from pacx.evaluation.linear import STRENGTHS
from pacx.evaluation.pool import pool
from pacx.evaluation.probe import probe
from pacx.frozen.features import extract
from pacx.measures import kept_groups, measure, measure_all, summarise_all
from pacx.models.encoder import Encoder, load_encoder, save_encoder, weights_hash
from pacx.runs import read_result
from pacx.scoring import summarise
from pacx.statistics import auroc_draws, bootstrap_auroc, resample_patients


@pytest.fixture(scope="module")
def run(store, encoder_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "probe"
    result = probe(store=store.path, encoder=encoder_folder, out=out, fractions=[0.1, 1.0], seeds=3, draws=100)
    return result, pd.read_parquet(out / "predictions.parquet"), out


def _entry(result, table, **wanted):
    found = [e for e in result["results"][table] if all(e[key] == value for key, value in wanted.items())]
    assert len(found) == 1
    return found[0]


def _features(store, encoder):
    """Standardised features by split, and the rows of each split."""
    rows = {split: store.rows(split, needs=("image",)) for split in ("train", "val", "test")}
    x = {split: extract(encoder, store, r).astype(np.float64) for split, r in rows.items()}
    mean, sd = x["train"].mean(axis=0), x["train"].std(axis=0)
    return {split: (values - mean) / sd for split, values in x.items()}, rows


@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_scores_equal_scikit_learn_with_the_best_strength_on_validation(store, encoder, run, fraction):
    result, predictions, _ = run
    x, rows = _features(store, encoder)
    label = store.manifest["side"].to_numpy()
    subset = subset_rows(store.manifest, rows["train"], fraction=fraction, seed=0, label="side")
    inside = np.isin(rows["train"], subset)
    tried = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(x["train"][inside], label[subset])
        val = roc_auc_score(label[rows["val"]], model.decision_function(x["val"]))
        tried.append((val, model.decision_function(x["test"])))
    best = int(np.argmax([val for val, _ in tried]))
    entry = _entry(result, "scores", task="side", label="side", fraction=fraction, seed=0)
    assert entry["C"] == pytest.approx(STRENGTHS[best])
    assert entry["value"] == pytest.approx(roc_auc_score(label[rows["test"]], tried[best][1]), abs=1e-3)
    mine = predictions.query("task == 'side' and fraction == @fraction and seed == 0")
    assert list(mine["image_id"]) == list(store.manifest["image_id"].iloc[rows["test"]])
    assert np.allclose(mine["score"], tried[best][1], atol=1e-3)


def test_a_visible_label_is_learnt_and_a_coin_is_not(run):
    result, _, _ = run
    assert _entry(result, "summary", task="side", label="side", fraction=1.0)["low"] > 0.8
    coin = _entry(result, "summary", task="several", label="coin", fraction=1.0)
    assert coin["low"] < 0.5 < coin["high"]


def test_interval_of_one_seed_is_the_patient_bootstrap_of_its_predictions(run):
    result, predictions, _ = run
    rows = predictions.query("task == 'several' and label == 'coin' and fraction == 0.1 and seed == 1")
    expected = bootstrap_auroc(rows["target"], rows["score"], rows["patient_id"].astype(str), draws=100)
    entry = _entry(result, "scores", task="several", label="coin", fraction=0.1, seed=1)
    assert np.allclose([entry[key] for key in ("value", "low", "high")], expected, atol=1e-12)


def test_summary_averages_seeds_draw_by_draw(run):
    result, predictions, _ = run
    rows = predictions.query("task == 'several' and label == 'coin' and fraction == 0.1")
    drawn, values = [], []
    for seed in range(3):
        one = rows[rows["seed"] == seed]
        resamples = resample_patients(one["patient_id"].astype(str), draws=100)
        drawn.append(auroc_draws(one["target"], one["score"], resamples))
        values.append(roc_auc_score(one["target"], one["score"]))
    entry = _entry(result, "summary", task="several", label="coin", fraction=0.1)
    assert entry["value"] == pytest.approx(np.mean(values))
    assert (entry["low"], entry["high"]) == pytest.approx(tuple(np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])))
    assert entry["sd_over_seeds"] == pytest.approx(np.std(values, ddof=1))
    assert entry["num_seeds"] == 3


def test_full_fraction_has_one_seed_and_counts_are_right(store, run):
    result, _, _ = run
    entry = _entry(result, "scores", task="side", label="side", fraction=1.0)
    train, test = store.rows("train"), store.rows("test")
    assert (entry["seed"], entry["num_train"], entry["num_test"]) == (0, len(train), len(test))
    assert entry["num_test_patients"] == store.manifest["patient_id"].iloc[test].nunique()
    assert entry["positives"] == int(store.manifest["side"].iloc[test].sum())


def test_unknown_labels_are_left_out_of_training_and_test(store, run):
    result, predictions, _ = run
    entry = _entry(result, "scores", task="several", label="partly", fraction=1.0)
    known = store.manifest["partly"].notna()
    assert entry["num_train"] == known.iloc[store.rows("train")].sum()
    tested = predictions.query("label == 'partly' and fraction == 1.0")["image_id"].astype(str)
    assert set(tested) == set(store.manifest["image_id"].iloc[store.rows("test")][known])


def test_multiclass_is_the_mean_of_one_against_the_rest(run):
    result, predictions, _ = run
    rows = predictions.query("task == 'third' and fraction == 1.0")
    each = [roc_auc_score(one["target"], one["score"]) for _, one in rows.groupby("output", observed=True)]
    assert sorted(rows["output"].unique()) == ["bottom", "middle", "top"]
    entry = _entry(result, "scores", task="third", label="third", fraction=1.0)
    assert entry["value"] == pytest.approx(np.mean(each))


def test_a_task_of_several_labels_has_a_macro_row(run):
    result, _, _ = run
    labels = [_entry(result, "summary", task="several", label=x, fraction=1.0) for x in ("side", "partly", "coin")]
    macro = _entry(result, "summary", task="several", label="macro", fraction=1.0)
    assert macro["value"] == pytest.approx(np.mean([entry["value"] for entry in labels]))


def test_no_positives_in_training_gives_nan_and_a_note(run):
    result, predictions, _ = run
    for entry in [e for e in result["results"]["scores"] if e["task"] == "rare"]:
        assert entry["value"] is None
        assert entry["notes"] == ["one class in the training subset"]
    assert _entry(result, "summary", task="rare", label="rare", fraction=1.0)["value"] is None
    assert "rare" not in set(predictions["task"])


def test_one_class_in_validation_falls_back_to_one_over_width(run):
    result, _, _ = run
    entry = _entry(result, "scores", task="quiet_val", label="quiet_val", fraction=1.0)
    assert entry["C"] == 1 / 16
    assert entry["notes"] == ["one class in the validation split: C = 1/D"]
    assert entry["value"] > 0.9


def test_subsets_are_nested_and_the_same_for_every_encoder(store, encoder_folder, run, tmp_path):
    result, _, _ = run
    other = probe(
        store=store.path,
        encoder=f"random:{encoder_folder}:5",
        out=tmp_path / "random",
        tasks=["several"],
        fractions=[0.1, 1.0],
        seeds=3,
        draws=10,
    )
    ours = [(e["label"], e["fraction"], e["num_train"]) for e in result["results"]["scores"] if e["task"] == "several"]
    theirs = [(e["label"], e["fraction"], e["num_train"]) for e in other["results"]["scores"]]
    assert ours == theirs
    assert other["results"]["encoder_name"] == "random"


def test_result_is_strict_json_and_names_its_inputs(store, run):
    result, _, out = run
    assert json.loads((out / "result.json").read_text()) == result
    assert result["inputs"]["store"]["hash"] == store.content_hash
    assert result["results"]["encoder_name"] == "tiny-run"


def test_foreign_weights_are_probed_like_ours(store, tmp_path):
    shape = {"img_size": 16, "patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 1}
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=2, **shape)
    torch.save({"state_dict": vit.state_dict()}, tmp_path / "rival.pth")
    rival, out = str(tmp_path / "rival.pth"), tmp_path / "run"
    result = probe(store=store.path, encoder=rival, out=out, tasks=["side"], fractions=[1.0], draws=10)
    assert result["results"]["encoder_name"] == "rival"
    assert result["inputs"]["encoder"]["hash"] == weights_hash(load_encoder(rival))
    assert result["results"]["summary"][0]["value"] > 0.6


def test_unknown_task_lists_the_known_and_leaves_nothing_behind(store, encoder_folder, tmp_path):
    with pytest.raises(PacxError, match=r"side.*several.*third"):
        probe(store=store.path, encoder=encoder_folder, out=tmp_path / "run", tasks=["heart"])
    assert not Path(tmp_path / "run").exists()


@pytest.mark.parametrize("fractions", [[], [0.0], [1.5]])
def test_fractions_outside_zero_to_one_are_refused(store, encoder_folder, tmp_path, fractions):
    with pytest.raises(PacxError, match="fractions"):
        probe(store=store.path, encoder=encoder_folder, out=tmp_path / "run", fractions=fractions)


def test_the_token_is_chosen_task_by_task_on_validation_and_named(store, encoder_folder, tmp_path):
    shared = {
        "store": store.path,
        "encoder": encoder_folder,
        "tasks": ["several", "third"],
        "fractions": [1.0],
        "draws": 5,
    }
    alone = {
        token: probe(**shared, out=tmp_path / token, token=token, neighbours=False)["results"]
        for token in ("cls", "mean", "both")
    }
    auto = probe(**shared, out=tmp_path / "auto", token="auto")["results"]
    assert auto["protocol"]["token"] == "auto"
    chosen = {}
    for task in ("several", "third"):
        means = {
            token: np.mean([row["val_auroc"] for row in results["scores"] if row["task"] == task])
            for token, results in alone.items()
        }
        chosen[task] = max(means, key=means.get)
        mine, theirs = (
            [row for row in results["scores"] if row["task"] == task] for results in (auto, alone[chosen[task]])
        )
        assert mine == theirs and {row["token"] for row in mine} == {chosen[task]}
    assert chosen["third"] != "cls"  # otherwise nothing would have been chosen


def test_validation_scores_are_written_beside_those_of_the_test_rows(store, run):
    result, predictions, out = run
    val = pd.read_parquet(out / "val_predictions.parquet")
    assert list(val.columns) == list(predictions.columns)
    own = val.query("task == 'side' and fraction == 0.1 and seed == 2")
    assert set(own["image_id"]) == set(store.manifest["image_id"].iloc[store.rows("val")])
    entry = _entry(result, "scores", task="side", label="side", fraction=0.1, seed=2)
    assert entry["val_auroc"] == pytest.approx(roc_auc_score(own["target"], own["score"]), abs=1e-3)


def test_scores_and_measures_in_parts_are_those_of_the_whole(store, run):
    result, predictions, out = run
    val = pd.read_parquet(out / "val_predictions.parquet")
    rng = np.random.default_rng(0)
    manifest = store.manifest.assign(sex=rng.choice(["F", "M"], len(store)), age=rng.integers(20, 90, len(store)))
    whole = measure(predictions, val, manifest, draws=20)
    parts = measure_all(predictions, val, manifest, draws=20, level=0.95)
    pd.testing.assert_frame_equal(parts, whole)
    assert set(whole["subgroup_kind"]) == {"", "sex", "age"}
    scored, expected = summarise_all(predictions, draws=20, level=0.95), summarise(predictions, draws=20)
    assert repr(list(scored.mean.items())) == repr(list(expected.mean.items()))  # NaN is not NaN
    assert repr(list(scored.single.items())) == repr(list(expected.single.items()))
    written = pd.read_parquet(out / "measures.parquet")
    assert len(written) == len(result["results"]["measures"]) > 100
    groups = kept_groups(out)
    assert set(groups["image_id"]) == set(pd.read_parquet(out / "predictions.parquet")["image_id"])
    row = written.query("task == 'side' and fraction == 1.0 and metric == 'auroc' and rule == ''").iloc[0]
    assert row["value"] == pytest.approx(_entry(result, "summary", task="side", label="side", fraction=1.0)["value"])


def test_real_probes_of_two_encoders_are_pooled_with_everything_that_they_keep(store, encoder, run, tmp_path):
    """What other tests pool are runs that they write themselves."""
    torch.manual_seed(7)
    other = save_encoder(Encoder(encoder.config), tmp_path / "other" / "encoder")
    second = tmp_path / "probe-other"
    probe(store=store.path, encoder=str(other), out=second, fractions=[0.1, 1.0], seeds=3, draws=100)
    pooled = pool(runs=[run[2], second], out=tmp_path / "pool", name="both", draws=50)["results"]
    of_run = [read_result(path)["results"]["summary"] for path in (run[2], second)]
    expected = {
        (one["task"], one["label"], one["fraction"]): pytest.approx((one["value"] + other["value"]) / 2)
        for one, other in zip(*of_run, strict=True)
        if one["value"] is not None
    }
    found = {(one["task"], one["label"], one["fraction"]): one["value"] for one in pooled["summary"]}
    assert {key: found[key] for key in expected} == expected and len(expected) > 2
    assert {one["num_runs"] for one in pooled["measures"]} == {2}
