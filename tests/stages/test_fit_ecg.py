import json
from pathlib import Path

import numpy as np
import pytest
import torch
from teacher_store import make_store

from pacx.data.ecg_recipe import prepare_ecg
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.ecg_weights import load_ecg_net
from pacx.stages.ecg_records import choose_records, prepare_records
from pacx.stages.fit_ecg import augment_ecg, fit_ecg, known_label_loss

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
    known = store.manifest["failing"].notna().to_numpy()
    train, test = (rows[known[rows]] for rows in (store.rows(split, needs=("ecg",)) for split in ("train", "test")))
    assert results["num_records"] == len(train)
    assert results["auroc"]["failing"]["n"] == len(test)
    assert results["auroc"]["failing"]["positives"] == int((store.manifest["failing"].iloc[test] == 1).sum())
    assert (results["rate"], results["size"], results["dim"], results["labels"]) == (100, "small", 128, ["failing"])
    assert json.loads((out / "result.json").read_text())["artefacts"]["teacher"] == "teacher"


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


def test_unknown_labels_add_nothing_to_the_loss():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    labels = torch.tensor([[1.0, float("nan")], [0.0, float("nan")]])
    loss = known_label_loss(logits, labels)
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(0.5))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert (logits.grad[:, 1] == 0).all()
    assert known_label_loss(logits, torch.full((2, 2), float("nan"))).item() == 0


def test_augmentation_does_each_thing_and_nothing_when_off():
    off = {"lead_dropout": 0.0, "noise": 0.0, "gain": 0.0, "shift": False}
    torch.manual_seed(0)
    x = torch.randn(64, 12, 50)
    assert torch.equal(augment_ecg(x, **off), x)
    shifted = augment_ecg(x, **off | {"shift": True})
    assert not torch.equal(shifted, x)
    torch.testing.assert_close(shifted.sort(dim=2).values, x.sort(dim=2).values)  # the same samples, rotated
    dropped = augment_ecg(x, **off | {"lead_dropout": 0.25})
    gone = (dropped == 0).all(dim=2)
    assert gone.float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert torch.equal(dropped[~gone], x[~gone])
    scaled = augment_ecg(x, **off | {"gain": 0.2}) / x
    torch.testing.assert_close(scaled, scaled[:, :1, :1].expand_as(scaled), rtol=1e-3, atol=1e-3)
    assert (augment_ecg(x, **off | {"noise": 0.1}) - x).std().item() == pytest.approx(0.1, rel=0.05)


def test_a_shifted_record_keeps_its_leads_together():
    x = torch.arange(50.0).expand(4, 12, 50)
    shifted = augment_ecg(x, lead_dropout=0.0, noise=0.0, gain=0.0, shift=True)
    assert torch.equal(shifted, shifted[:, :1].expand_as(shifted))
