"""CheXchoNet 1.0.0: chest X-rays of patients whose heart was measured by echocardiography within a year.

What: 71,589 X-rays of 24,689 patients of one New York hospital, 2013 to 2018, as JPEG files, with one table,
`metadata.csv`: age, sex, when the X-ray was taken, pixel spacing, three measurements of the left ventricle, and labels
derived from them.

Labels: `composite_slvh_dlv`, the task of the paper, is 1 where the ventricle is severely hypertrophied (`slvh`) or
dilated (`dlv`), as shipped: the thresholds are not published with the data, so nothing is derived here. The task `echo`
has both parts, and heart transplant, lung transplant, and pacemaker or defibrillator.

Split: none is published. The own one is by patient (hash of the id, stratified by the composite, 72 / 8 / 20 %, the
shares of the published split); `--split reference` is the published one, by image: patients are in several parts, so
scores on it are too good.

Who may get it: registered users of PhysioNet who signed its data use agreement (restricted access, doi
10.13026/kp08-ws25).

Known faults: images of one patient repeat at short intervals, so an image-level split leaks more than usual. Files may
lie in `images/` or, as `cxr_path` says, in `cxrs/`.

Citation: Elias & Bhave, CheXchoNet: A Chest Radiograph Dataset with Gold Standard Echocardiography Labels, PhysioNet
2024; Bhave et al., European Heart Journal 2024.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card, Expected
from pacx.data.sources.reading import find_root, one_of, read_table, unique_rows
from pacx.data.sources.splitting import reference_split
from pacx.data.sources.values import check_values
from pacx.data.splits import split_patients

__all__ = ["CARD", "ECHO", "OPTIONS", "read"]

OPTIONS = ("seed",)

COMPOSITE = "composite_slvh_dlv"
_SHARES = (0.72, 0.08, 0.2)
ECHO = ("slvh", "dlv", "heart_transplant", "lung_transplant", "pacemaker_or_icd")

CARD = Card(
    title="CheXchoNet 1.0.0",
    access="restricted",
    where="PhysioNet, after signing its agreement; doi:10.13026/kp08-ws25",
    license="PhysioNet Restricted Health Data License 1.5.0",
    citation="Elias & Bhave, CheXchoNet 1.0.0, PhysioNet 2024; Bhave et al., European Heart Journal 2024",
    files=("metadata.csv", "images|cxrs"),
    expected=Expected(rows=71_589, source="PhysioNet's page of the data set"),
    patients_of="chexchonet",
    use="test: composite of hypertrophy and dilation (probe, label efficiency, attention)",
    reference_split="by image, stratified by the composite, seed 42: 20 % test, then 10 % of the rest val",
    usual_splits={"train": 51_543, "val": 5_728, "test": 14_318},
)


def read(root: Path, *, options: Options) -> Manifest:
    """Read metadata.csv.

    Raises:
        PacxError: the folder is not the release, or its table holds what it cannot hold.
    """
    root = find_root(root, name="chexchonet", needs=CARD.files)
    path = root / "metadata.csv"
    columns = ["patient_id", "cxr_filename", "age", "sex", COMPOSITE, *ECHO]
    source = read_table(path, columns=columns, text=("patient_id", "cxr_filename"))
    source = unique_rows(path, source, ["cxr_filename"])
    for column in (COMPOSITE, *ECHO):
        check_values(path, source[column], (0, 1))
    folder = one_of(root, "images", "cxrs", what="The folder of images").name
    table = pd.DataFrame(
        {
            "image_id": source["cxr_filename"].str.rpartition(".")[0],
            "path": folder + "/" + source["cxr_filename"],
            "patient_id": source["patient_id"],
            "age": source["age"].astype(np.float64),
            "sex": source["sex"],
        }
    )
    for column in (COMPOSITE, *ECHO):
        table[column] = source[column].astype(np.float64)
    if options.split == "reference":
        table["split"] = reference_split(table, test=0.2, val=0.1, stratify=source[COMPOSITE])
    else:
        table["split"] = split_patients(table, fractions=_SHARES, seed=options.seed, stratify=COMPOSITE)
    return Manifest(
        "chexchonet",
        table,
        tasks={
            "composite": Task("composite", (COMPOSITE,), "binary", "physiology", "severe hypertrophy or dilation"),
            "echo": Task("echo", ECHO, "multilabel", "physiology", "findings of the echocardiogram and the history"),
        },
        about="chest X-rays within a year of an echocardiogram",
        root=root,
    )
