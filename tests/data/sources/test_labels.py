"""Label order, class names and how labels are made, on rows written by hand; images are not looked at."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pacx.data.manifest import Manifest
from pacx.data.sources import Options, chestx6, chexpert, covid_qu_ex, medmod, nih, open_i, padchest, read_source, vindr
from pacx.data.sources.values import parse_age
from pacx.errors import PacxError


def touch(root: Path, paths: Iterable[str]) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def read(name: str, root: Path, **given: object) -> Manifest:
    return read_source(name, root, options=Options(partial=True, **given))  # type: ignore[arg-type]


def labels(manifest: Manifest, task: str) -> dict[str, list[float]]:
    columns = list(manifest.tasks[task].labels)
    return dict(zip(manifest.table["image_id"], manifest.table[columns].to_numpy().tolist(), strict=True))


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def make_nih(root: Path, rows: list[tuple[str, str, str, str]], *, test: list[str]) -> Path:
    names = [name for name, *_ in rows]
    lines = [f"{name},{found},0,{patient},{age},F,PA,1024,1024,0.14,0.14," for name, found, patient, age in rows]
    root.mkdir(exist_ok=True)
    (root / "Data_Entry_2017.csv").write_text("\n".join([NIH_HEADER, *lines]) + "\n")
    (root / "test_list.txt").write_text("\n".join(test) + "\n")
    (root / "train_val_list.txt").write_text("\n".join(name for name in names if name not in test) + "\n")
    touch(root, [f"images_001/images/{name}" for name in names])
    return root


def test_nih_has_14_columns_in_the_published_order_and_no_finding_is_all_zeros(tmp_path: Path) -> None:
    rows = [
        ("1_0.png", "Hernia|Atelectasis", "1", "058Y"),
        ("1_1.png", "No Finding", "1", "58"),
        ("2_0.png", "Pleural_Thickening", "2", "414"),
        ("3_0.png", "Mass|Nodule|Pneumothorax", "3", "018M"),
    ]
    manifest = read("nih", make_nih(tmp_path, rows, test=["3_0.png"]))
    assert nih.FINDINGS == (
        "Hernia", "Pneumothorax", "Nodule", "Edema", "Effusion", "Pleural_Thickening", "Cardiomegaly", "Mass",
        "Fibrosis", "Consolidation", "Pneumonia", "Infiltration", "Emphysema", "Atelectasis",
    )  # fmt: skip
    found = labels(manifest, "findings")
    assert found["1_0"] == [1, *[0] * 12, 1]
    assert found["1_1"] == [0] * 14
    assert [nih.FINDINGS[i] for i in np.flatnonzero(found["3_0"])] == ["Pneumothorax", "Nodule", "Mass"]
    assert manifest.table.set_index("image_id")["split"]["3_0"] == "test"
    assert manifest.table["age"].tolist() == pytest.approx([58, 58, np.nan, 1.5], nan_ok=True)
    assert manifest.table["path"].iloc[0] == "images_001/images/1_0.png"


def test_nih_refuses_unknown_findings_and_images_in_no_list(tmp_path: Path) -> None:
    with pytest.raises(PacxError, match=r"names the findings Scoliosis, which the release does not have"):
        read("nih", make_nih(tmp_path / "a", [("1.png", "Scoliosis", "1", "50")], test=[]))
    root = make_nih(tmp_path / "b", [("1.png", "Mass", "1", "50"), ("2.png", "Mass", "2", "50")], test=["2.png"])
    (root / "train_val_list.txt").write_text("2.png\n")
    with pytest.raises(PacxError, match=r"2 images \(1\.png, 2\.png\) are in none of .*, or in both"):
        read("nih", root)


def test_ages_are_read_in_every_unit() -> None:
    text = pd.Series(["063Y", "7", "011M", "052W", "020D", "414", "", "old", None])
    expected = [63, 7, 11 / 12, 52 / 52.18, 20 / 365.25, *[np.nan] * 4]
    assert parse_age(text).tolist() == pytest.approx(expected, nan_ok=True)


def make_vindr(root: Path, readings: list[dict[str, object]], tests: list[dict[str, object]]) -> Path:
    columns = [*vindr.FINDINGS, *vindr.DROPPED]
    train = pd.DataFrame(readings).reindex(columns=["image_id", "rad_id", *columns]).fillna(0)
    test = pd.DataFrame(tests).reindex(columns=["image_id", *columns]).fillna(0)
    (root / "annotations").mkdir(parents=True)
    train.to_csv(root / "annotations" / "image_labels_train.csv", index=False)
    test = test.rename(columns={"Other diseases": "Other disease"})
    test.to_csv(root / "annotations" / "image_labels_test.csv", index=False)
    touch(root, [f"train/{one}.dicom" for one in train["image_id"].unique()])
    touch(root, [f"test/{one}.dicom" for one in test["image_id"]])
    return root


def test_vindr_takes_two_of_three_readers_and_keeps_19_findings_in_the_published_order(tmp_path: Path) -> None:
    readings = [
        {"image_id": "a", "rad_id": "R1", "Cardiomegaly": 1, "Pneumothorax": 1, "No finding": 0},
        {"image_id": "a", "rad_id": "R2", "Cardiomegaly": 1},
        {"image_id": "a", "rad_id": "R3", "Edema": 1},
        {"image_id": "007", "rad_id": "R1", "No finding": 1},
        {"image_id": "007", "rad_id": "R2", "Other diseases": 1},
        {"image_id": "007", "rad_id": "R3", "Other diseases": 1},
    ]
    manifest = read("vindr", make_vindr(tmp_path, readings, [{"image_id": "t", "Other diseases": 1, "ILD": 1}]))
    assert vindr.FINDINGS == (
        "Pneumothorax", "Atelectasis", "Mediastinal shift", "Consolidation", "Lung tumor", "ILD", "Calcification",
        "Infiltration", "Other lesion", "Nodule/Mass", "Pneumonia", "Tuberculosis", "Lung Opacity",
        "Pleural effusion", "Pleural thickening", "Pulmonary fibrosis", "Cardiomegaly", "Aortic enlargement",
        "Other diseases",
    )  # fmt: skip
    assert len({*vindr.FINDINGS, *vindr.DROPPED}) == 28
    found = labels(manifest, "findings")
    assert [vindr.FINDINGS[i] for i in np.flatnonzero(found["a"])] == ["Cardiomegaly"]  # one of three is too few
    assert [vindr.FINDINGS[i] for i in np.flatnonzero(found["007"])] == ["Other diseases"]
    assert [vindr.FINDINGS[i] for i in np.flatnonzero(found["t"])] == ["ILD", "Other diseases"]
    assert "Edema" not in manifest.table and "No finding" not in manifest.table
    assert manifest.table.set_index("image_id")["split"]["t"] == "test"


def test_vindr_refuses_images_without_three_different_readers(tmp_path: Path) -> None:
    readings = [{"image_id": "a", "rad_id": "R1"}, {"image_id": "a", "rad_id": "R1"}, {"image_id": "a", "rad_id": "R2"}]
    root = make_vindr(tmp_path, readings, [{"image_id": "t"}])
    with pytest.raises(PacxError, match=r"1 images have another number \(a\) and 1 rows repeat a reader"):
        read("vindr", root)


def test_vindr_asks_for_its_tables_where_the_mirror_has_none(miniature, tmp_path: Path) -> None:
    root = miniature("vindr")
    with pytest.raises(PacxError, match=r"give its folder with --annotations"):
        read("vindr", root / "png")
    png = read("vindr", root / "png", annotations=root / "annotations")
    dicom = read("vindr", root)
    assert png.table["path"].str.endswith(".png").all() and dicom.table["path"].str.endswith(".dicom").all()
    assert png.table.drop(columns="path").equals(dicom.table.drop(columns="path"))


CHEXPERT_HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(sorted(chexpert.OBSERVATIONS))


def make_chexpert(root: Path, values: list[str]) -> Path:
    """One patient per row; the row's values belong to the observations in alphabetical order."""
    for name, folder in (("train.csv", "train"), ("valid.csv", "valid")):
        paths = [f"{folder}/patient{i:05d}/study1/view1_frontal.jpg" for i in range(len(values))]
        lines = [
            f"CheXpert-v1.0-small/{path},Female,60,Frontal,AP,{own}" for path, own in zip(paths, values, strict=True)
        ]
        root.mkdir(exist_ok=True)
        (root / name).write_text("\n".join([CHEXPERT_HEADER, *lines]) + "\n")
        touch(root, paths)
    return root


