"""Kermany: chest X-rays of children with and without pneumonia, Guangzhou Women and Children's Medical Center.

What: 5,856 JPEG files in folders `train`, `val` (16 images) and `test`, each with NORMAL and PNEUMONIA.

Labels: task `pneumonia`, the folder; task `cause` for pneumonia alone: 0 bacterial, 1 viral, from the file's name,
unknown for normal images.

Split: `val` of the release is too small to choose anything on, so the own split keeps `test` and draws 10 % of the
patients of `train` and `val` anew. Patients: `person12_bacteria_34.jpeg` is person 12 of its folder; normal images name
nobody and count as a patient each. `--split reference` pools everything and splits it by image.

Who may get it: anybody (Mendeley Data, CC BY 4.0; Kaggle `paultimothymooney/chest-xray-pneumonia`).

Known faults: children of one to five years; person numbers may repeat between train and test for different children, so
they are taken apart by folder; hidden files such as .DS_Store lie among the images and are passed over.

Citation: Kermany et al., Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep Learning, Cell 2018.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card, Expected
from pacx.data.sources.reading import find_root
from pacx.data.sources.splitting import reference_split, with_official_test
from pacx.data.sources.trees import class_folders

__all__ = ["CARD", "OPTIONS", "read"]

OPTIONS = ("seed",)

CARD = Card(
    title="Kermany pneumonia",
    access="open",
    where="Mendeley Data, doi:10.17632/rscbjbr9sj; Kaggle paultimothymooney/chest-xray-pneumonia",
    license="CC BY 4.0",
    citation="Kermany et al., Cell 2018",
    files=("train/NORMAL", "train/PNEUMONIA", "test/NORMAL", "test/PNEUMONIA", "val"),
    expected=Expected(rows=5_856, source="the release's folders"),
    patients_of="kermany",
    use="test in the code of the authors: pneumonia (not among the nine of the paper)",
    reference_split="all images pooled, by image, stratified, seed 42: 20 % test, then 10 % of the rest val",
    usual_splits={"train": 4_215, "val": 469, "test": 1_172},
)


def read(root: Path, *, options: Options) -> Manifest:
    """List the folders.

    Raises:
        PacxError: the folder is not the release.
    """
    root = find_root(root, name="kermany", needs=CARD.files)
    splits = {"train": "train", "val": "train", "test": "test"}
    table = class_folders(root, splits=splits, classes=("NORMAL", "PNEUMONIA")).rename(columns={"class": "pneumonia"})
    name = table["path"].str.rpartition("/")[2]
    person = name.str.extract(r"^(person\d+)_")[0]
    folder = table["path"].str.partition("/")[0].replace({"val": "train"})
    table["patient_id"] = (folder + "/" + person).where(person.notna(), table["image_id"])
    cause = name.str.extract(r"_(bacteria|virus)_")[0]
    table["cause"] = cause.map({"bacteria": 0.0, "virus": 1.0}).astype(np.float64)
    if options.split == "reference":
        table["split"] = reference_split(table, test=0.2, val=0.1, stratify=table["pneumonia"])
    else:
        table["split"] = with_official_test(table, val=0.1, options=options, stratify="pneumonia")
    return Manifest(
        "kermany",
        pd.DataFrame(table),
        tasks={
            "pneumonia": Task("pneumonia", ("pneumonia",), "binary", "finding", "folder of the image"),
            "cause": Task("cause", ("cause",), "binary", "finding", "viral (1) or bacterial (0) pneumonia"),
        },
        about="chest X-rays of children with and without pneumonia",
        root=root,
    )
