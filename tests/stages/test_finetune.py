import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from test_resume_stages import assert_parts_equal_the_whole

from pacx.data.manifest import Task, subset_rows
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.comparison import compare_probes
from pacx.evaluation.pool import pool
from pacx.evaluation.probe import probe
from pacx.evaluation.report import report
from pacx.frozen.seen import seen_rows
from pacx.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder, weights_hash
from pacx.models.patients import load_patients
from pacx.models.readout_head import load_head
from pacx.runs import read_result
from pacx.stages import finetune as stage
from pacx.stages.finetune import finetune
from pacx.stages.finetuning import label_loss, log_odds
from pacx.stages.lesson import make_lesson
from pacx.statistics import f1_threshold
from pacx.statistics.platt import fit_platt

QUICK = {
    "epochs": 12, "warmup_epochs": 1.0, "batch_size": 16, "learning_rate": 3e-3, "accelerator": "cpu", "draws": 50,
    "augment": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def start(labelled: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = EncoderConfig(
        labelled.preprocess(), patch_size=4, width=16, depth=2, heads=2, provenance={"method": "none"}
    )
    return save_encoder(Encoder(config), tmp_path_factory.mktemp("runs") / "tiny" / "encoder")


@pytest.fixture(scope="module")
def run(labelled: Store, start: Path):
    def go(out: Path, *, task: str = "side", **changes) -> dict:
        return finetune(store=labelled.path, encoder=str(start), task=task, out=out, **{**QUICK, **changes})["results"]

    return go


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "side"
    run(out)
    return out


def test_a_separable_label_is_learnt_and_tested_on_unseen_patients(trained: Path, labelled: Store):
    results = read_result(trained)["results"]
    (score,), (summary,) = results["scores"], results["summary"]
    assert score["value"] > 0.9  # of the first epoch that orders all 30 validation images
    assert pd.read_csv(trained / "metrics.csv")["train_loss"].iloc[-1] < 0.3
    assert score["low"] <= score["value"] <= score["high"]
    assert summary["value"] == score["value"]
    assert results["val_auroc"] > 0.95
    table = pd.read_parquet(trained / "predictions.parquet")
    assert score["value"] == pytest.approx(roc_auc_score(table["target"], table["score"]), abs=1e-12)
    assert sorted(table["image_id"]) == sorted(labelled.manifest["image_id"].iloc[labelled.rows("test")])
    assert (score["num_train"], score["num_test"]) == (len(labelled.rows("train")), len(table))
    val = pd.read_parquet(trained / "val_predictions.parquet")
    assert roc_auc_score(val["target"], val["score"]) == pytest.approx(results["val_auroc"], abs=1e-6)


def test_all_that_is_measured_of_a_probe_is_measured(trained: Path):
    measures = pd.DataFrame(read_result(trained)["results"]["measures"])
    kept = pd.read_parquet(trained / "measures.parquet")
    assert kept["value"].to_numpy() == pytest.approx(measures["value"].to_numpy(dtype=float), nan_ok=True)
    of_all = measures[measures["subgroup_kind"] == ""].set_index(["metric", "rule"])
    test, val = (pd.read_parquet(trained / f"{name}.parquet") for name in ("predictions", "val_predictions"))
    assert of_all.loc[("average_precision", ""), "value"] == pytest.approx(
        average_precision_score(test["target"], test["score"])
    )
    cut = f1_threshold(val["target"].to_numpy(), val["score"].to_numpy())
    assert of_all.loc[("f1", "val_f1"), "threshold"] == pytest.approx(expit(cut))
    assert of_all.loc[("f1", "val_f1"), "value"] == pytest.approx(f1_score(test["target"], test["score"] >= cut))


def test_a_finetuned_encoder_has_seen_train_and_val_patients_and_cannot_be_tuned_for_a_test_on_them(
    trained: Path, labelled: Store, tmp_path: Path
):
    seen = load_patients(trained / "encoder")
    assert {(part.stage, part.split) for part in seen.parts} == {("finetune", "train"), ("finetune", "val")}
    found = set(labelled.manifest["split"][seen_rows(seen, labelled)])
    assert found == {"train", "val"}
    assert read_result(trained)["results"]["seen_patients"]["num_patients"] == 0
    known = load_encoder(trained / "encoder")
    known.patients = seen.having(
        labelled.manifest["patient_id"], stage="pretrain", split="train", store="x", patients_of=""
    )
    folder = save_encoder(known, tmp_path / "known")
    with pytest.raises(PacxError, match="has been trained on"):
        finetune(store=labelled.path, encoder=str(folder), task="side", out=tmp_path / "refused", **QUICK)


def test_encoder_and_head_that_are_left_give_the_predictions(trained: Path, start: Path, labelled: Store):
    encoder = load_encoder(trained / "encoder")
    results = read_result(trained)["results"]
    head = load_head(trained)
    assert results["encoder_hash"] == head.encoder_hash == weights_hash(encoder)
    assert weights_hash(encoder) != weights_hash(load_encoder(start))
    provenance = encoder.config.provenance
    assert provenance["method"] == "fine-tuned on side, 100% of the labels, 12 epochs"
    assert provenance["parent"]["hash"] == weights_hash(load_encoder(start))
    assert provenance["data"][0]["content_hash"] == labelled.content_hash
    assert (head.readout.names, head.readout.token) == (("side",), "cls")
    rows = labelled.rows("test")
    features = encoder.encode([labelled.images[row].astype(np.float32) / 255 for row in rows])
    logits = features @ head.weight.T + head.bias
    val = pd.read_parquet(trained / "val_predictions.parquet")
    platt = fit_platt(val["target"], val["score"])
    assert platt.fitted
    table = pd.read_parquet(trained / "predictions.parquet").set_index("image_id")["score"]
    ids = labelled.manifest["image_id"].iloc[rows]
    np.testing.assert_allclose(platt.slope * table.loc[ids].to_numpy() + platt.shift, logits[:, 0], atol=1e-3)


def test_several_labels_are_learnt_jointly_and_unknown_ones_left_out(run, labelled: Store, tmp_path: Path):
    results = run(tmp_path / "several", task="several", token="mean", drop_path=0.1, label_smoothing=0.1, epochs=8)
    by_label = {row["label"]: row for row in results["scores"]}
    assert by_label["side"]["value"] > 0.9
    assert by_label["partly"]["value"] > 0.9
    assert abs(by_label["coin"]["value"] - 0.5) < 0.3  # is in no pixel
    known = labelled.manifest["partly"].notna().to_numpy()
    assert by_label["partly"]["num_train"] == known[labelled.rows("train")].sum()
    table = pd.read_parquet(tmp_path / "several" / "predictions.parquet")
    assert (table["label"] == "partly").sum() == known[labelled.rows("test")].sum() == by_label["partly"]["num_test"]
    macro = next(row for row in results["summary"] if row["label"] == "macro")
    assert macro["value"] == pytest.approx(np.mean([row["value"] for row in results["scores"]]))


def test_classes_are_scored_one_against_the_rest(run, tmp_path: Path):
    results = run(tmp_path / "third", task="third", epochs=10)
    (score,) = results["scores"]
    table = pd.read_parquet(tmp_path / "third" / "predictions.parquet")
    aurocs = [roc_auc_score(own["target"], own["score"]) for _, own in table.groupby("output", observed=True)]
    assert sorted(table["output"].unique()) == ["bottom", "middle", "top"]
    assert score["value"] == pytest.approx(np.mean(aurocs))
    assert score["value"] > 0.9
    assert load_head(tmp_path / "third").readout.names == ("third/top", "third/middle", "third/bottom")


def test_a_share_of_the_labels_is_the_subset_of_a_probe(labelled: Store):
    train = labelled.rows("train")
    lesson = make_lesson(labelled, labelled.task("several"), fraction=0.2, seed=3)
    for column, label in enumerate(("side", "partly", "coin")):
        expected = subset_rows(labelled.manifest, train, fraction=0.2, seed=3, label=label)
        assert np.array_equal(np.flatnonzero(np.isfinite(lesson.learnt[:, column])), expected)
    assert np.isin(lesson.rows["train"], train).all()
    assert len(lesson.rows["train"]) < len(train)
    assert np.array_equal(lesson.rows["val"], labelled.rows("val"))


def test_a_finetuned_encoder_stands_beside_a_probed_one(
    trained: Path,
    start: Path,
    labelled: Store,
    tmp_path: Path,
):
    probed = tmp_path / "probe"
    probe(store=labelled.path, encoder=str(start), out=probed, tasks=["side"], fractions=[1.0], seeds=1, draws=50)
    compared = compare_probes(trained / "predictions.parquet", probed / "predictions.parquet", draws=50)
    assert compared["value_a"].item() == pytest.approx(read_result(trained)["results"]["scores"][0]["value"])
    report(runs=[trained, probed], out=tmp_path / "report", baseline="tiny")
    numbers = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    (part,) = numbers["probes"]
    assert {row["encoder"] for row in part["scores"]} == {"tiny", "tiny-finetuned"}
    assert [row["encoder"] for row in part["differences"]] == ["tiny-finetuned"]
    assert part["notes"] == []
    assert {row["encoder"] for row in part["measures"]} == {"tiny", "tiny-finetuned"}


def test_runs_with_several_seeds_are_pooled(trained: Path, run, tmp_path: Path):
    run(tmp_path / "second", seed=1)
    results = pool(runs=[trained, tmp_path / "second"], out=tmp_path / "pool", draws=50)["results"]
    values = [read_result(path)["results"]["scores"][0]["value"] for path in (trained, tmp_path / "second")]
    assert results["of"] == "finetune"
    assert results["summary"][0]["value"] == pytest.approx(np.mean(values))
    assert results["summary"][0]["num_runs"] == 2
    assert {row["metric"] for row in results["measures"]} >= {"average_precision", "f1", "calibration_error"}
    report(runs=[trained, tmp_path / "second", tmp_path / "pool"], out=tmp_path / "report")
    (part,) = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))["probes"]
    assert [Path(row["run"]).name for row in part["scores"]] == ["pool"]  # which stands for both


