"""MIMIC-CXR-JPG 2.1.0: X-rays of the Beth Israel Deaconess Medical Center, with findings read off the reports.

What: 377,110 JPEG files of 65,379 patients, frontal and lateral, `files/p10/p10000032/s50414267/DICOM.jpg`, with tables
of metadata (projection, date), of the official split, and of findings (`mimic-cxr-2.0.0-{metadata,split,chexpert}.csv`,
also .gz).

Labels: task `observations`, CheXpert's 14 in the order of `chexpert`: 1 stated, 0 denied, empty not mentioned; -1
(uncertain) counts as unknown, or as `--uncertain` says.

Split: official (train, validate, test), by patient.

Who may get it: credentialed users of PhysioNet who signed the MIMIC data use agreement (doi 10.13026/jsn5-t979).

Known faults: half a terabyte in full size; one study has several images, with one set of labels; Symile-MIMIC, MedMod
and CXL-Seg are made of the same patients (namespace `mimic`), so audit before testing on them.

Citation: Johnson et al., MIMIC-CXR-JPG, a large publicly available database of labeled chest radiographs, 2019.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card, Expected
from pacx.data.sources.chexpert import OBSERVATIONS
from pacx.data.sources.reading import check_part, find_root, one_of, read_table, unique_rows
from pacx.data.sources.values import check_values, settle_uncertain

__all__ = ["CARD", "OPTIONS", "image_path", "read", "read_metadata"]

OPTIONS = ("part", "uncertain")

_PARTS = {"frontal": "AP and PA views only"}
_SPLITS = {"train": "train", "validate": "val", "test": "test"}
_TABLE = "mimic-cxr-2.0.0-{}.csv*"

CARD = Card(
    title="MIMIC-CXR-JPG 2.1.0",
    access="credentialed",
    where="PhysioNet, doi:10.13026/jsn5-t979",
    license="PhysioNet Credentialed Health Data License 1.5.0",
    citation="Johnson et al., MIMIC-CXR-JPG, 2019",
    files=("files", _TABLE.format("metadata"), _TABLE.format("split"), _TABLE.format("chexpert")),
    expected=Expected(rows=377_110, source="PhysioNet's page of the data set"),
    patients_of="mimic",
    use="the images of MedMod and CXL-Seg; further pre-training",
)


def read(root: Path, *, options: Options) -> Manifest:
    """Read the three tables.

    Raises:
        PacxError: the folder is not the release, or a table holds what it cannot hold.
    """
    check_part("mimic-cxr-jpg", options.part, _PARTS)
    root = find_root(root, name="mimic-cxr-jpg", needs=CARD.files)
    meta = read_metadata(root)
    keys = ["dicom_id", "subject_id", "study_id"]
    split_file = one_of(root, _TABLE.format("split"), what="The table of the split")
    split = read_table(split_file, columns=[*keys, "split"], text=keys)
    check_values(split_file, split["split"], tuple(_SPLITS))
    findings_file = one_of(root, _TABLE.format("chexpert"), what="The table of findings")
    findings = read_table(findings_file, columns=["subject_id", "study_id", *OBSERVATIONS], text=keys[1:])
    findings = unique_rows(findings_file, findings, ["study_id"])
    findings[list(OBSERVATIONS)] = settle_uncertain(findings_file, findings, OBSERVATIONS, policy=options.uncertain)
    table = meta.merge(split[["dicom_id", "split"]], on="dicom_id", how="inner", validate="one_to_one")
    table = table.merge(findings.drop(columns="subject_id"), on="study_id", how="left", validate="many_to_one")
    if options.part == "frontal":
        table = table[table["view"].isin(["AP", "PA"])].reset_index(drop=True)
    shown = pd.DataFrame(
        {
            "image_id": table["dicom_id"],
            "path": "files/" + image_path(table),
            "patient_id": table["subject_id"],
            "study_id": table["study_id"],
            "view": table["view"],
            "split": table["split"].map(_SPLITS),
        }
    )
    return Manifest(
        "mimic-cxr-jpg",
        pd.concat([shown, table[list(OBSERVATIONS)]], axis=1),
        tasks={"observations": Task("observations", OBSERVATIONS, "multilabel", "finding", _ABOUT)},
        about="frontal and lateral chest X-rays",
        root=root,
    )


_ABOUT = "read off the reports by a program: 1 stated, 0 denied, unknown not mentioned"


def read_metadata(root: Path) -> pd.DataFrame:
    """Read the table of images: dicom_id, subject_id, study_id (text), view, taken (when, as a date).

    Raises:
        PacxError: it is missing or lacks a column.
    """
    path = one_of(root, _TABLE.format("metadata"), what="The table of metadata")
    text = ("dicom_id", "subject_id", "study_id", "StudyDate", "StudyTime")
    meta = read_table(path, columns=[*text, "ViewPosition"], text=text)
    meta = unique_rows(path, meta, ["dicom_id"])
    clock = meta["StudyTime"].str.partition(".")[0].str.zfill(6)  # HHMMSS.fraction, without its leading zeros
    taken = pd.to_datetime(meta["StudyDate"] + clock, format="%Y%m%d%H%M%S", errors="coerce")
    return meta[["dicom_id", "subject_id", "study_id"]].assign(view=meta["ViewPosition"], taken=taken)


def image_path(table: pd.DataFrame) -> pd.Series:
    """Return where MIMIC-CXR keeps an image: p10/p10000032/s50414267/DICOM.jpg."""
    patient, study = table["subject_id"].astype(str), table["study_id"].astype(str)
    return "p" + patient.str[:2] + "/p" + patient + "/s" + study + "/" + table["dicom_id"].astype(str) + ".jpg"
