"""The benchmark of the laboratory teacher: the same holes for every side, and no stay beside one of another fold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from benchmarks import labs_mortality, labs_sides, labs_teacher

from pacx.data.labs import LabReference
from pacx.data.manifest import Manifest, Task
from pacx.data.store import Store, StoreWriter
from pacx.statistics import auroc

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"


def table_of(raw: pd.DataFrame, reference: LabReference, died: np.ndarray) -> labs_sides.Tables:
    patient = np.array([f"p{row}" for row in range(len(raw))], dtype=object)
    return labs_sides.Tables(raw, *reference.transform(raw), died, patient)


@pytest.fixture(scope="module")
def splits() -> tuple[LabReference, dict[str, labs_sides.Tables]]:
    """Three labs of which two are one; whoever dies has high values."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=180)
    raw = pd.DataFrame({"A": latent, "B": 100 * latent + rng.normal(size=180), "C": rng.normal(size=180)})
    raw = raw.mask(rng.random(raw.shape) < 0.2)
    died = np.where(rng.random(180) < 0.2, np.nan, latent + 0.3 * rng.normal(size=180) > 0.8)
    parts = {"train": slice(0, 100), "val": slice(100, 140), "test": slice(140, 180)}
    reference = LabReference.fit(raw[:100])
    return reference, {name: table_of(raw[part], reference, died[part]) for name, part in parts.items()}


def test_every_side_fills_in_the_same_holes_without_seeing_them(splits) -> None:
    reference, tables = splits
    peers, facts = labs_sides.fit_peers(
        reference, tables["train"], tables["val"], tables["val"].observed * [0, 1, 1], quick=True
    )
    assert set(facts) == {"knn", "iterative", "iterative_raw"} and facts["knn"]["chosen"].startswith("n_neighbors=")
    seen = []

    def spy(x: np.ndarray, shown: np.ndarray) -> np.ndarray:
        seen.append(shown)
        return np.full(x.shape, 0.5)

    median = labs_teacher._median_fill(tables["train"])
    sides = {**peers, "ours_0": spy, "ours_1": spy, "median": median}
    filled = labs_teacher.fill_in(sides, tables["test"], way="one")
    assert filled["num_entries"] == tables["test"].observed.sum()
    assert ((tables["test"].observed.sum() - 1) >= seen[0].sum(axis=1)).all()
    assert set(filled["sides"]) == {"ours", "knn", "iterative", "iterative_raw", "median"}
    errors = {name: found["mse"]["value"] for name, found in filled["sides"].items()}
    # B is A in other units: who looks at it beats the median, who always answers one half does not
    assert max(errors["knn"], errors["iterative"]) < 0.8 * errors["median"]
    assert errors["ours"] == pytest.approx(errors["median"], rel=0.05)
    assert filled["ours_minus"]["knn"]["low"] > 0


def test_the_readout_chooses_its_strength_without_the_test_stays(splits) -> None:
    _, tables = splits
    features = {name: np.where(of.observed > 0, of.x, 0.5) for name, of in tables.items()}
    found = labs_mortality.read_out(features, tables)
    other = tables["test"]._replace(died=1 - tables["test"].died)
    again = labs_mortality.read_out(features, {**tables, "test": other})
    np.testing.assert_array_equal(found.score, again.score)
    known = ~np.isnan(tables["test"].died)
    assert auroc(tables["test"].died[known], found.score) > 0.8


def test_folds_are_averaged_and_never_ranked_against_each_other() -> None:
    died = np.array([0.0, 1.0, 0.0, 1.0])
    names = ("raw", "embedding")

    def fold(score: list[float], number: int) -> dict:
        scores = {name: np.array(score)[:, None] for name in names}
        patient = np.array([f"{number}-{row}" for row in range(4)], dtype=object)
        return {"scores": scores, "strength": {key: [1.0] for key in names}, "died": died, "patient": patient}

    # Perfect within each fold, although every score of the second lies below those of the first.
    found = labs_mortality.compare([fold([5, 6, 5, 6], 0), fold([-6, -5, -6, -5], 1)])
    assert (found["num_stays"], found["num_deaths"]) == (8, 4)
    assert found["sides"]["raw"]["auroc"]["value"] == 1.0
    assert found["embedding_minus"]["raw"] == {"value": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
    half = labs_mortality.compare([fold([5, 6, 5, 6], 0), fold([-5, -6, -5, -6], 1)])
    assert half["sides"]["raw"]["auroc"]["value"] == 0.5


def test_each_stay_is_in_the_test_split_of_one_fold_and_deaths_are_shared_out(tmp_path: Path) -> None:
    ids = [f"s{row:02d}" for row in range(40)]
    died = np.array([1.0] * 10 + [0.0] * 20 + [np.nan] * 10)
    table = pd.DataFrame({"image_id": ids, "patient_id": ids, "split": "train", "mortality": died})
    labs = pd.DataFrame({"A": np.arange(40.0)}, index=pd.Index(ids, name="image_id"))
    writer = StoreWriter(tmp_path / "store", name="icu", num_rows=40)
    for row in range(40):
        writer.write(row)
    task = Task("mortality", ("mortality",), "binary", "physiology", "died")
    writer.finish(Manifest("icu", table, tasks={"mortality": task}, labs=labs), source={"command": "test"})
    store = Store.open(tmp_path / "store")
    tested = []
    for fold in range(5):
        cut = labs_mortality.fold_store(store, tmp_path / f"fold-{fold}", fold=fold, folds=5)
        test, val, train = (cut.rows(split, needs=("labs",)) for split in ("test", "val", "train"))
        assert (len(test), len(val), len(train)) == (8, 8, 24)
        assert np.nansum(died[test]) == 2 and np.isnan(died[test]).sum() == 2
        np.testing.assert_array_equal(cut.labs["A"], store.labs["A"])
        tested += test.tolist()
    assert sorted(tested) == list(range(40))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the open sample is not beside the repository (../shared/data)")
def test_a_quick_run_ends_with_one_object_that_makes_a_table() -> None:
    command = [sys.executable, "-m", "benchmarks.labs_teacher", "--quick"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    last = json.loads(run.stdout.splitlines()[-1])
    assert {"ours_mse", "median_mse", "knn_mse", "iterative_mse", "embedding_minus_raw_auroc_folds"} <= set(last)
    assert last["num_stays"] == {"train": 1610, "val": 227, "test": 444} and last["quick"] is True
    assert any("rows/s" in row.what for row in labs_teacher.rows(last))
