from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pacx.data.manifest import Manifest, validate
from pacx.data.sources import SOURCES, Options, read_source
from pacx.errors import PacxError

SAMPLE = Path(__file__).parents[2].parent / "shared" / "data"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the open sample bundle is not beside the repository")


def write_table(path: Path, **columns: object) -> Path:
    table = pd.DataFrame(
        {"file": ["a.png", "b.png", "c.png", "d.png"], "subject": [1, 1, 2, 3], "edema": [0, 1, np.nan, 1]}
    ).assign(**columns)
    table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
    return path


OPTIONS = Options(path_column="file", patient_column="subject")


def read_table(tmp_path: Path, options: Options, name: str = "t.csv", **columns: object) -> Manifest:
    return read_source("table", write_table(tmp_path / name, **columns), options=options)


def test_a_folder_gives_every_file_that_may_be_an_image(tmp_path: Path) -> None:
    for name in (
        "p1/a.png",
        "p1/IM0001",
        "p 2/b.dcm",
        "notes.txt",
        "p1/labels.csv",
        ".hidden/x.png",
        "p1/.DS_Store",
        "DICOMDIR",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    manifest = read_source("folder", tmp_path, options=Options())
    assert manifest.table["path"].tolist() == ["p 2/b.dcm", "p1/IM0001", "p1/a.png"]
    assert manifest.table["patient_id"].nunique() == 3
    assert manifest.root == tmp_path
    by_folder = read_source("folder", tmp_path, options=Options(patient_from="folder"))
    assert by_folder.table["patient_id"].tolist() == ["p 2", "p1", "p1"]
    validate(by_folder)


def test_a_patient_may_be_a_folder_of_studies(tmp_path: Path) -> None:
    for name in (
        "patient1/study1/a.jpg",
        "patient1/study2/a.jpg",
        "patient1/study2/b.jpg",
        "patient2/study1/a.jpg",
        "x.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    manifest = read_source("folder", tmp_path, options=Options(patient_from="top-folder"))
    assert manifest.table["patient_id"].tolist() == ["patient1"] * 3 + ["patient2", "x.jpg"]
    validate(manifest)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match="holds no files"):
        read_source("folder", tmp_path, options=Options())
    (tmp_path / "a.txt").touch()
    with pytest.raises(PacxError, match="1 files, none of which can be an image"):
        read_source("folder", tmp_path, options=Options())
    with pytest.raises(PacxError, match=r"is not a folder.*`table`"):
        read_source("folder", tmp_path / "a.txt", options=Options())


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(top: Path, onerror) -> list:
        onerror(PermissionError(13, "Permission denied", str(top)))
        return []

    monkeypatch.setattr("pacx.data.sources.folder.os.walk", locked)
    with pytest.raises(PacxError, match="cannot be listed \\(Permission denied\\)"):
        read_source("folder", tmp_path, options=Options())


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_becomes_a_manifest_by_the_columns_that_are_named(tmp_path: Path, name: str) -> None:
    options = replace(
        OPTIONS, label_columns=("edema",), split_column="fold", mask_column="outline", mask_name="lung",
        view_column="projection", lab_columns=("crp",),
    )  # fmt: skip
    manifest = read_table(
        tmp_path, options, name, fold=["train", "train", "val", "test"], outline=["m.png", None, None, None],
        projection="PA", crp=[1.5, np.nan, 3, np.nan], extra="unused",
    )  # fmt: skip
    validate(manifest)
    table = manifest.table
    assert table["image_id"].tolist() == table["path"].tolist() == ["a.png", "b.png", "c.png", "d.png"]
    assert table["patient_id"].tolist() == ["1", "1", "2", "3"]
    assert table["split"].tolist() == ["train", "train", "val", "test"]
    assert table["mask_path"].isna().tolist() == [False, True, True, True]
    np.testing.assert_array_equal(table["edema"], [0, 1, np.nan, 1])
    assert manifest.tasks["edema"].kind == "binary"
    assert manifest.labs["crp"].loc["c.png"] == 3
    assert "extra" not in table and manifest.mask_name == "lung" and manifest.root == tmp_path


def test_without_a_split_column_patients_are_split(tmp_path: Path) -> None:
    manifest = read_table(tmp_path, OPTIONS)
    validate(manifest)
    assert set(manifest.table["split"]) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("values", "kind", "numbers", "classes"),
    [
        ([0, 1, None, 1], "binary", [0, 1, np.nan, 1], ()),
        ([True, False, None, True], "binary", [1, 0, np.nan, 1], ()),
        ([True, False, False, True], "binary", [1, 0, 0, 1], ()),
        ([0, 2, None, 1], "multiclass", [0, 2, np.nan, 1], ()),
        (["viral", "None", None, "bacterial"], "multiclass", [2, 0, np.nan, 1], ("None", "bacterial", "viral")),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_the_kind_of_a_label_follows_from_its_values(
    tmp_path: Path, name: str, values: list, kind: str, numbers: list, classes: tuple
) -> None:
    manifest = read_table(tmp_path, replace(OPTIONS, label_columns=("finding",)), name, finding=values)
    task = manifest.tasks["finding"]
    assert (task.kind, task.classes) == (kind, classes)
    np.testing.assert_array_equal(manifest.table["finding"].to_numpy(dtype=float), numbers)
    validate(manifest)


def test_several_labels_form_a_multilabel_task_when_it_has_a_name(tmp_path: Path) -> None:
    labels = replace(OPTIONS, label_columns=("edema", "effusion", "grade"))
    columns = {"effusion": [0, 0, 1, 1], "grade": [0, 1, 2, 3]}
    assert {name: task.kind for name, task in read_table(tmp_path, labels, **columns).tasks.items()} == {
        "edema": "binary", "effusion": "binary", "grade": "multiclass",
    }  # fmt: skip
    tasks = read_table(tmp_path, replace(labels, multilabel="findings"), **columns).tasks
    assert tasks["findings"].labels == ("edema", "effusion") and set(tasks) == {"findings", "grade"}


def test_codes_beside_zero_and_one_are_refused_and_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match=r"holds -1\.0.*Allowed in a binary task: 0, 1, or empty"):
        validate(read_table(tmp_path, replace(OPTIONS, label_columns=("edema",)), edema=[0, 1, -1, 1]))


@pytest.mark.parametrize(
    ("options", "columns", "says"),
    [
        (replace(OPTIONS, label_columns=("oedema",)), {}, "no column 'oedema'. It has: file, subject, edema"),
        (replace(OPTIONS, patient_column="patient_id"), {}, "no column 'patient_id'.*give the path column"),
        (replace(OPTIONS, split_column="fold"), {"fold": ["train", "train", "dev", "test"]}, "'dev'.*train, val, test"),
        (replace(OPTIONS, split_column="fold"), {"fold": ["train", "val", "val", "test"]}, "more than one split: '1'"),
        (OPTIONS, {"file": ["a.png", "a.png", "c.png", "d.png"]}, "more than once: 'a.png'"),
        (OPTIONS, {"file": ["a.png", None, "c.png", "d.png"]}, "1 of 4 rows .* no image_id"),
        (replace(OPTIONS, lab_columns=("crp",)), {"crp": ["<5", "7", "8", "9"]}, "lab columns 'crp' are not numeric"),
        (replace(OPTIONS, multilabel="all"), {}, "--multilabel all needs 0/1 columns"),
        (replace(OPTIONS, label_columns=("age",)), {"age": [0, 1, 1, 0]}, "'age' .* reserved name"),
    ],
)
def test_tables_that_do_not_fit_are_refused_with_a_reason(
    tmp_path: Path, options: Options, columns: dict[str, object], says: str
) -> None:
    with pytest.raises(PacxError, match=says):
        validate(read_table(tmp_path, options, **columns))


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x00")
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    (tmp_path / "empty.csv").touch()
    for name in ("x.csv", "x.parquet", "empty.csv"):
        with pytest.raises(PacxError, match="cannot be read as a table"):
            read_source("table", tmp_path / name, options=Options())
    with pytest.raises(PacxError, match="is a folder"):
        read_source("table", tmp_path, options=Options())
    with pytest.raises(PacxError, match="does not exist"):
        read_source("table", tmp_path / "nowhere.csv", options=Options())


def test_unknown_sources_and_useless_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match=r"no source 'folders'. The sources are: folder"):
        read_source("folders", tmp_path, options=Options())
    with pytest.raises(PacxError, match=r"'folder' has no use for --label_columns\. It takes: --patient_from"):
        read_source("folder", tmp_path, options=Options(label_columns=("edema",)))
    with pytest.raises(PacxError, match="parts cxr, seg, ecg, labs; found --part None"):
        read_source("open-sample", tmp_path, options=Options())
    with pytest.raises(PacxError, match="is not the open sample"):
        read_source("open-sample", tmp_path, options=Options(part="cxr"))


