"""PadChest: X-rays of San Juan Hospital, Alicante, 2009 to 2017, with findings read off the Spanish reports.

What: more than 160,000 16-bit PNG files of 67,000 patients in numbered folders, and one table,
`PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv` (also .gz).

Labels: task `findings`, 14 of the 174 radiographic findings, frequent ones, in alphabetical order; a row names those
that it has. A row without labels, and one that the readers excluded or called suboptimal, is unknown. 27 % of the
reports were labelled by physicians, the others by a network trained on these.

Split: none is published; drawn by patient (hash, 70 / 10 / 20 %).

Who may get it: registered users of the Medical Imaging Databank of the Valencia Region (BIMCV), for research.

Known faults: a few files are broken and end in rejects.csv; some X-rays are of other parts of the body or of children
(`--part frontal` takes PA and AP views only). The paper does not use this set; its layout here is that of public
descriptions and was not checked on the files.

Citation: Bustos et al., PadChest: A large chest x-ray image dataset with multi-label annotated reports, Medical Image
Analysis 2020.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card
from pacx.data.sources.reading import check_part, find_root, one_of, places_of, read_table, unique_rows
from pacx.data.splits import split_patients
from pacx.errors import PacxError

__all__ = ["CARD", "FINDINGS", "OPTIONS", "read"]

OPTIONS = ("part", "seed")

FINDINGS = (
    "alveolar pattern", "aortic elongation", "atelectasis", "cardiomegaly", "COPD signs", "emphysema",
    "heart insufficiency", "infiltrates", "interstitial pattern", "nodule", "pacemaker", "pleural effusion",
    "pneumonia", "pneumothorax",
)  # fmt: skip
_UNREADABLE = frozenset({"exclude", "suboptimal study"})
_PARTS = {"frontal": "PA and AP views only"}
_FRONTAL = ("PA", "AP", "AP_horizontal")
_TABLE = "PADCHEST_chest_x_ray_images_labels_160K*.csv*"

CARD = Card(
    title="PadChest",
    access="registration",
    where="BIMCV, bimcv.cipf.es, after registration",
    license="BIMCV-PadChest Dataset Research Use Agreement",
    citation="Bustos et al., PadChest, Medical Image Analysis 2020",
    files=(_TABLE,),
    patients_of="padchest",
    use="not used; further pre-training or test",
)


def read(root: Path, *, options: Options) -> Manifest:
    """Read the table.

    Raises:
        PacxError: the folder is not the release, or its table holds what it cannot hold.
    """
    check_part("padchest", options.part, _PARTS)
    root = find_root(root, name="padchest", needs=CARD.files)
    path = one_of(root, _TABLE, what="The table of images")
    text = ("ImageID", "StudyID", "PatientID", "StudyDate_DICOM")
    columns = (*text, "PatientBirth", "PatientSex_DICOM", "Projection", "Labels")
    source = unique_rows(path, read_table(path, columns=columns, text=text), ["ImageID"])
    if options.part == "frontal":
        source = source[source["Projection"].isin(_FRONTAL)].reset_index(drop=True)
    taken = pd.to_numeric(source["StudyDate_DICOM"].str[:4], errors="coerce")
    table = pd.DataFrame(
        {
            "image_id": source["ImageID"].str.removesuffix(".png"),
            "path": places_of(root, source["ImageID"].tolist()),
            "patient_id": source["PatientID"],
            "study_id": source["StudyID"],
            "view": source["Projection"],
            "age": taken - pd.to_numeric(source["PatientBirth"], errors="coerce"),
            "sex": source["PatientSex_DICOM"].where(source["PatientSex_DICOM"].isin(["F", "M"])),
        }
    )
    table[list(FINDINGS)] = [_labels(path, one) for one in source["Labels"]]
    table["split"] = split_patients(table, seed=options.seed)
    return Manifest(
        "padchest",
        table,
        tasks={"findings": Task("findings", FINDINGS, "multilabel", "finding", "read off the reports")},
        about="chest X-rays with findings read off the reports",
        root=root,
    )


def _labels(path: Path, written: object) -> list[float]:
    """Turn "['cardiomegaly', 'nodule']" into 0 and 1, or NaN where nothing can be said.

    Raises:
        PacxError: it is no list of words.
    """
    unknown = [np.nan] * len(FINDINGS)
    if not isinstance(written, str):
        return unknown
    try:
        found = ast.literal_eval(written)
    except (ValueError, SyntaxError) as error:
        raise PacxError(
            f"The column 'Labels' of {path} holds {written[:60]!r}; the release has lists such as \"['cardiomegaly']\" "
            "there. Give the table as it was published."
        ) from error
    words = {str(one).strip() for one in found}
    if not words or words & _UNREADABLE:
        return unknown
    return [float(finding in words) for finding in FINDINGS]