@pytest.mark.parametrize(("policy", "value"), [("unknown", np.nan), ("zero", 0.0), ("one", 1.0)])
def test_chexpert_keeps_unknown_and_uncertain_apart(tmp_path: Path, policy: str, value: float) -> None:
    first = dict.fromkeys(sorted(chexpert.OBSERVATIONS), "") | {"Edema": "1.0", "Fracture": "0.0", "Pneumonia": "-1.0"}
    manifest = read("chexpert", make_chexpert(tmp_path, [",".join(first.values())]), uncertain=policy)
    row = manifest.table.iloc[0]
    assert (row["Edema"], row["Fracture"]) == (1, 0)
    assert np.isnan(row["Cardiomegaly"])
    assert row["Pneumonia"] == pytest.approx(value, nan_ok=True)
    assert manifest.tasks["observations"].labels == (
        "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
        "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
        "Support Devices", "No Finding",
    )  # fmt: skip
    assert (row["patient_id"], row["study_id"]) == ("patient00000", "patient00000/study1")


def test_chexpert_refuses_other_codes_and_other_paths(tmp_path: Path) -> None:
    strange = ",".join(["2.0", *[""] * 13])
    with pytest.raises(PacxError, match=r"holds 2\.0 \(1 rows\); the release has 0, 1, -1"):
        read("chexpert", make_chexpert(tmp_path / "a", [strange]))
    root = make_chexpert(tmp_path / "b", [",".join([""] * 14)])
    (root / "train.csv").write_text((root / "train.csv").read_text().replace("patient00000", "someone"))
    with pytest.raises(PacxError, match=r"paths that are not those of the release, such as .*someone"):
        read("chexpert", root)


