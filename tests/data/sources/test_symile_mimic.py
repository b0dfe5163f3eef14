"""Symile-MIMIC: read from a simulated release, compared with the store of the same cohort, and refused when damaged."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pacx.data.bank_import import import_bank
from pacx.data.ecg.recipe import prepare_ecg
from pacx.data.labs import PANEL
from pacx.data.manifest import Manifest, validate
from pacx.data.phantom.cohort import simulate
from pacx.data.prepare import prepare
from pacx.data.sources import Options, read_source
from pacx.data.sources.symile_mimic import FINDINGS
from pacx.data.store import Store
from pacx.errors import PacxError

COHORT = {"patients": 16, "size": 64, "seed": 3, "workers": 1}
ITEMS = [str(lab.item_id) for lab in PANEL]


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("symile") / "release"
    simulate(out=out, format="symile-mimic", **COHORT)
    return out


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Store:
    out = tmp_path_factory.mktemp("symile") / "simulated"
    simulate(out=out, **COHORT)
    return Store.open(out)


@pytest.fixture(scope="module")
def prepared(release, tmp_path_factory) -> Store:
    out = tmp_path_factory.mktemp("symile") / "prepared"
    prepare("symile-mimic", release, size=64, workers=1, out=out)
    return Store.open(out)


@pytest.fixture
def copy(release, tmp_path) -> Path:
    """A release to damage; X-rays and ECGs are links to the whole one's."""
    root = tmp_path / "release"
    root.mkdir()
    for path in sorted(release.rglob("*")):
        target = root / path.relative_to(release)
        if path.is_dir():
            target.mkdir(parents=True)
        elif path.name.startswith(("cxr_", "ecg_")):
            target.symlink_to(path)
        else:
            shutil.copy(path, target)
    return root


def read(root: Path) -> Manifest:
    manifest = read_source("symile-mimic", root, options=Options())
    validate(manifest)
    return manifest


def file(root: Path, stem: str, split: str = "train") -> Path:
    return root / "data_npy" / split / f"{stem}_{split}.npy"


def image_ids(release: Path, admissions: pd.Series) -> pd.Series:
    """The cohort's image ids of admissions, by the last part of cxr_path."""
    everybody = pd.read_csv(release / "symile_mimic_data.csv")
    names = everybody["cxr_path"].str.rpartition("/")[2].str.removesuffix(".jpg")
    return admissions.map(dict(zip(everybody["hadm_id"].astype(str), names, strict=True)))


@pytest.fixture(scope="module")
def partners(release, simulated, prepared) -> np.ndarray:
    """For each row of the prepared release, the row of the simulated store."""
    place = pd.Series(np.arange(len(simulated)), index=simulated.manifest["image_id"])
    return place[image_ids(release, prepared.manifest["image_id"])].to_numpy()


def test_one_row_per_admission_with_everything(release, simulated, prepared, partners):
    assert sorted(partners) == list(range(len(simulated)))
    assert prepared.name == "symile-mimic" and len(pd.read_csv(prepared.path / "rejects.csv")) == 0
    assert prepared.manifest[["has_image", "has_ecg", "has_labs"]].all(axis=None)
    for column in ("split", "age", "sex", "view"):
        assert prepared.manifest[column].tolist() == simulated.manifest[column].iloc[partners].tolist(), column
    pairs = pd.DataFrame({"a": prepared.manifest["patient_id"], "b": simulated.manifest["patient_id"].iloc[partners]
                          .to_numpy()}).drop_duplicates()  # fmt: skip
    assert pairs["a"].is_unique and pairs["b"].is_unique, "the same people"
    assert "simulated" in prepared.meta["license"].lower()
    assert prepared.patients_of == ""  # simulated subjects are nobody in MIMIC