def test_a_killed_run_goes_on_as_if_nothing_had_been(
    labelled: Store, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = partial(
        finetune, store=labelled.path, encoder=str(start), task="several", **QUICK
        | {"epochs": 2, "batch_size": 20, "drop_path": 0.2, "augment": "full", "checkpoint_minutes": 0.0},
    )  # fmt: skip
    assert_parts_equal_the_whole(stage, command, tmp_path, monkeypatch, kill_at=6)


def test_a_validation_split_with_one_class_keeps_the_last_epoch(run, tmp_path: Path):
    results = run(tmp_path / "quiet", task="quiet_val", epochs=2)
    assert results["protocol"]["chosen_on"] == "last epoch"
    assert results["val_auroc"] is None
    assert results["scores"][0]["value"] is not None


def test_a_label_with_one_class_in_training_is_refused_alone_and_noted_among_others(
    run,
    labelled: Store,
    tmp_path: Path,
):
    with pytest.raises(PacxError, match=r"one class only among the 75 training images.*'rare'"):
        run(tmp_path / "rare", task="rare")
    assert not (tmp_path / "rare" / "checkpoints").exists()
    lesson = make_lesson(labelled, Task("two", ("side", "rare"), "multilabel"), fraction=1.0, seed=0)
    assert lesson.learnable().tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "nothing"}, r"no task 'nothing'.*side"),
        ({"fraction": 0.0}, "label fraction of 0"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"warmup_epochs": 12.0}, "warm-up must be shorter"),
    ],
)
def test_settings_that_make_no_sense_are_refused(run, tmp_path: Path, change, message):
    with pytest.raises(PacxError, match=message):
        run(tmp_path / "a", **change)
    assert not (tmp_path / "a").exists()


