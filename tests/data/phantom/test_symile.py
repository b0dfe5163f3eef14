"""The miniature of Symile-MIMIC: names, shapes, types, ranges and orders of the release."""

import hashlib
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pacx.data.images import read_cxr
from pacx.data.labs import PANEL
from pacx.data.phantom import formats, symile
from pacx.data.phantom.cohort import simulate
from pacx.data.phantom.formats import FORMATS, Format
from pacx.data.phantom.symile_tables import CSV_ITEMS, FINDINGS, percentiles, report, with_distractors
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.runs import read_result

COHORT = {"patients": 16, "size": 64, "seed": 3, "workers": 1}
SPLITS = ("train", "val", "val_retrieval", "test")
ITEMS = [str(lab.item_id) for lab in PANEL]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    out = tmp_path_factory.mktemp("symile") / "release"
    simulate(out=out, format="symile-mimic", **COHORT)
    return out


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("symile") / "store"
    simulate(out=out, **COHORT)
    return Store.open(out)


def array(release: Path, stem: str, split: str) -> np.ndarray:
    return np.load(release / "data_npy" / split / f"{stem}_{split}.npy", mmap_mode="r", allow_pickle=False)


def test_the_formats_of_the_flag_are_those_of_the_table():
    assert set(Format.__args__) == {"store", *FORMATS}


def test_the_files_are_those_of_the_release(release):
    arrays = ["cxr", "ecg", "hadm_id", "labs_missingness", "labs_percentiles"]
    candidates = ["label", "label_hadm_id"]
    names = {split: arrays + (candidates if split in {"val_retrieval", "test"} else []) for split in SPLITS}
    expected = {f"data_npy/{split}/{stem}_{split}.npy" for split, stems in names.items() for stem in stems}
    expected |= {f"{name}.csv" for name in (*SPLITS, "symile_mimic_data")}
    expected |= {"labs_means.json", "LICENSE.txt", "SHA256SUMS.txt"}
    found = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}
    ours = {".lock", "config.yaml", "log.txt", "result.json", "latents.parquet", "figures/contact_sheet.png"}
    assert found - ours == expected
    assert "simulated" in (release / "LICENSE.txt").read_text().lower()
    assert not (release / ".cohort").exists() and not (release / ".release").exists()


@pytest.mark.parametrize("split", SPLITS)
def test_arrays_have_the_shapes_types_and_ranges_of_the_release(release, split):
    rows = len(pd.read_csv(release / f"{split}.csv"))
    for stem, shape, dtype, low, high in (
        ("cxr", (3, 320, 320), np.float32, -2.1180, 2.6401),
        ("ecg", (1, 5000, 12), np.float32, -1, 1),
        ("labs_percentiles", (50,), np.float32, 0, 1),
        ("labs_missingness", (50,), np.int64, 0, 1),
        ("hadm_id", (), np.int64, 80_000_000, 80_000_100),
    ):
        values = array(release, stem, split)
        assert values.shape == (rows, *shape) and values.dtype == dtype, stem
        assert low <= values.min() and values.max() <= high, stem


def test_gray_levels_of_320_pixels_come_back_exactly(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (2, 320, 320), dtype=np.uint8)
    np.save(tmp_path / "cxr.npy", np.stack([symile._image(SimpleNamespace(images=levels), row) for row in (0, 1)]))
    pixels = read_cxr(f"{tmp_path / 'cxr.npy'}::1", stored="imagenet").pixels
    np.testing.assert_array_equal(np.rint(pixels * 255), levels[1])


def test_every_ecg_is_stretched_over_all_its_leads_together(release):
    ecg = array(release, "ecg", "train")
    np.testing.assert_array_equal(ecg.min(axis=(1, 2, 3)), -1)
    np.testing.assert_array_equal(ecg.max(axis=(1, 2, 3)), 1)
    assert (np.ptp(ecg[:, 0], axis=1) < 1.999).any(), "no lead by itself"


def test_leads_are_in_the_order_of_mimic(release):
    leads = np.asarray(array(release, "ecg", "train")[0, 0], dtype=np.float64).T
    one, two, _, _, avf, avl = leads[:6] - np.median(leads[:6], axis=1, keepdims=True)
    assert np.std(avf - (two - one / 2)) < 0.02 < 0.05 < np.std(avl - (two - one / 2))