def test_every_source_explains_itself_and_names_real_options() -> None:
    from importlib import import_module

    for name in SOURCES:
        module = import_module(f"pacx.data.sources.{name.replace('-', '_')}")
        assert len(module.__doc__) > 200
        assert all(hasattr(Options(), option) for option in module.OPTIONS)


def open_sample(part: str) -> Manifest:
    manifest = read_source("open-sample", SAMPLE, options=Options(part=part))
    validate(manifest)
    assert manifest.license and manifest.citation
    return manifest


def positives(manifest: Manifest, label: str) -> dict[str, tuple[int, int]]:
    groups = manifest.table.groupby("split")[label]
    return {split: (int((g == 1).sum()), int(g.notna().sum())) for split, g in groups}


@needs_sample
def test_the_sample_x_rays_have_the_counts_of_its_readme() -> None:
    manifest = open_sample("cxr")
    assert manifest.table["split"].value_counts().to_dict() == {"train": 803, "val": 113, "test": 224}
    assert positives(manifest, "pneumonia") == {"train": (318, 646), "val": (46, 92), "test": (95, 184)}
    assert manifest.table[["Infiltration", "Atelectasis", "Edema", "Effusion"]].sum().tolist() == [171, 111, 87, 84]
    assert manifest.table.loc[manifest.table["dataset"] == "hannover", "pneumonia"].isna().all()
    assert positives(manifest, "female")["train"][1] == 803
    for label in ("high_crp", "low_po2", "icu_stay"):
        assert manifest.table.loc[manifest.table["dataset"] == "nih", label].isna().all()
        assert all(0 < good < known for good, known in positives(manifest, label).values())


