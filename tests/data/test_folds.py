"""Cross-validation by patient: who tests when, and what `prepare --folds` makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pacx.data.prepare import prepare
from pacx.data.splits import fold_patients
from pacx.data.store import Store
from pacx.errors import PacxError


def table(patients: int = 600, images: int = 2) -> pd.DataFrame:
    return pd.DataFrame({"patient_id": np.repeat([f"p{i:04d}" for i in range(patients)], images)})


def test_every_patient_tests_in_exactly_one_fold() -> None:
    rows = table()
    splits = np.stack([fold_patients(rows, folds=5, fold=fold) for fold in range(5)])
    assert ((splits == "test").sum(axis=0) == 1).all()


def test_all_images_of_a_patient_are_in_one_split() -> None:
    rows = table(images=3)
    split = fold_patients(rows, folds=3, fold=1)
    assert (split.groupby(rows["patient_id"]).nunique() == 1).all()


def test_where_a_patient_tests_depends_on_the_id_and_the_seed_alone() -> None:
    few, many = table(50), table(600)
    of_few = fold_patients(few, folds=4, fold=2)
    assert of_few.tolist() == fold_patients(many, folds=4, fold=2)[: len(few)].tolist()
    assert of_few.tolist() == fold_patients(few.assign(patient_id=few["patient_id"]), folds=4, fold=2).tolist()
    shuffled = few.sample(frac=1.0, random_state=0)
    assert fold_patients(shuffled, folds=4, fold=2).sort_index().tolist() == of_few.tolist()
    assert of_few.tolist() != fold_patients(few, folds=4, fold=2, seed=1).tolist()


def test_folds_are_equal_in_expectation_and_train_and_val_share_the_rest() -> None:
    """6,000 patients: the share of a fold has a standard error of .005, that of val among the others of .005."""
    rows = table(6000, images=1)
    for fold in range(4):
        split = fold_patients(rows, folds=4, fold=fold, fractions=(0.6, 0.2, 0.2))
        assert (split == "test").mean() == pytest.approx(0.25, abs=0.025)
        assert (split[split != "test"] == "val").mean() == pytest.approx(0.25, abs=0.025)


def test_who_validates_is_independent_of_the_fold() -> None:
    """A patient who does not test validates in every fold or in none: probes of all folds choose on the same people."""
    rows = table(300, images=1)
    splits = np.stack([fold_patients(rows, folds=3, fold=fold) for fold in range(3)])
    validates = (splits == "val").sum(axis=0)
    assert set(validates) == {0, 2}


def test_a_fold_that_does_not_exist_is_refused() -> None:
    for folds, fold in ((1, 0), (3, 3), (3, -1)):
        with pytest.raises(PacxError, match=f"no fold {fold} of {folds}"):
            fold_patients(table(4), folds=folds, fold=fold)
    with pytest.raises(PacxError, match="three shares with somebody to train on"):
        fold_patients(table(4), folds=2, fold=0, fractions=(0.0, 0.5, 0.5))


def write_sources(root: Path, num: int = 12) -> Path:
    """Two source tables of the same patients: the second holds fewer, under a split of its own."""
    root.mkdir()
    for number in range(num):
        gray = np.random.default_rng(number).integers(0, 255, (32, 32), dtype=np.uint8)
        Image.fromarray(gray).save(root / f"{number}.png")
    rows = pd.DataFrame({"path": [f"{i}.png" for i in range(num)], "patient_id": [f"p{i // 2}" for i in range(num)]})
    rows.assign(split="train").to_csv(root / "all.csv", index=False)
    rows.iloc[4:].assign(split="test").to_csv(root / "some.csv", index=False)
    return root


def make(root: Path, out: Path, file: str, **more: object) -> pd.Series:
    prepare("table", root / file, out=out, size=16, split_column="split", workers=1, **more)  # type: ignore[arg-type]
    manifest = Store.open(out).manifest
    return manifest.set_index("image_id")["split"]


def test_prepare_makes_a_fold_whatever_split_the_data_bring(tmp_path: Path) -> None:
    root = write_sources(tmp_path / "root")
    folds = [make(root, tmp_path / f"fold-{fold}", "all.csv", folds=2, fold=fold) for fold in range(2)]
    assert ((folds[0] == "test").to_numpy() ^ (folds[1] == "test").to_numpy()).all()
    other = make(root, tmp_path / "some", "some.csv", folds=2, fold=0)
    assert other.to_dict() == {name: split for name, split in folds[0].items() if name in other.index}
    hashes = {Store.open(tmp_path / f"fold-{fold}").content_hash for fold in range(2)}
    assert len(hashes) == 2  # else the two could not be told apart by what is made of them


def test_prepare_refuses_a_fold_without_folds(tmp_path: Path) -> None:
    root = write_sources(tmp_path / "root")
    with pytest.raises(PacxError, match="no use for --fold"):
        make(root, tmp_path / "out", "all.csv", fold=1)
    with pytest.raises(PacxError, match="no fold 2 of 2"):
        make(root, tmp_path / "out", "all.csv", folds=2, fold=2)
    assert not (tmp_path / "out").exists()