def test_losses_by_hand():
    logits, labels = torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    by_hand = (np.log(2) + np.log1p(np.e) + np.log1p(np.e)) / 3
    assert float(label_loss(logits, labels, kind="multilabel")) == pytest.approx(by_hand)
    smooth = F.binary_cross_entropy_with_logits(torch.tensor([0.0, 1.0, -1.0]), torch.tensor([0.9, 0.1, 0.9]))
    assert float(label_loss(logits, labels, kind="multilabel", smoothing=0.2)) == pytest.approx(float(smooth))
    classes = torch.tensor([[1.0], [float("nan")]])
    assert float(label_loss(logits, classes, kind="multiclass")) == pytest.approx(np.log1p(np.exp(-2)))
    smoothed = 0.9 * np.log1p(np.exp(-2)) + 0.1 * np.log1p(np.exp(2))
    assert float(label_loss(logits, classes, kind="multiclass", smoothing=0.2)) == pytest.approx(smoothed)
    unknown = torch.full((2, 1), float("nan"))
    for kind in ("binary", "multiclass"):
        assert float(label_loss(logits[:, :1], unknown, kind=kind)) == 0


def test_scores_are_log_odds():
    logits = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
    probability = logits.softmax(dim=1)
    torch.testing.assert_close(log_odds(logits, kind="multiclass"), (probability / (1 - probability)).log())
    assert log_odds(logits, kind="multilabel") is logits
