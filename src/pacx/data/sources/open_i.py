"""Open-i: chest X-rays of Indiana University's hospitals, with the headings that their reports were indexed by.

What: some 7,470 PNG files, frontal and lateral, of 3,955 reports, in the form in which Kaggle has them: two tables,
`indiana_reports.csv` and `indiana_projections.csv`, and the images below `images`.

Labels: task `findings`, 10 of the headings in the column `Problems`, in alphabetical order; `normal` has none of them.
A report that was not indexed, or whose images were unsatisfactory, is unknown.

Split: none is published; drawn by patient (hash, 70 / 10 / 20 %). Each report is of another patient, so the report's
number (uid) is the patient.

Who may get it: anybody (National Library of Medicine; Kaggle `raddar/chest-xrays-indiana-university`).

Known faults: small, and positives are few; headings may stand for what the report only suspects. The paper does not use
this set; its layout here is that of public descriptions and was not checked on the files.

Citation: Demner-Fushman et al., Preparing a collection of radiology examinations for distribution and retrieval,
Journal of the American Medical Informatics Association 2016.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card
from pacx.data.sources.reading import check_part, find_root, places_of, read_table, unique_rows
from pacx.data.sources.values import check_values
from pacx.data.splits import split_patients
from pacx.errors import PacxError

__all__ = ["CARD", "FINDINGS", "OPTIONS", "read"]

OPTIONS = ("part", "seed")

FINDINGS = (
    "Cardiomegaly", "Consolidation", "Emphysema", "Fractures, Bone", "Nodule", "Pleural Effusion", "Pneumonia",
    "Pneumothorax", "Pulmonary Atelectasis", "Pulmonary Edema",
)  # fmt: skip
_UNREADABLE = ("No Indexing", "Technical Quality of Image Unsatisfactory")
_PARTS = {"frontal": "frontal views only"}

CARD = Card(
    title="Open-i, Indiana University",
    access="open",
    where="National Library of Medicine; Kaggle raddar/chest-xrays-indiana-university",
    license="CC BY-NC-ND 4.0",
    citation="Demner-Fushman et al., JAMIA 2016",
    files=("indiana_reports.csv", "indiana_projections.csv", "images|images_normalized"),
    patients_of="open-i",
    use="not used; further pre-training or test",
)


def read(root: Path, *, options: Options) -> Manifest:
    """Read the two tables.

    Raises:
        PacxError: the folder is not the data set, or an image belongs to no report.
    """
    check_part("open-i", options.part, _PARTS)
    root = find_root(root, name="open-i", needs=CARD.files)
    reports_file, images_file = root / "indiana_reports.csv", root / "indiana_projections.csv"
    reports = unique_rows(reports_file, read_table(reports_file, columns=["uid", "Problems"], text=("uid",)), ["uid"])
    images = read_table(images_file, columns=["uid", "filename", "projection"], text=("uid",))
    images = unique_rows(images_file, images, ["filename"])
    check_values(images_file, images["projection"], ("Frontal", "Lateral"))
    strangers = sorted(set(images["uid"]) - set(reports["uid"]))
    if strangers:
        raise PacxError(
            f"{len(strangers)} images of {images_file.name} belong to no report ({', '.join(strangers[:3])}). "
            "Give both tables of one release."
        )
    if options.part == "frontal":
        images = images[images["projection"] == "Frontal"].reset_index(drop=True)
    problems = images["uid"].map(reports.set_index("uid")["Problems"])
    table = pd.DataFrame(
        {
            "image_id": images["filename"].str.removesuffix(".png"),
            "path": places_of(root, images["filename"].tolist()),
            "patient_id": images["uid"],
            "study_id": images["uid"],
            "view": images["projection"].str.lower(),
        }
    )
    table[list(FINDINGS)] = [_labels(one) for one in problems]
    table["split"] = split_patients(table, seed=options.seed)
    return Manifest(
        "open-i",
        table,
        tasks={"findings": Task("findings", FINDINGS, "multilabel", "finding", "headings of the report")},
        about="frontal and lateral chest X-rays with the headings of their reports",
        root=root,
    )


def _labels(problems: object) -> list[float]:
    """Turn "Cardiomegaly;Nodule" into 0 and 1, or NaN where nothing can be said."""
    words = {word.strip() for word in problems.split(";")} if isinstance(problems, str) else set()
    if not words or words & set(_UNREADABLE):
        return [np.nan] * len(FINDINGS)
    return [float(finding in words) for finding in FINDINGS]