def test_chexpert_parts_and_other_annotations(miniature) -> None:
    root = miniature("chexpert")
    everything, frontal = read("chexpert", root), read("chexpert", root, part="frontal")
    lateral = read("chexpert", root, part="lateral")
    assert len(everything.table) == len(frontal.table) + len(lateral.table) > len(frontal.table)
    assert not (frontal.table["view"] == "lateral").any()
    other = read("chexpert", root, annotations=root / "train_visualCheXbert.csv")
    train = other.table[other.table["split"] == "train"]
    assert train[list(chexpert.OBSERVATIONS)].notna().all(axis=None)  # in which nothing is unknown
    with pytest.raises(PacxError, match=r"no part 'top'.*frontal \("):
        read("chexpert", root, part="top")


def test_classes_of_folders_have_the_published_numbers(miniature) -> None:
    qu = read("covid-qu-ex", miniature("covid-qu-ex"))
    assert covid_qu_ex.CLASSES == qu.tasks["classes"].classes == ("Normal", "COVID-19", "Non-COVID")
    numbers = qu.table.groupby(qu.table["path"].str.extract(r"/(Normal|COVID-19|Non-COVID)/")[0])["class"].unique()
    assert {name: own.tolist() for name, own in numbers.items()} == {"Normal": [0], "COVID-19": [1], "Non-COVID": [2]}
    assert qu.table["mask_path"].str.contains("/lung masks/").all()
    six = read("chestx6", miniature("chestx6"))
    assert six.tasks["classes"].classes == (
        "Covid-19", "Emphysema", "Normal", "Pneumonia-Bacterial", "Pneumonia-Viral", "Tuberculosis"
    )  # fmt: skip
    names = six.table["path"].str.split("/").str[-2]
    assert [chestx6.CLASSES[int(number)] for number in six.table["class"]] == names.tolist()


