import json
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from teacher_store import make_store

from pacx.data.ecg.recipe import prepare_ecg
from pacx.data.prepare import prepare
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.ecg_weights import load_ecg_net
from pacx.stages import ecg_records
from pacx.stages.ecg_records import choose_objective, choose_records, prepare_records
from pacx.stages.ecg_scores import statement_report
from pacx.stages.fit_ecg import fit_ecg

torch.set_num_threads(1)
QUICK = {"batch_size": 12, "accelerator": "cpu", "workers": 1, "warmup_epochs": 0.5}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return make_store(tmp_path_factory.mktemp("ecg") / "store")


@pytest.fixture(scope="module")
def fitted(store, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("runs") / "ecg"
    return out, fit_ecg(store=store.path, out=out, task="failing", epochs=6, **QUICK)["results"]


def test_a_label_that_the_ecg_shows_is_learned(fitted):
    _, results = fitted
    assert results["macro_auroc"]["value"] > 0.9
    assert results["auroc"]["failing"]["low"] <= results["auroc"]["failing"]["value"] <= 1


def test_the_result_says_what_was_done(fitted, store):
    out, results = fitted
    assert results["objective"] == "supervised"
    known = store.manifest["failing"].notna().to_numpy()
    train, test = (rows[known[rows]] for rows in (store.rows(split, needs=("ecg",)) for split in ("train", "test")))
    assert results["num_records"] == len(train)
    assert results["auroc"]["failing"]["n"] == len(test)
    assert results["auroc"]["failing"]["positives"] == int((store.manifest["failing"].iloc[test] == 1).sum())
    failing = results["auroc"]["failing"]
    assert failing["average_precision"] == results["macro_average_precision"] > failing["positives"] / failing["n"]
    assert 0.5 < results["val_macro_auroc"]["value"] <= 1
    assert (results["rate"], results["size"], results["dim"], results["labels"]) == (100, "small", 128, ["failing"])
    assert json.loads((out / "result.json").read_text())["artefacts"]["teacher"] == "teacher"


def test_the_average_over_statements_is_over_all_of_them(store):
    labels = ("failing", "mixed")
    rows = np.flatnonzero(store.manifest[list(labels)].notna().all(axis=1))
    scores = np.random.default_rng(0).normal(size=(len(rows), 2)).astype(np.float32)
    scores[:, 0] += 9 * store.manifest["failing"].iloc[rows]  # one statement is known for sure, the other guessed
    report = statement_report(store, rows, scores, labels=labels, seed=0)
    single = [report["auroc"][label]["average_precision"] for label in labels]
    assert single[0] > single[1] + 0.1
    assert report["macro_average_precision"] == pytest.approx(sum(single) / 2)
    assert report["macro_auroc"].value == pytest.approx(sum(report["auroc"][x]["value"] for x in labels) / 2)


def test_ones_own_table_of_ecgs_is_learned_and_empty_labels_are_unknown(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["ecg,patient,af,paced"]
    for number in range(30):
        np.save(tmp_path / f"{number}.npy", 0.03 * rng.standard_normal((12, 1000)).cumsum(axis=1))
        lines.append(f"{number}.npy,p{number},{('', 0, 1)[number % 3]},{('', '', 0, 1)[number % 4]}")
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    leads = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    prepare(
        "table", tmp_path / "own.csv", path_column="ecg", ecg_column="ecg", patient_column="patient",
        label_columns=["af", "paced"], ecg_leads=leads, ecg_rate=100, ecg_unit="mV", workers=1, out=tmp_path / "store",
    )  # fmt: skip
    results = fit_ecg(store=tmp_path / "store", out=tmp_path / "run", epochs=1, **QUICK)["results"]
    assert results["labels"] == ["af", "paced"]
    table = Store.open(tmp_path / "store").manifest
    known = table[["af", "paced"]].notna()
    assert results["num_records"] == int((known.any(axis=1) & (table["split"] == "train")).sum())
    assert results["auroc"]["paced"]["n"] == int((known["paced"] & (table["split"] == results["split"])).sum())


def test_a_free_shape_is_taken_at_its_word(store, tmp_path):
    shape = {"widths": (32, 48), "blocks": (1, 2), "stem_width": 16, "batch_norm": False, "dropout": 0.1}
    results = fit_ecg(store=store.path, out=tmp_path / "run", task="failing", epochs=1, **shape, **QUICK)["results"]
    net, config = load_ecg_net(tmp_path / "run" / "teacher")
    assert {key: config["architecture"][key] for key in ("stem_width", "batch_norm", "dropout")} == {
        "stem_width": 16, "batch_norm": False, "dropout": 0.1,
    }  # fmt: skip
    assert (net.config.widths, net.config.blocks, results["dim"]) == ((32, 48), (1, 2), 48)


def test_without_labels_hidden_segments_are_filled_in(store, tmp_path):
    results = fit_ecg(
        store=store.path, out=tmp_path / "run", objective="self-supervised", epochs=6, learning_rate=5e-3, **QUICK
    )["results"]
    assert results["masked_mse"]["high"] < results["mean_mse"]["low"]
    assert results["mean_mse"]["value"] == pytest.approx(1, abs=0.1)
    assert (results["objective"], results["labels"], results["num_records"]) == (
        "self-supervised", [], len(store.rows("train", needs=("ecg",))),
    )  # fmt: skip
    net, config = load_ecg_net(tmp_path / "run" / "teacher")
    assert config["labels"] == []
    assert config["training"]["objective"] == "self-supervised"
    x = torch.randn(2, 12, 1000)
    assert torch.equal(net(x), net.features(x))
    assert not any("decoder" in name for name in net.state_dict())


def test_a_store_without_tasks_is_learned_without_labels(store, monkeypatch):
    choose = partial(choose_objective, task=None, group=None)
    assert choose(store, "auto") == "supervised"
    bare = Store.open(store.path)
    monkeypatch.setattr(bare, "tasks", {"stage": bare.tasks["stage"]})
    assert choose(bare, "auto") == "self-supervised"
    assert choose(bare, "supervised") == "supervised"
    assert choose_objective(bare, "auto", task="stage", group=None) == "supervised"
    findings = {name: replace(item, group="finding") for name, item in store.tasks.items()}
    monkeypatch.setattr(bare, "tasks", findings)  # read off the X-ray: not for the ECG teacher unless asked for
    assert choose(bare, "auto") == "self-supervised"
    assert choose_objective(bare, "auto", task=None, group="finding") == "supervised"
    with pytest.raises(PacxError, match="whose labels it ignores"):
        choose_objective(store, "self-supervised", task="failing", group=None)


def test_training_starts_from_a_teacher_and_may_leave_all_but_the_last_layer(fitted, store, tmp_path):
    out, _ = fitted
    fit_ecg(
        store=store.path, out=tmp_path / "run", group="control", weights=out, freeze=True, epochs=2, learning_rate=0.01,
        **QUICK,
    )  # fmt: skip
    before, after = (load_ecg_net(folder / "teacher") for folder in (out, tmp_path / "run"))
    same = {
        name for name, value in after[0].state_dict().items()
        if not name.startswith("dense.") and torch.equal(value, before[0].state_dict()[name])
    }  # fmt: skip
    assert len(same) == len(before[0].state_dict()) - 2  # statistics of the batch norms included
    assert after[1]["labels"] == ["mixed"]
    assert after[1]["training"]["parent"]["hash"] == before[1]["weights_hash"]
    fit_ecg(store=store.path, out=tmp_path / "free", group="control", weights=out, epochs=1, **QUICK)
    moved = load_ecg_net(tmp_path / "free" / "teacher")[0].state_dict()
    assert not torch.equal(moved["first_conv.conv.weight"], before[0].state_dict()["first_conv.conv.weight"])


def test_freezing_needs_weights_and_labels(store, fitted, tmp_path):
    for choice in ({"task": "failing"}, {"objective": "self-supervised", "weights": fitted[0]}):
        with pytest.raises(PacxError, match="freeze without weights to keep"):
            fit_ecg(store=store.path, out=tmp_path / "run", freeze=True, **choice, **QUICK)


def test_the_teacher_folder_says_what_the_network_must_be_fed(fitted, store):
    out, _ = fitted
    net, config = load_ecg_net(out / "teacher")
    assert config["preprocessing"] == {"recipe": "ecgfounder-1", "rate": 100}
    assert config["labels"] == ["failing"]
    assert config["training"]["data"]["split_hash"] == store.meta["split_hash"]
    assert net(torch.zeros(1, 12, 1000)).shape == (1, 1)


def test_the_filtered_records_are_deleted_at_the_end(fitted):
    assert not (fitted[0] / "cache").exists()


def test_the_same_seed_gives_the_same_teacher_and_another_seed_another(store, tmp_path):
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit_ecg(store=store.path, out=tmp_path / name, task="failing", epochs=1, seed=seed, **QUICK)
        hashes.append(load_ecg_net(tmp_path / name / "teacher")[1]["weights_hash"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_tasks_are_chosen_by_name_by_group_or_all_together(store):
    assert choose_records(store, task="failing", group=None)[0] == ("failing",)
    assert choose_records(store, task=None, group="control")[0] == ("mixed",)  # stone has no positive
    assert choose_records(store, task=None, group=None)[0] == ("failing", "mixed")  # stage is multiclass


def test_rows_without_ecg_or_without_a_known_label_are_left_out(store):
    _, rows = choose_records(store, task="failing", group=None)
    chosen = np.concatenate(list(rows.values()))
    assert store.manifest["has_ecg"].iloc[chosen].all()
    assert store.manifest["failing"].iloc[chosen].notna().all()
    assert (store.manifest["split"].iloc[rows["val"]] == "val").all()
    everyone = choose_records(store, task=None, group="control")[1]
    assert sum(map(len, everyone.values())) == int(store.manifest["has_ecg"].sum())


def test_other_processes_wait_for_the_records_of_the_first(store, tmp_path, monkeypatch):
    rows = {"train": np.array([3, 0])}
    path = tmp_path / "made"
    slow = threading.Timer(0.3, prepare_records, (store, rows), {"cache": path, "rate": 100, "workers": 1})
    slow.start()
    filtered = []
    made = ecg_records.prepare_ecgs
    monkeypatch.setattr(
        ecg_records, "prepare_ecgs", lambda *a, **k: filtered.append(threading.current_thread()) or made(*a, **k)
    )
    waited = prepare_records(store, rows, cache=path, rate=100, workers=1, first=False)
    assert filtered == [slow]
    assert waited["train"].shape == (2, 12, 1000)
    monkeypatch.setattr(ecg_records, "_PATIENCE", 0.2)  # nobody filters: it does so itself
    alone = prepare_records(store, rows, cache=tmp_path / "alone", rate=100, workers=1, first=False)
    np.testing.assert_array_equal(alone["train"], waited["train"])


def test_having_nothing_to_learn_is_a_user_error_that_lists_the_tasks(store, tmp_path):
    for choice in ({"task": "stage"}, {"group": "finding"}):
        with pytest.raises(PacxError, match=r"No label to learn.*failing \(binary, group 'physiology'\)"):
            fit_ecg(store=store.path, out=tmp_path / "run", **choice, **QUICK)
    with pytest.raises(PacxError, match="no task 'typo'"):
        fit_ecg(store=store.path, out=tmp_path / "run", task="typo", **QUICK)
    bare = make_store(tmp_path / "bare", num_rows=10, ecg=False)
    with pytest.raises(PacxError, match="holds no ECGs"):
        fit_ecg(store=bare.path, out=tmp_path / "run", **QUICK)


def test_an_impossible_rate_is_refused_before_anything_is_written(store, tmp_path):
    with pytest.raises(PacxError, match="at 300 Hz"):
        fit_ecg(store=store.path, out=tmp_path / "run", rate=300, **QUICK)
    assert not (tmp_path / "run").exists()


def test_records_are_filtered_once_and_an_interrupted_run_uses_them_again(store, tmp_path, monkeypatch):
    rows = {"train": np.array([3, 0]), "val": np.array([], dtype=np.int64)}
    prepared = prepare_records(store, rows, cache=tmp_path, rate=100, workers=1)
    assert prepared["train"].dtype == np.float16
    for array, row in zip(prepared["train"], rows["train"], strict=True):
        np.testing.assert_array_equal(array, prepare_ecg(store.ecg[row], rate=100).astype(np.float16))
    assert prepared["val"].shape == (0, 12, 1000)
    monkeypatch.setattr("pacx.stages.ecg_records.prepare_ecgs", lambda *a, **k: pytest.fail("filtered again"))
    again = prepare_records(store, rows, cache=tmp_path, rate=100, workers=1)
    np.testing.assert_array_equal(again["train"], prepared["train"])