def test_tables_have_the_columns_of_the_release_in_its_order(release):
    labs = [str(item) for item in CSV_ITEMS]
    columns = [
        "subject_id",
        "hadm_id",
        "cxr_path",
        *FINDINGS,
        "ecg_path",
        *labs,
        *(f"{lab}_percentile" for lab in labs),
    ]
    assert list(pd.read_csv(release / "train.csv")) == columns
    for name in ("val", "val_retrieval", "test"):
        assert list(pd.read_csv(release / f"{name}.csv")) == [*columns, "label_hadm_id", "label"]
    assert labs[:3] == ["51221", "51265", "50912"] and labs[-1] == "52135"
    assert sorted(labs) == ITEMS and labs != ITEMS
    assert list(json.loads((release / "labs_means.json").read_text())) == [f"{lab}_percentile" for lab in labs]


@pytest.mark.parametrize("split", SPLITS)
def test_lab_arrays_ascend_by_item_and_mark_observed_values_with_1(release, split):
    table = pd.read_csv(release / f"{split}.csv")
    observed = table[ITEMS].notna().to_numpy()
    np.testing.assert_array_equal(array(release, "labs_missingness", split), observed.astype(np.int64))
    ranks = array(release, "labs_percentiles", split)
    expected = table[[f"{item}_percentile" for item in ITEMS]].to_numpy()
    np.testing.assert_allclose(ranks[observed], expected[observed], atol=1e-7)
    means = json.loads((release / "labs_means.json").read_text())
    for column, item in enumerate(ITEMS):
        fill = means[f"{item}_percentile"]
        np.testing.assert_allclose(ranks[~observed[:, column], column], 0.5 if fill is None else fill, atol=1e-6)
    assert 0.4 < observed.mean() < 0.95


def test_percentiles_count_what_is_not_larger_in_the_training_set():
    training = pd.DataFrame({"a": [1.0, 2, 2, np.nan, 4], "b": np.nan})
    ranks = percentiles(pd.DataFrame({"a": [0, 1, 2, 3, 9, np.nan], "b": 1.0}), training=training)
    assert ranks["a"].tolist()[:5] == [0, 0.25, 0.75, 0.75, 1] and np.isnan(ranks["a"][5])
    assert ranks["b"].isna().all()


@pytest.mark.parametrize("split", ["val_retrieval", "test"])
def test_queries_come_first_and_each_has_nine_distractors_of_its_split(release, split):
    table = pd.read_csv(release / f"{split}.csv")
    num = len(table) // 10
    queries, distractors = table[:num], table[num:]
    assert (queries["label"] == 1).all() and (distractors["label"] == 0).all()
    assert (queries["label_hadm_id"] == queries["hadm_id"]).all() and queries["hadm_id"].is_unique
    assert (distractors["label_hadm_id"] != distractors["hadm_id"]).all()
    assert (distractors.groupby("label_hadm_id").size() == 9).all()
    assert set(distractors["hadm_id"]) <= set(queries["hadm_id"])
    for column in ("hadm_id", "label_hadm_id", "label"):
        np.testing.assert_array_equal(array(release, column, split), table[column])


def test_distractors_are_all_different_where_there_are_enough():
    queries = pd.DataFrame({"hadm_id": np.arange(12), "label_hadm_id": np.arange(12), "label": 1})
    table = with_distractors(queries, np.random.default_rng(0))
    assert len(table) == 120
    assert (table.groupby("label_hadm_id")["hadm_id"].nunique() == 10).all()


def test_rows_of_one_admission_are_the_same_in_all_arrays(release):
    ids = array(release, "hadm_id", "test")
    first, other = next((i, j) for i in range(len(ids)) for j in range(i + 1, len(ids)) if ids[i] == ids[j])
    for stem in ("cxr", "ecg", "labs_percentiles", "labs_missingness"):
        values = array(release, stem, "test")
        np.testing.assert_array_equal(values[first], values[other])