def test_images_survive_320_pixels_and_imagenets_normalisation(simulated, prepared, partners):
    difference = np.abs(prepared.images.astype(float) - simulated.images[partners])
    assert difference.mean() < 2.5, "gray levels of 255; 64 px were enlarged to 320 and reduced again"
    for a, b in zip(prepared.images, simulated.images[partners], strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


def test_ecgs_are_the_same_up_to_unit_and_offset(simulated, prepared, partners):
    for row, partner in enumerate(partners):
        ours, theirs = (np.asarray(x, np.float64) for x in (prepared.ecg[row], simulated.ecg[partner]))
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999
        slope, _ = np.polyfit(theirs.ravel(), ours.ravel(), 1)
        assert slope > 0


def test_the_network_sees_the_same_ecgs(simulated, prepared, partners):
    for row, partner in list(enumerate(partners))[:3]:
        ours, theirs = (prepare_ecg(np.asarray(x, np.float32)) for x in (prepared.ecg[row], simulated.ecg[partner]))
        # Both were rounded to float16, on scales of their own; the network's input has a deviation of 1.
        assert np.abs(ours - theirs).max() < 0.01 and np.sqrt(((ours - theirs) ** 2).mean()) < 0.001


def test_labs_are_the_raw_values_in_the_order_of_the_panel(simulated, prepared, partners):
    expected = simulated.labs.iloc[partners].reset_index(drop=True)
    pd.testing.assert_frame_equal(prepared.labs.reset_index(drop=True), expected, rtol=1e-14)
    assert list(prepared.labs.columns) == [lab.name for lab in PANEL]
    assert prepared.lab_units == simulated.lab_units


def test_feature_files_beside_the_arrays_become_a_bank(release, prepared, tmp_path):
    files, ids = [], []
    for split in ("train", "val", "test"):
        ids.append(str(file(release, "hadm_id", split)))
        admissions = np.load(ids[-1])
        files.append(tmp_path / f"{split}-ecg_features.npy")
        np.save(files[-1], np.stack([admissions % 1000, admissions // 1000], axis=1).astype(np.float32))
    bank, counts = import_bank(prepared, files, tmp_path / "bank", name="ecg", ids=ids)
    bank.check(prepared)
    admissions = prepared.manifest["image_id"].astype(int).to_numpy()
    np.testing.assert_array_equal(bank.embeddings, np.stack([admissions % 1000, admissions // 1000], axis=1))
    assert bank.present.all() and counts["num_repeated"] == 45 and counts["num_unknown"] == 0


def test_findings_are_1_0_or_unknown_and_uncertain_ones_are_counted(copy, caplog):
    table = pd.read_csv(copy / "train.csv")
    table.loc[:3, "Edema"] = [1, 0, -1, np.nan]
    table.to_csv(copy / "train.csv", index=False)
    with caplog.at_level(logging.INFO):
        manifest = read(copy)
    np.testing.assert_array_equal(manifest.table["Edema"][:4], [1, 0, np.nan, np.nan])
    assert set(manifest.tasks) == set(FINDINGS)
    rows = pd.concat([pd.read_csv(copy / f"{split}.csv") for split in ("train", "val", "test")])
    uncertain = int((rows.loc[rows["label"] != 0, "Edema"] == -1).sum())
    assert f"Edema is uncertain (-1) in {uncertain} reports" in caplog.text


def test_test_has_the_queries_only_and_points_at_their_rows(release):
    table = read(release).table
    test = table[table["split"] == "test"].reset_index(drop=True)
    ids = np.load(file(release, "hadm_id", "test"))
    assert 10 * len(test) == len(ids) and test["image_id"].tolist() == [str(number) for number in ids[: len(test)]]
    assert test["path"].tolist() == [f"data_npy/test/cxr_test.npy::{row}" for row in range(len(test))]
    assert test["ecg_path"].iloc[1] == "data_npy/test/ecg_test.npy::1"


def test_a_release_of_another_size_is_read_with_a_warning(release, caplog):
    read(release)
    assert "not the full release 1.0.0: it has 12 train, 2 val, 5 test" in caplog.text
    assert "the release 10000 train, 750 val, 464 test" in caplog.text


def test_what_is_not_used_need_not_be_there(copy):
    shutil.rmtree(copy / "data_npy" / "val_retrieval")
    for name in ("val_retrieval.csv", "symile_mimic_data.csv", "LICENSE.txt", "SHA256SUMS.txt", "labs_means.json"):
        (copy / name).unlink()
    manifest = read(copy)
    assert not {"age", "sex", "view"} & set(manifest.table) and "Credentialed" in manifest.license
    assert manifest.patients_of == "mimic"


@pytest.mark.parametrize("wrong", ["..", "data_npy", "data_npy/train"])
def test_a_root_one_level_off_names_the_right_one(wrong, copy):
    with pytest.raises(PacxError, match=r"is not a release of Symile-MIMIC.*Give \S*release instead"):
        read(copy / wrong)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(PacxError, match=r"Give the folder that holds train\.csv and data_npy"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["val.csv", "data_npy/test/cxr_test.npy", "data_npy/train/labs_missingness_train.npy"])
def test_a_missing_file_is_named(name, copy):
    (copy / name).unlink()
    with pytest.raises(PacxError, match=f"{name} is missing"):
        read(copy)


def change(path: Path, function) -> None:
    np.save(path, function(np.load(path)))


def test_an_inverted_mask_is_recognised(copy):
    change(file(copy, "labs_missingness"), lambda mask: 1 - mask)
    with pytest.raises(PacxError, match=r"labs_missingness_train\.npy is 1 where train\.csv has no value.*opposite"):
        read(copy)


def test_a_mask_that_says_something_else_is_refused(copy):
    def flip_one(mask):
        mask[2, 7] ^= 1
        return mask

    change(file(copy, "labs_missingness", "test"), flip_one)
    with pytest.raises(PacxError, match=r"disagree on what was measured in 1 of"):
        read(copy)
    change(file(copy, "labs_missingness", "test"), lambda mask: mask * 2)
    with pytest.raises(PacxError, match="other values than 0 and 1"):
        read(copy)


def test_columns_in_the_order_of_the_tables_are_recognised(copy):
    table = pd.read_csv(copy / "train.csv")
    items = [column.removesuffix("_percentile") for column in table if column.endswith("_percentile")]
    order = [ITEMS.index(item) for item in items]
    for stem in ("labs_percentiles", "labs_missingness"):
        change(file(copy, stem), lambda values: values[:, order])
    with pytest.raises(PacxError, match="columns are in the order of the table, where the release has ascending item"):
        read(copy)


def test_two_swapped_columns_are_named(copy):
    def swap(values):
        values[:, [16, 22]] = values[:, [22, 16]]
        return values

    for stem in ("labs_percentiles", "labs_missingness"):
        change(file(copy, stem), swap)
    with pytest.raises(PacxError, match=r"2 columns differ: 50912 \(Creatinine\), 50971 \(Potassium\)"):
        read(copy)


@pytest.mark.parametrize("factor", [100, -1, np.nan])
def test_percentiles_outside_0_to_1_are_refused(factor, copy):
    change(file(copy, "labs_percentiles", "val"), lambda ranks: (ranks * factor).astype(np.float32))
    with pytest.raises(PacxError, match=r"labs_percentiles_val\.npy holds \d+ values outside \[0, 1\]"):
        read(copy)


def test_arrays_and_tables_of_other_rows_are_refused(copy):
    change(file(copy, "hadm_id"), lambda ids: np.roll(ids, 1))
    with pytest.raises(PacxError, match=r"hadm_id_train\.npy and train\.csv name different rows: 12 of 12 differ"):
        read(copy)


def test_a_shuffled_test_split_is_refused(copy):
    order = np.random.default_rng(0).permutation(len(np.load(file(copy, "hadm_id", "test"))))
    pd.read_csv(copy / "test.csv").iloc[order].to_csv(copy / "test.csv", index=False)
    for stem in ("hadm_id", "label_hadm_id", "label"):
        change(file(copy, stem, "test"), lambda ids: ids[order])
    with pytest.raises(PacxError, match=r"first 5 rows of test\.csv should be the 5 queries"):
        read(copy)


def test_a_query_that_is_not_its_own_answer_is_refused(copy):
    table = pd.read_csv(copy / "test.csv")
    table.loc[0, "label_hadm_id"] = table.loc[1, "hadm_id"]
    table.to_csv(copy / "test.csv", index=False)
    change(file(copy, "label_hadm_id", "test"), lambda ids: table["label_hadm_id"].to_numpy())
    with pytest.raises(PacxError, match="label_hadm_id is not their hadm_id"):
        read(copy)


def test_a_patient_in_two_splits_is_refused(copy):
    patient = pd.read_csv(copy / "train.csv")["subject_id"].iloc[0]
    table = pd.read_csv(copy / "val.csv")
    table.loc[0, "subject_id"] = patient
    table.to_csv(copy / "val.csv", index=False)
    with pytest.raises(PacxError, match=f"more than one split: '{patient}'"):
        read(copy)


def test_an_admission_that_is_there_twice_is_refused(copy):
    table = pd.read_csv(copy / "train.csv")
    table.loc[1, "hadm_id"] = table.loc[0, "hadm_id"]
    table.to_csv(copy / "train.csv", index=False)
    change(file(copy, "hadm_id"), lambda ids: table["hadm_id"].to_numpy())
    with pytest.raises(PacxError, match="more than once"):
        read(copy)


@pytest.mark.parametrize(("stem", "split"), [("cxr", "test"), ("ecg", "train"), ("labs_percentiles", "val")])
def test_a_truncated_download_is_noticed_before_anything_is_read(stem, split, copy):
    path = file(copy, stem, split)
    data = path.read_bytes()[:-1000]
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(PacxError, match=rf"{stem}_{split}\.npy cannot be used: it is cut off"):
        read(copy)


def test_arrays_of_python_objects_are_refused(copy):
    path = file(copy, "labs_missingness")
    np.save(path, np.load(path).astype(object), allow_pickle=True)
    with pytest.raises(PacxError, match=r"labs_missingness_train\.npy .*Python objects"):
        read(copy)


def test_arrays_of_another_shape_or_type_are_refused(copy):
    change(file(copy, "labs_percentiles"), lambda ranks: ranks[:-1])
    with pytest.raises(PacxError, match=r"shape \(11, 50\); with the 12 rows of train\.csv it should be \(12, 50\)"):
        read(copy)
    change(file(copy, "labs_missingness", "val"), lambda mask: mask.astype(np.float32))
    shutil.copy(file(copy, "labs_percentiles", "val"), file(copy, "labs_percentiles"))
    ranks = np.load(file(copy, "labs_percentiles", "val"))
    np.save(file(copy, "labs_percentiles"), np.resize(ranks, (12, 50)))
    with pytest.raises(PacxError, match=r"labs_percentiles_train\.npy contradicts the percentiles of train\.csv"):
        read(copy)


def test_tables_without_the_columns_or_with_text_are_refused(copy):
    table = pd.read_csv(copy / "train.csv")
    table.drop(columns=["50912", "Edema"]).to_csv(copy / "train.csv", index=False)
    with pytest.raises(PacxError, match=r"train\.csv lacks 2 columns of the release: Edema, 50912"):
        read(copy)
    table.assign(**{"50912": "<0.2"}).to_csv(copy / "train.csv", index=False)
    with pytest.raises(PacxError, match=r"'50912' of \S*train\.csv holds text"):
        read(copy)


def test_an_option_that_it_has_no_use_for_is_refused(release):
    with pytest.raises(PacxError, match="has no use for --part"):
        read_source("symile-mimic", release, options=Options(part="train"))


def test_an_image_that_was_normalised_in_another_way_loses_its_row_with_the_reason(copy, tmp_path):
    path = file(copy, "cxr", "val")
    images = np.load(path)
    images[0] = images[0] * 3
    path.unlink()
    np.save(path, images)
    prepare("symile-mimic", copy, size=32, workers=1, out=tmp_path / "out")
    rejects = pd.read_csv(tmp_path / "out" / "rejects.csv")
    assert rejects["file"].tolist() == [f"{path}::0"] and "normalised in another way" in rejects["reason"][0]
    assert len(Store.open(tmp_path / "out")) == 18
