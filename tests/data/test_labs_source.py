"""The source `labs`, and labs beside images in the source `table`."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pacx import cli
from pacx.data.labs.panel import PANEL
from pacx.data.manifest import Manifest, validate
from pacx.data.prepare import prepare
from pacx.data.sources import Options, read_source
from pacx.data.store import Store
from pacx.errors import PacxError

SAMPLE = Path(__file__).parents[2].parent / "shared" / "data" / "labs"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the open sample bundle is not beside the repository")
ADMISSION = "2180-01-10 12:00:00"


def labevents(path: Path, num: int = 12) -> Path:
    """A table with MIMIC-IV's columns: sodium 130, 131, ... at admission, another one too early, glucose in mmol/L."""
    rows = []
    for stay in range(num):
        rows += [
            (stay // 2, stay, 50983, "2180-01-01 00:00:00", "100", 100, "mEq/L"),
            (stay // 2, stay, 50983, "2180-01-10 13:00:00", "x", 130 + stay, "mEq/L"),
            (stay // 2, stay, 50931, "2180-01-10 14:00:00", "<5", "", "mmol/L"),
        ]
    columns = ["subject_id", "hadm_id", "itemid", "charttime", "value", "valuenum", "valueuom"]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def admissions(path: Path, num: int = 12) -> Path:
    table = pd.DataFrame({"hadm_id": range(num), "subject_id": [stay // 2 for stay in range(num)]})
    table.assign(admittime=ADMISSION, died=[stay % 2 for stay in range(num)]).to_csv(path, index=False)
    return path


def read_labs(path: Path, **options: object) -> Manifest:
    manifest = read_source("labs", path, options=Options(**options))
    validate(manifest)
    return manifest


def test_every_subject_of_a_table_becomes_a_row(tmp_path: Path) -> None:
    manifest = read_labs(labevents(tmp_path / "labevents.csv"))
    assert manifest.table["image_id"].tolist() == [str(subject) for subject in range(6)]
    assert (manifest.table["patient_id"] == manifest.table["image_id"]).all()
    assert set(manifest.table["split"]) == {"train", "val", "test"}
    assert list(manifest.labs.columns) == [lab.name for lab in PANEL]
    assert manifest.lab_units["Glucose"] == "mg/dL"
    assert manifest.labs["Sodium"].tolist() == [100] * 6
    assert manifest.name == "labevents"


def test_a_table_of_subjects_brings_patients_labels_and_the_time_to_count_from(tmp_path: Path) -> None:
    manifest = read_labs(
        labevents(tmp_path / "labevents.csv"), subject_table=admissions(tmp_path / "admissions.csv", 11),
        lab_subject_column="hadm_id", lab_key="hadm_id", patient_column="subject_id",
        lab_reference_column="admittime", lab_window=(-24.0, 24.0), label_columns=("died",),
    )  # fmt: skip
    assert manifest.table["image_id"].tolist() == [str(stay) for stay in range(11)]
    assert manifest.table["patient_id"].tolist() == [str(stay // 2) for stay in range(11)]
    assert manifest.tasks["died"].kind == "binary"
    assert manifest.labs["Sodium"].tolist() == [130 + stay for stay in range(11)]
    np.testing.assert_allclose(manifest.labs["Glucose"], 5 * 18.0156)
    assert manifest.lab_report["dropped"] == {"outside window": 11}
    assert manifest.lab_report["without_subject"] == 3
    assert manifest.lab_report["labs"]["Glucose"]["detection_limits"] == {"<": 11}


def test_stays_of_a_patient_get_values_from_before_the_stay_and_no_strangers(tmp_path: Path) -> None:
    """In the emergency department a value belongs to no admission yet; elsewhere it may belong to nobody known."""
    (tmp_path / "labs.csv").write_text(
        "subject_id,hadm_id,itemid,charttime,valuenum,valueuom\n"
        "007,,50983,2180-01-10 10:00:00,140,mEq/L\n"
        "007,20,50983,2180-01-10 13:00:00,138,mEq/L\n"
        "7,30,50983,2180-01-10 13:00:00,120,mEq/L\n"
        ",,50983,2180-01-10 13:00:00,111,mEq/L\n",
        encoding="utf-8",
    )
    (tmp_path / "stays.csv").write_text(
        f"subject_id,hadm_id,admittime\n007,20,{ADMISSION}\n007,21,2180-03-01 12:00:00\n7,30,{ADMISSION}\n"
        f",40,{ADMISSION}\n",
        encoding="utf-8",
    )
    manifest = read_source(
        "labs", tmp_path / "labs.csv",
        options=Options(
            subject_table=tmp_path / "stays.csv", lab_key="subject_id", lab_row_column="hadm_id",
            patient_column="subject_id", lab_reference_column="admittime", lab_window=(-24, 24),
        ),
    )  # fmt: skip
    assert manifest.table["image_id"].tolist() == ["20", "30"]
    assert manifest.table["patient_id"].tolist() == ["007", "7"]
    assert manifest.labs["Sodium"].tolist() == [140, 120]


def test_subjects_without_a_value_are_left_out(tmp_path: Path) -> None:
    manifest = read_labs(
        labevents(tmp_path / "labevents.csv", 4), subject_table=admissions(tmp_path / "admissions.csv", 6),
        lab_subject_column="hadm_id", lab_key="hadm_id", patient_column="subject_id",
    )  # fmt: skip
    assert manifest.table["image_id"].tolist() == ["0", "1", "2", "3"]
    assert manifest.labs.index.tolist() == ["0", "1", "2", "3"]


def test_a_panel_of_ones_own_decides_labs_units_and_order(tmp_path: Path) -> None:
    (tmp_path / "panel.yaml").write_text("- {name: Glucose, unit: mmol/L}\n- Sodium\n")
    manifest = read_labs(labevents(tmp_path / "labevents.csv"), lab_panel=str(tmp_path / "panel.yaml"))
    assert list(manifest.labs.columns) == ["Glucose", "Sodium"]
    assert manifest.labs["Glucose"].tolist() == [5] * 6
    everything = read_labs(labevents(tmp_path / "labevents.csv"), lab_panel="all")
    assert list(everything.labs.columns) == ["50931", "50983"]


def test_images_get_the_labs_of_their_own_window(tmp_path: Path) -> None:
    labevents(tmp_path / "labevents.csv")
    images = pd.DataFrame(
        {"path": ["a.png", "b.png", "c.png"], "patient_id": ["p", "p", "q"], "hadm": [3.0, 3.0, np.nan]}
    )
    images["taken"] = ["2180-01-10 20:00:00", "2180-01-01 10:00:00", ADMISSION]
    images.to_csv(tmp_path / "images.csv", index=False)
    options = Options(
        lab_table=tmp_path / "labevents.csv", lab_key="hadm", lab_subject_column="hadm_id",
        lab_reference_column="taken", lab_window=(-24.0, 0.0), split_column=None,
    )  # fmt: skip
    manifest = read_source("table", tmp_path / "images.csv", options=options)
    np.testing.assert_array_equal(manifest.labs["Sodium"], [133, 100, np.nan])
    assert manifest.labs.index.tolist() == ["a.png", "b.png", "c.png"]
    assert manifest.lab_report["used"] == 3


def test_the_account_lies_in_the_store(tmp_path: Path) -> None:
    prepare(
        "labs", labevents(tmp_path / "labevents.csv"), subject_table=admissions(tmp_path / "admissions.csv"),
        lab_subject_column="hadm_id", lab_key="hadm_id", patient_column="subject_id", out=tmp_path / "store",
    )  # fmt: skip
    store = Store.open(tmp_path / "store")
    assert store.labs["Sodium"].notna().all() and len(store) == 12
    assert store.lab_units["Sodium"] == "mEq/L"
    report = json.loads((tmp_path / "store" / "labs_report.json").read_text())
    assert report["used"] == 24
    assert report["labs"]["Glucose"]["converted_from"] == {"mmol/L": 12}


def wide(tmp_path: Path, **columns: object) -> Path:
    table = pd.DataFrame({"path": [f"{n}.png" for n in range(12)], "patient_id": range(12)}).assign(**columns)
    table.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def test_columns_of_panel_names_are_held_against_its_limits_when_a_store_is_made(tmp_path: Path) -> None:
    path = wide(tmp_path, subject=range(12), Sodium=[1400, *[140] * 11], crp=[1e6] * 12)
    (tmp_path / "images").mkdir()
    from PIL import Image

    for number in range(12):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20), dtype=np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    prepare("table", path, lab_columns=["Sodium", "crp"], size=16, workers=1, out=tmp_path / "store")
    store = Store.open(tmp_path / "store")
    assert store.labs["Sodium"].isna().tolist() == [True] + [False] * 11
    assert store.labs["crp"].notna().all()  # no lab of the panel, so no limits
    report = json.loads((tmp_path / "store" / "labs_report.json").read_text())
    assert report["implausible"] == {"Sodium": 1}


def test_percentiles_come_in_with_their_masks(tmp_path: Path) -> None:
    path = wide(tmp_path, Sodium_percentile=np.linspace(0, 1, 12), Sodium_observed=[0] + [1] * 11)
    manifest = read_labs(path, lab_percentiles=True)
    assert manifest.lab_units == {"Sodium": "percentile"}
    assert len(manifest.table) == 11  # the first has nothing observed
    assert manifest.labs["Sodium"].max() == 1
    options = Options(lab_percentiles=True, lab_columns=("Sodium_percentile",))
    beside = read_source("table", path, options=options)
    assert beside.labs["Sodium"].isna().tolist() == [True] + [False] * 11


@needs_sample
def test_real_stays_of_one_patient_stay_together(tmp_path: Path) -> None:
    manifest = read_labs(
        SAMPLE / "eicu_demo_lab_long.csv.gz", subject_table=SAMPLE / "eicu_demo_patient.csv", lab_window=(0.0, 24.0),
        lab_key="patientunitstayid", patient_column="uniquepid", sex_column="gender",
    )  # fmt: skip
    assert (len(manifest.table), manifest.table["patient_id"].nunique()) == (160, 98)
    assert int(manifest.labs.notna().sum().sum()) == manifest.lab_report["used"] == 3694


BAD_LONG = "subject,item,value,unit,time\na,Sodium,140,mEq/L,1\n"


@pytest.mark.parametrize(
    ("text", "flags", "says"),
    [
        ("subject,item,value\na,Sodium,140\n", [], "has no column of units"),
        ("subject,glucose,Hematocrit\na,100,40\n", [], "do not say their units"),
        ("subject,crea (mg/dL),2160-0 (mg/dL)\na,1,1\n", [], "are the same lab"),
        (BAD_LONG.replace("140", "1400"), [], "None of the 1 values"),
        (BAD_LONG, ["--lab-window", "24", "0"], "is empty"),
        (BAD_LONG, ["--lab-reference-column", "t"], "Give that table with --subject_table"),
        (BAD_LONG, ["--lab-units", "glucose"], "Write item=unit"),
        (BAD_LONG, ["--lab-panel", "absent.yaml"], "cannot be read as a panel"),
        (BAD_LONG, ["--lab-columns", "Sodium"], "--lab_percentiles only"),
        ("patient_id,Sodium\na,45\n", ["--lab-percentiles"], "lie outside [0, 1], e.g. 45"),
        ("patient_id,Sodium,Sodium_observed\na,0.5,3\n", ["--lab-percentiles"], "mask of lab 'Sodium' holds 3"),
        ("patient_id,x\na,0.5\n", ["--lab-percentiles"], "no column of percentiles"),
    ],
)
def test_what_cannot_be_read_is_one_paragraph_and_exit_code_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    flags: list[str],
    says: str,
) -> None:
    monkeypatch.setattr(logging.getLogger("pacx"), "handlers", [])  # the screen's would keep this test's stream
    (tmp_path / "t.csv").write_text(text)
    assert cli.main(["prepare", "labs", str(tmp_path / "t.csv"), "--out", str(tmp_path / "store"), *flags]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert says in message
    assert message.count("error:") == 1 and "Traceback" not in message
    assert not (tmp_path / "store" / "meta.json").exists()


def test_lab_options_without_a_lab_table_are_refused(tmp_path: Path) -> None:
    path = wide(tmp_path, Sodium=140)
    with pytest.raises(PacxError, match="--lab_window say how to read a --lab_table"):
        read_source("table", path, options=Options(lab_window=(0.0, 24.0)))
    with pytest.raises(PacxError, match="not both"):
        read_source("table", path, options=Options(lab_columns=("Sodium",), lab_table=path))
    with pytest.raises(PacxError, match=r"Add e\.g\. --lab_window"):
        read_source("table", path, options=Options(lab_table=path, lab_reference_column="path"))


def test_how_to_read_ecgs_goes_into_the_manifest(tmp_path: Path) -> None:
    options = Options(ecg_leads=("I", "II"), ecg_rate=250.0, ecg_unit="mV")
    manifest = read_source("table", wide(tmp_path), options=options)
    assert manifest.ecg_reading == {"leads": ("I", "II"), "rate": 250.0, "unit": "mV"}
    assert read_source("table", wide(tmp_path), options=Options()).ecg_reading == {}
    with pytest.raises(PacxError, match=r"--ecg-rate: a sampling rate of 0\.5 Hz is impossible.* not kHz"):
        read_source("table", wide(tmp_path), options=replace(options, ecg_rate=0.5))