def test_augmented_copies_go_with_their_original(miniature, caplog: pytest.LogCaptureFixture) -> None:
    root = miniature("chestx6")
    own, published = read("chestx6", root), read("chestx6", root, split="reference")
    copies = own.table[own.table["path"].str.contains("augmented_")]
    assert len(copies) >= 3
    for _, copy in copies.iterrows():
        family = own.table[own.table["patient_id"] == copy["patient_id"]]
        assert len(family) == 2 and family["split"].nunique() == 1
    crossing = published.table.groupby("patient_id")["split"].nunique()
    assert (crossing > 1).sum() >= 2
    assert "chestx6: " in caplog.text and "augmented copies were moved" in caplog.text


def test_a_class_folder_too_many_is_refused(tmp_path: Path) -> None:
    touch(
        tmp_path, [f"{split}/{name}/a.jpg" for split in ("train", "val", "test") for name in (*chestx6.CLASSES, "Mass")]
    )
    with pytest.raises(PacxError, match=r"has the folders .*Mass.*expected is one for each class"):
        read("chestx6", tmp_path)


def test_covidx_keeps_a_patient_of_all_lists_in_test(miniature) -> None:
    manifest = read("covidx", miniature("covidx"))
    assert set(manifest.table.loc[manifest.table["patient_id"] == "A860070", "split"]) == {"test"}
    assert set(manifest.table["covid"]) == {0, 1}
    told = manifest.table["source"].map({"bimcv": 1.0, "rsna": 0.0})
    assert told.tolist() == manifest.table["covid"].tolist()


def test_tb_is_what_is_not_normal(tmp_path: Path) -> None:
    rows = ["CHNCXR_0001_0.png,Male Sex,45yrs,normal", "CHNCXR_0002_1.png,Female,30,right PTB"]
    rows += [f"CHNCXR_{i:04d}_{i % 2}.png,Female,30,{('Normal ', 'effusion')[i % 2]}" for i in range(3, 9)]
    (tmp_path / "shenzhen_metadata.csv").write_text("\n".join(["study_id,sex,age,findings", *rows]) + "\n")
    touch(tmp_path, [f"images/images/{row.split(',')[0]}" for row in rows])
    manifest = read("tb-shenzhen", tmp_path)
    assert manifest.table["tuberculosis"].tolist() == [0, 1, 1, 0, 1, 0, 1, 0]
    assert manifest.table["sex"].tolist()[:2] == ["M", "F"]
    text = (tmp_path / "shenzhen_metadata.csv").read_text().replace("right PTB", "normal")
    (tmp_path / "shenzhen_metadata.csv").write_text(text)
    with pytest.raises(PacxError, match=r"contradicts the names of 1 files \(CHNCXR_0002_1\.png\)"):
        read("tb-shenzhen", tmp_path)


def test_kermany_takes_patients_apart_by_folder_and_the_cause_from_the_name(tmp_path: Path) -> None:
    files = {
        "train/PNEUMONIA/person1_bacteria_1.jpeg": ("train/person1", 1.0, 0.0),
        "train/PNEUMONIA/person1_virus_2.jpeg": ("train/person1", 1.0, 1.0),
        "train/NORMAL/IM-0001-0001.jpeg": ("train/NORMAL/IM-0001-0001", 0.0, np.nan),
        "val/PNEUMONIA/person1_bacteria_3.jpeg": ("train/person1", 1.0, 0.0),
        "val/NORMAL/NORMAL2-IM-1.jpeg": ("val/NORMAL/NORMAL2-IM-1", 0.0, np.nan),
        "test/PNEUMONIA/person1_virus_4.jpeg": ("test/person1", 1.0, 1.0),
        "test/NORMAL/IM-0001-0002.jpeg": ("test/NORMAL/IM-0001-0002", 0.0, np.nan),
    }
    touch(tmp_path, [*files, "train/NORMAL/.DS_Store"])
    table = read("kermany", tmp_path).table.set_index("path")
    assert set(table.index) == set(files)
    for path, (patient, pneumonia, cause) in files.items():
        assert table.loc[path, "patient_id"] == patient
        assert (table.loc[path, "pneumonia"], table.loc[path, "cause"]) == pytest.approx(
            (pneumonia, cause), nan_ok=True
        )
        assert (table.loc[path, "split"] == "test") == path.startswith("test/")


