"""CheXpert 1.0: 224,316 X-rays of Stanford Hospital, frontal and lateral, with 14 observations read off the reports.

What: 223,414 training images (191,027 frontal, 32,387 lateral) and 234 official validation images of 65,240 patients,
as JPEG; in full size (439 GB) or small (11 GB, about 390 x 320 px), which is enough here. Pre-training uses all of
them without labels.

Labels: task `observations`, 14 of them. 1 = stated, 0 = denied, empty = not mentioned, -1 = uncertain: unknown by
default, or what `--uncertain` says. `--annotations` takes another table of the same images, such as
train_visualCheXbert.csv, in which nothing is uncertain or empty.

Split: official validation images are val; there is no test split (the official test images are not part of this
release).

Who may get it: registered users of Stanford AIMI, for research.

Known faults: laterals are pre-trained on too, as published (`--part frontal` leaves them out); one patient's sex is
Unknown; ages run from 0 to 110. Paths in the tables start with CheXpert-v1.0/ or CheXpert-v1.0-small/, whichever was
downloaded.

Citation: Irvin et al., CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison,
AAAI 2019; visualCheXbert: Jain et al., CHIL 2021.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card, Expected
from pacx.data.sources.reading import check_part, find_root, read_table, unique_rows
from pacx.data.sources.values import settle_uncertain
from pacx.errors import PacxError

__all__ = ["CARD", "OBSERVATIONS", "OPTIONS", "read"]

OPTIONS = ("part", "uncertain", "annotations")

OBSERVATIONS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding",
)  # fmt: skip
_PARTS = {"frontal": "without lateral views", "lateral": "lateral views only"}
_OFFICIAL = "the release, as described by its authors"

CARD = Card(
    title="CheXpert 1.0",
    access="registration",
    where="Stanford AIMI, after registration; Kaggle ashery/chexpert has the small version",
    license="Stanford University Dataset Research Use Agreement",
    citation="Irvin et al., CheXpert, AAAI 2019",
    files=("train.csv", "valid.csv", "train", "valid"),
    expected=Expected(rows=223_648, splits={"train": 223_414, "val": 234}, source=_OFFICIAL),
    expected_of_part={
        "frontal": Expected(rows=191_229, splits={"train": 191_027, "val": 202}, source=_OFFICIAL),
        "lateral": Expected(rows=32_419, splits={"train": 32_387, "val": 32}, source=_OFFICIAL),
    },
    patients_of="chexpert",
    use="pre-training by masked autoencoding",
)


def read(root: Path, *, options: Options) -> Manifest:
    """Read train.csv (or `--annotations`) and valid.csv.

    Raises:
        PacxError: the folder is not the release, or a table holds what it cannot hold.
    """
    check_part("chexpert", options.part, _PARTS)
    root = find_root(root, name="chexpert", needs=CARD.files)
    tables = {"train": options.annotations or root / "train.csv", "val": root / "valid.csv"}
    table = pd.concat([_read(path, split, options) for split, path in tables.items()], ignore_index=True)
    if options.part is not None:
        table = table[table["view"].eq("lateral") == (options.part == "lateral")].reset_index(drop=True)
    return Manifest(
        "chexpert",
        table,
        tasks={"observations": Task("observations", OBSERVATIONS, "multilabel", "finding", _ABOUT)},
        about="frontal and lateral chest X-rays",
        root=root,
    )


_ABOUT = "read off the reports by a program: 1 stated, 0 denied, unknown not mentioned"


def _read(path: Path, split: str, options: Options) -> pd.DataFrame:
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS]
    source = unique_rows(path, read_table(path, columns=columns), ["Path"])
    inside = source["Path"].str.extract(r"((?:train|valid)/(patient\d+)/(study\d+)/.+)$")
    if inside[0].isna().any():
        strange = source["Path"][inside[0].isna()].iloc[0]
        raise PacxError(
            f"{path} has paths that are not those of the release, such as {strange!r}; "
            "they look like CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg."
        )
    lateral = source["Frontal/Lateral"].eq("Lateral")
    table = pd.DataFrame(
        {
            "image_id": inside[0].str.rpartition(".")[0],
            "path": inside[0],
            "patient_id": inside[1],
            "study_id": inside[1] + "/" + inside[2],
            "view": source["AP/PA"].where(~lateral, "lateral"),
            "age": source["Age"].astype(np.float64),
            "sex": source["Sex"].map({"Female": "F", "Male": "M"}),
            "split": split,
        }
    )
    table[list(OBSERVATIONS)] = settle_uncertain(path, source, OBSERVATIONS, policy=options.uncertain)
    return table