def test_findings_are_stated_denied_uncertain_or_not_mentioned():
    rng = np.random.default_rng(0)
    severities = ("lv_dilation", "lv_hypertrophy", "congestion", "infection", "renal_dysfunction")
    truth = pd.DataFrame({name: rng.standard_normal(800) for name in (*severities, "acquisition_inspiration")})
    truth["nodule"] = rng.random(800) < 0.15
    said = report(truth, rng)
    assert list(said) == list(FINDINGS)
    others = said.drop(columns="No Finding")
    for name in others:
        assert set(others[name].dropna()) == {-1, 0, 1} and others[name].isna().any(), name
    assert truth.loc[said["Edema"] == 1, "congestion"].min() > 0 > truth.loc[said["Edema"] == 0, "congestion"].min()
    assert set(said["No Finding"].dropna()) == {1}
    np.testing.assert_array_equal(said["No Finding"] == 1, ~others.isin([1, -1]).any(axis=1))


def test_the_checksums_are_right(release):
    lines = (release / "SHA256SUMS.txt").read_text().splitlines()
    assert len(lines) == 31
    for line in lines:
        digest, name = line.split(" ", 1)
        assert hashlib.sha256((release / name).read_bytes()).hexdigest() == digest, name


def test_the_result_counts_the_cohort_and_names_the_release(release, store):
    result = read_result(release)
    assert result["artefacts"]["release"] == "." and "store" not in result["artefacts"]
    assert result["results"]["splits"] == store.summary()["splits"]


def test_an_interrupted_run_leaves_no_release_and_goes_on(release, tmp_path, monkeypatch):
    real, written = symile._write_arrays, []

    def stops_at_the_third(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(arguments)
        real(*arguments)

    out = tmp_path / "release"
    monkeypatch.setattr(symile, "_write_arrays", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        simulate(out=out, format="symile-mimic", **COHORT)
    assert not (out / "train.csv").exists() and not (out / "data_npy").exists() and not (out / "result.json").exists()
    monkeypatch.setattr(symile, "_write_arrays", real)
    monkeypatch.setattr("pacx.data.phantom.cohort.fill", lambda *_, **__: pytest.fail("simulated twice"))
    simulate(out=out, format="symile-mimic", **COHORT)
    assert (out / "SHA256SUMS.txt").read_text() == (release / "SHA256SUMS.txt").read_text()


def test_a_run_that_was_stopped_while_moving_files_is_made_whole(release, tmp_path, monkeypatch):
    out, real, moved = tmp_path / "release", Path.replace, []

    def stops_at_the_second(path, target):
        if path.parent.name == ".release":
            if moved:
                raise KeyboardInterrupt
            moved.append(path)
        return real(path, target)

    monkeypatch.setattr(Path, "replace", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        simulate(out=out, format="symile-mimic", **COHORT)
    monkeypatch.undo()
    assert not (out / formats.LAST).exists()
    simulate(out=out, format="symile-mimic", **COHORT)
    assert (out / "SHA256SUMS.txt").read_text() == (release / "SHA256SUMS.txt").read_text()
    assert (out / "data_npy").is_dir() and not (out / ".release").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ecg": False}, "--ecg False does not go with"),
        ({"labs": False}, "--labs False does not go with"),
        ({"missing_ecg": 0.1}, "--missing_ecg"),
        ({"missing_labs": 0.1}, "--missing_labs"),
        ({"patients": 3}, "3 patients give .* --patients"),
        ({"patients": 10**6, "images_per_patient": 3.0}, "GB are free"),
    ],
)
def test_what_the_release_cannot_hold_is_refused_before_anything_is_written(wrong, message, tmp_path, monkeypatch):
    if wrong.get("patients") == 10**6:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**7}))
        wrong = {}
    with pytest.raises(PacxError, match=message):
        simulate(out=tmp_path / "out", format="symile-mimic", **{**COHORT, **wrong})
    assert not (tmp_path / "out").exists()


def test_a_finished_release_is_only_replaced_when_asked(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(symile, "_write_arrays", lambda *_: None)
    arguments = {**COHORT, "size": 32, "out": tmp_path / "out", "format": "symile-mimic"}
    simulate(**arguments)
    with pytest.raises(PacxError, match="--overwrite true"):
        simulate(**arguments)
    with caplog.at_level(logging.INFO):
        simulate(**{**arguments, "format": "store"}, overwrite=True)
    assert (tmp_path / "out" / "meta.json").is_file() and not (tmp_path / "out" / "train.csv").exists()