def make_mimic(root: Path, images: list[tuple[str, str, str, str, str, str]]) -> Path:
    """Rows of dicom, subject, study, view, date, time."""
    (root / "files").mkdir(parents=True)
    lines = [f"{dicom},{subject},{study},{view},{date},{time}" for dicom, subject, study, view, date, time in images]
    header = "dicom_id,subject_id,study_id,ViewPosition,StudyDate,StudyTime"
    with gzip.open(root / "mimic-cxr-2.0.0-metadata.csv.gz", "wt") as file:
        file.write("\n".join([header, *lines]) + "\n")
    touch(root, [f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg" for dicom, subject, study, *_ in images])
    return root


def make_medmod(root: Path) -> Path:
    stays = [
        "subject_id,hadm_id,stay_id,intime,outtime,admittime,dischtime,mortality_inunit,mortality,mortality_inhospital",
        "10000001,20000001,30000002,2150-01-02 00:00:00,2150-01-05 00:00:00,2150-01-01 00:00:00,2150-01-09,0,1,1",
        "10000002,20000002,30000001,2150-01-02 00:00:00,2150-01-05 00:00:00,2150-01-01 00:00:00,2150-01-09,0,0,0",
        "10000003,20000003,30000003,2150-01-02 00:00:00,2150-01-05 00:00:00,2150-01-01 00:00:00,2150-01-09,1,1,1",
    ]
    root.mkdir(parents=True)
    (root / "all_stays.csv").write_text("\n".join(stays) + "\n")
    # Sorted by stay: 30000001 (a death is none), 30000002 (shock), 30000003 (the first phenotype).
    rows = np.zeros((3, 25), dtype=int)
    rows[1, 24] = rows[2, 0] = 1
    pd.DataFrame(rows, columns=list(medmod.PHENOTYPES)).to_csv(root / "phenotype_labels.csv", index=False)
    images = [
        ("a1", "10000001", "50000001", "AP", "21500102", "10000.25"),  # 01:00:00, within the stay
        ("a2", "10000001", "50000002", "AP", "21500104", "120000.0"),  # the latest AP within it
        ("a3", "10000001", "50000003", "PA", "21500104", "130000.0"),  # later, but PA
        ("a4", "10000001", "50000004", "AP", "21500106", "0.0"),  # after the stay, before discharge
        ("a0", "10000001", "50000005", "LATERAL", "21500101", "60000"),  # between admission and stay
        ("b1", "10000002", "50000006", "LATERAL", "21500103", "60000"),
        ("c1", "10000003", "50000007", "AP", "21500103", "60000"),
    ]
    make_mimic(root / "jpg", images)
    return root


def test_medmod_takes_the_latest_ap_image_within_the_stay_and_joins_labels_by_stay(tmp_path: Path) -> None:
    root = make_medmod(tmp_path / "medmod")
    manifest = read("medmod", root, images=root / "jpg")
    table = manifest.table.set_index("image_id")
    assert sorted(table.index) == ["a2", "c1"]  # the second stay has a lateral image only
    assert len(medmod.PHENOTYPES) == 25 and list(medmod.PHENOTYPES) == sorted(medmod.PHENOTYPES)
    found = labels(manifest, "phenotypes")
    assert [medmod.PHENOTYPES[i] for i in np.flatnonzero(found["a2"])] == ["Shock"]
    assert [medmod.PHENOTYPES[i] for i in np.flatnonzero(found["c1"])] == ["Acute and unspecified renal failure"]
    assert labels(manifest, "mortality") == {"a2": [0, 1, 1], "c1": [1, 1, 1]}
    assert table.loc["a2", "path"].endswith("jpg/files/p10/p10000001/s50000002/a2.jpg")
    assert manifest.patients_of == "mimic"


def test_the_published_variant_takes_the_earliest_image_of_any_view(tmp_path: Path) -> None:
    root = make_medmod(tmp_path / "medmod")
    stays = medmod._stays(root)
    chosen = medmod.choose_images(stays, medmod.read_metadata(root / "jpg"), reference=True)
    by_stay = dict(zip(stays.loc[chosen.index, "stay_id"], chosen["dicom_id"], strict=True))
    assert by_stay == {"30000002": "a0", "30000001": "b1", "30000003": "c1"}


@pytest.mark.parametrize("listed", ["subject_id\n10000003\n", "10000001,0\n10000003,1\n", "10000003\n"])
def test_medmod_takes_the_official_test_patients(tmp_path: Path, listed: str) -> None:
    root = make_medmod(tmp_path / "medmod")
    (root / "testset_iv.csv").write_text(listed)
    table = read("medmod", root, images=root / "jpg").table.set_index("image_id")
    assert table.loc["c1", "split"] == "test" and table.loc["a2", "split"] != "test"


def test_medmod_says_what_does_not_fit(tmp_path: Path) -> None:
    root = make_medmod(tmp_path / "medmod")
    with pytest.raises(PacxError, match=r"give the folder of MIMIC-CXR-JPG 2\.1\.0 with --images"):
        read("medmod", root)
    rows = pd.read_csv(root / "phenotype_labels.csv")
    rows.iloc[:2].to_csv(root / "phenotype_labels.csv", index=False)
    with pytest.raises(PacxError, match=r"has 2 rows and no stay_id, .* has 3 stays"):
        read("medmod", root, images=root / "jpg")
    rows.assign(stay_id=[30000001, 30000002, 39999999]).to_csv(root / "phenotype_labels.csv", index=False)
    with pytest.raises(PacxError, match=r"2 stays are in one of .* only \(30000003, 39999999\)"):
        read("medmod", root, images=root / "jpg")


def test_mimic_sets_share_patients_studies_and_images(miniature) -> None:
    jpg, cxl = read("mimic-cxr-jpg", miniature("mimic-cxr-jpg")), read("cxl-seg", miniature("cxl-seg"))
    root = miniature("medmod")
    stays = read("medmod", root, images=root / "mimic-cxr-jpg")
    for other in (cxl, stays):
        both = jpg.table.merge(other.table, on="image_id", suffixes=("_a", "_b"))
        assert len(both) == len(other.table)
        assert both["patient_id_a"].tolist() == both["patient_id_b"].tolist()
        assert both["study_id_a"].tolist() == both["study_id_b"].tolist()


def test_cxl_seg_mends_patients_that_cross_the_official_split(miniature, caplog: pytest.LogCaptureFixture) -> None:
    root = miniature("cxl-seg")
    published = read("cxl-seg", root, split="reference").table
    assert (published.groupby("patient_id")["split"].nunique() > 1).sum() == 1
    own = read("cxl-seg", root).table
    assert own.groupby("patient_id")["split"].nunique().max() == 1
    assert "were moved out of a split that the same patient tests" in caplog.text
    assert (own["split"] == "test").sum() > (published["split"] == "test").sum()
    full = read("cxl-seg", root, images=miniature("mimic-cxr-jpg")).table
    assert full["path"].str.contains("/files/p9").all() and full["path"].str.startswith("/").all()


def test_mimic_cxr_jpg_has_observations_of_the_study_and_official_splits(miniature) -> None:
    root = miniature("mimic-cxr-jpg")
    manifest = read("mimic-cxr-jpg", root)
    told = pd.read_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", dtype={"study_id": str}).set_index("study_id")
    row = manifest.table.iloc[7]
    expected = told.loc[row["study_id"], list(chexpert.OBSERVATIONS)].astype(float).replace(-1.0, np.nan)
    assert row[list(chexpert.OBSERVATIONS)].astype(float).tolist() == pytest.approx(expected.tolist(), nan_ok=True)
    official = pd.read_csv(root / "mimic-cxr-2.0.0-split.csv.gz").set_index("dicom_id")["split"]
    assert official[row["image_id"]].replace("validate", "val") == row["split"]


def test_padchest_takes_named_findings_and_leaves_excluded_rows_unknown(tmp_path: Path) -> None:
    written = ["['cardiomegaly', 'scoliosis']", "['normal']", "['exclude']", "", "['COPD signs ', 'pneumonia']"]
    header = "ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,Labels"
    views = ["PA", "L", "PA", "AP", "AP_horizontal"]
    lines = [f'{i}.png,0,20100203,s{i},{i:03d},1950.0,F,{views[i]},"{own}"' for i, own in enumerate(written)]
    table = tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    table.write_text("\n".join([header, *lines]) + "\n")
    touch(tmp_path, [f"0/{i}.png" for i in range(5)])
    manifest = read("padchest", tmp_path)
    found = labels(manifest, "findings")
    assert list(padchest.FINDINGS) == sorted(padchest.FINDINGS, key=str.lower) and len(padchest.FINDINGS) == 14
    assert [padchest.FINDINGS[i] for i in np.flatnonzero(found["0"])] == ["cardiomegaly"]
    assert found["1"] == [0] * 14
    assert np.isnan(found["2"]).all() and np.isnan(found["3"]).all()
    assert [padchest.FINDINGS[i] for i in np.flatnonzero(found["4"])] == ["COPD signs", "pneumonia"]
    assert manifest.table["age"].tolist() == [60] * 5 and manifest.table["patient_id"].iloc[1] == "001"
    assert read("padchest", tmp_path, part="frontal").table["image_id"].tolist() == ["0", "2", "3", "4"]
    table.write_text(table.read_text().replace("['normal']", "normal"))
    with pytest.raises(PacxError, match=r"'Labels' of .* holds 'normal'; the release has lists"):
        read("padchest", tmp_path)


def test_open_i_takes_headings_and_leaves_reports_without_index_unknown(tmp_path: Path) -> None:
    reports = [
        "uid,MeSH,Problems",
        "1,normal,normal",
        '2,x,"Fractures, Bone;Cardiomegaly;Aorta"',
        "3,No Indexing,No Indexing",
    ]
    (tmp_path / "indiana_reports.csv").write_text("\n".join(reports) + "\n")
    images = [
        "uid,filename,projection",
        "1,1_a.png,Frontal",
        "2,2_a.png,Frontal",
        "2,2_b.png,Lateral",
        "3,3_a.png,Frontal",
    ]
    (tmp_path / "indiana_projections.csv").write_text("\n".join(images) + "\n")
    touch(tmp_path, [f"images/images_normalized/{line.split(',')[1]}" for line in images[1:]])
    manifest = read("open-i", tmp_path)
    found = labels(manifest, "findings")
    assert list(open_i.FINDINGS) == sorted(open_i.FINDINGS)
    assert found["1_a"] == [0] * 10 and np.isnan(found["3_a"]).all()
    assert [open_i.FINDINGS[i] for i in np.flatnonzero(found["2_b"])] == ["Cardiomegaly", "Fractures, Bone"]
    assert manifest.table["patient_id"].tolist() == ["1", "2", "2", "3"]
    assert len(read("open-i", tmp_path, part="frontal").table) == 3
    (tmp_path / "indiana_projections.csv").write_text("\n".join([*images, "9,9_a.png,Frontal"]) + "\n")
    with pytest.raises(PacxError, match=r"1 images of indiana_projections\.csv belong to no report \(9\)"):
        read("open-i", tmp_path)
