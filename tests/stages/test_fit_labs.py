import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from teacher_store import LABS, make_store

from pacx.data.labs import LabReference
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.models.labs_autoencoder import LabsAutoencoder, load_labs_autoencoder
from pacx.stages.fit_labs import fit_labs
from pacx.stages.imputation import hide_once, imputation_errors, imputation_report

torch.set_num_threads(1)
SMALL = {"dim": 8, "hidden": 32, "batch_size": 32, "learning_rate": 1e-2, "warmup_steps": 5, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return make_store(tmp_path_factory.mktemp("labs") / "store", num_rows=300, ecg=False)


@pytest.fixture(scope="module")
def fitted(store, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("runs") / "labs"
    return out, fit_labs(store=store.path, out=out, epochs=40, **SMALL)["results"]


def test_hidden_labs_are_filled_in_better_than_by_the_median(fitted):
    _, results = fitted
    assert results["imputation_mse"] < 0.7 * results["imputation_mse_column_median"]
    assert results["imputation_mse_difference"]["high"] < 0
    assert results["per_lab"]["Creatinine"]["imputation_mse"] < 0.5 * results["per_lab"]["Creatinine"]["baseline_mse"]


def test_a_lab_that_follows_nothing_is_not_filled_in_by_magic(fitted):
    sodium = fitted[1]["per_lab"]["Sodium"]
    assert sodium["imputation_mse"] > 0.7 * sodium["baseline_mse"]


def test_the_result_says_what_was_done(fitted, store):
    out, results = fitted
    assert results["num_rows"] == len(store.rows("train", needs=("labs",)))
    assert (results["num_labs"], results["dim"], results["split"]) == (4, 8, "test")
    assert sum(lab["n"] for lab in results["per_lab"].values()) == results["num_hidden_entries"]
    assert json.loads((out / "result.json").read_text())["artefacts"]["teacher"] == "teacher"
    assert (out / "metrics.csv").is_file()


def test_the_teacher_folder_holds_the_train_splits_distribution(fitted, store):
    out, _ = fitted
    net, config = load_labs_autoencoder(out / "teacher")
    reference = LabReference.load(out / "teacher" / "reference.json")
    train = store.labs.iloc[store.rows("train", needs=("labs",))]
    assert net.num_labs == 4
    assert reference.labs == tuple(LABS)
    assert reference.counts == train.notna().sum().to_dict()
    assert reference.units["Sodium"] == "mg/dL"
    assert config["training"]["data"]["content_hash"] == store.content_hash


def test_the_same_seed_gives_the_same_teacher_and_another_seed_another(store, tmp_path):
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit_labs(store=store.path, out=tmp_path / name, epochs=2, seed=seed, **SMALL)
        hashes.append(load_labs_autoencoder(tmp_path / name / "teacher")[1]["weights_hash"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_warm_up_longer_than_the_run_is_refused(store, tmp_path):
    rows = len(store.rows("train", needs=("labs",)))
    message = f"warmup_steps is 200, but {rows} rows make only {2 * (rows // 32)} steps in 2 epochs"
    with pytest.raises(PacxError, match=message):
        fit_labs(store=store.path, out=tmp_path / "run", epochs=2, **SMALL | {"warmup_steps": 200})


def test_a_store_without_labs_is_refused(tmp_path):
    from pacx.data.manifest import Manifest
    from pacx.data.store import StoreWriter

    table = pd.DataFrame({"image_id": ["a"], "patient_id": ["a"], "split": ["train"]})
    writer = StoreWriter(tmp_path / "store", name="bare", num_rows=1)
    writer.write(0)
    writer.finish(Manifest("bare", table), source={})
    with pytest.raises(PacxError, match=r"'bare' .* holds no labs"):
        fit_labs(store=tmp_path / "store", out=tmp_path / "run", **SMALL)


class Half(LabsAutoencoder):
    """Answers one half for everything, and notes which entries it was shown."""

    def forward(self, x, observed):
        self.shown = observed.numpy()
        return torch.full_like(x, 0.5), x


def test_imputation_counts_hidden_entries_only_and_the_median_is_the_train_splits():
    train = pd.DataFrame({"A": [1.0, 2.0, 3.0, 4.0, 5.0], "B": [1.0, 1.0, 1.0, 1.0, np.nan]})
    held_out = pd.DataFrame({"A": [1.0, np.nan, 5.0], "B": [np.nan, 1.0, 1.0]})
    net = Half(2, hidden=2, dim=2)
    reference = LabReference.fit(train)
    errors = imputation_errors(net, reference, train=train, held_out=held_out, hide=1.0, seed=0)
    assert net.shown.sum() == 0
    np.testing.assert_array_equal(errors.hidden, held_out.notna())
    report = imputation_report(errors, labs=reference.labs, patient=np.array(["p", "q", "r"], dtype=object), seed=0)
    # A: percentiles .1 and .9, the answer .5 and the median .5; B: a constant, always .5.
    assert report["per_lab"]["A"] == pytest.approx({"imputation_mse": 0.16, "baseline_mse": 0.16, "n": 2})
    assert report["per_lab"]["B"] == pytest.approx({"imputation_mse": 0.0, "baseline_mse": 0.0, "n": 2})
    assert report["imputation_mse"] == pytest.approx(0.08)
    assert report["imputation_mse_difference"].value == pytest.approx(0.0)


def test_the_hidden_entries_are_the_same_for_the_same_seed():
    observed = np.ones((20, 10), dtype=np.float32)
    first, again, other = (hide_once(observed, probability=0.3, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