@needs_sample
def test_the_sample_blood_values_share_names_and_units_with_the_icu_panel_where_they_agree() -> None:
    paired, icu = open_sample("cxr"), open_sample("labs")
    shared = set(paired.labs.columns) & set(icu.labs.columns)
    assert shared == {"crp", "pco2", "po2"}
    assert all(paired.lab_units[name] == icu.lab_units[name] for name in shared)
    source = pd.read_csv(SAMPLE / "labs/hannover_cxr_paired_labs.csv").set_index("image_id")
    below = source.index[(source["crp_val"] == -np.inf) & (source["crp_offset"].abs() <= 2)]
    assert len(below) and (paired.labs.loc[below, "crp"] == 0).all()
    assert (paired.table.set_index("image_id").loc[below, "high_crp"] == 0).all()
    late = source.index[source["crp_offset"].abs() > 2]
    assert len(late) and paired.labs.loc[late, "crp"].isna().all()
    assert (source.loc[source["icu_admission_offset"].isna()].index.isin(paired.labs.index)).all()


@needs_sample
def test_nobody_was_in_intensive_care_on_a_pa_image() -> None:
    table = open_sample("cxr").table
    assert set(table.loc[table["icu_stay"] == 1, "view"]) == {"AP"}


@needs_sample
def test_the_other_parts_of_the_sample_have_the_counts_of_its_readme() -> None:
    seg, ecg, labs = open_sample("seg"), open_sample("ecg"), open_sample("labs")
    assert seg.table["split"].value_counts().to_dict() == {"train": 45, "test": 17, "val": 8}
    assert seg.mask_name == "lung" and seg.table["mask_path"].notna().all()
    assert ecg.table["split"].value_counts().to_dict() == {"train": 322, "val": 73, "test": 61}
    assert positives(ecg, "NORM") == {"train": (209, 322), "val": (34, 73), "test": (32, 61)}
    assert labs.labs.shape == (2399, 39) and labs.table["mortality"].sum() == 91
    assert labs.table["mortality"].notna().sum() == 1466
    both = open_sample("cxr").table.merge(seg.table, on="patient_id")
    assert len(both) and (both["split_x"] == both["split_y"]).all()
