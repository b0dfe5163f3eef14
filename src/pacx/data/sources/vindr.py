"""VinDr-CXR 1.0.0: X-rays of two hospitals in Hanoi, read by radiologists.

What: 18,000 frontal X-rays: 15,000 to train on, each read by three radiologists of 17, and 3,000 to test on, read by
five in consensus. On PhysioNet as DICOM with their tables (`annotations/image_labels_train.csv`, `..._test.csv`); on
Kaggle as PNG of 512 px without, so give the tables with `--annotations`. Either tree is recognised.

Labels: task `findings`, 19 of 28 readings. Of a training image a label is 1 if at least half of its readers gave it,
that is two of three; `No finding` is left out; readings with fewer than 50 positives among the 15,000 are dropped.
Which 19 remain, and their order (by number of positives, ascending), is that of the published implementation.

Split: official test; 10 % of the training images validate. Patient ids are not published, so every image counts as a
patient of its own and a leak cannot be ruled out. `--split reference` draws the 10 % as published, seed 42.

Who may get it: credentialed users of PhysioNet (doi 10.13026/3akn-b287).

Known faults: train labels are a majority of three, test labels a consensus of five; the label set was chosen on all
15,000 images, those that validate among them; the test table spells `Other disease`, the train table `Other diseases`;
some DICOM files are JPEG 2000 (install pacx[dicom]) or MONOCHROME1. That the PNG files' ids are PhysioNet's is assumed.

Citation: Nguyen et al., VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations, Scientific Data
2022.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card, Expected
from pacx.data.sources.reading import check_columns, find_root, one_of, read_table, unique_rows
from pacx.data.sources.splitting import with_official_test
from pacx.data.sources.values import check_values
from pacx.errors import PacxError

__all__ = ["CARD", "DROPPED", "FINDINGS", "OPTIONS", "majority", "read"]

OPTIONS = ("seed", "annotations")

FINDINGS = (
    "Pneumothorax", "Atelectasis", "Mediastinal shift", "Consolidation", "Lung tumor", "ILD", "Calcification",
    "Infiltration", "Other lesion", "Nodule/Mass", "Pneumonia", "Tuberculosis", "Lung Opacity", "Pleural effusion",
    "Pleural thickening", "Pulmonary fibrosis", "Cardiomegaly", "Aortic enlargement", "Other diseases",
)  # fmt: skip
_TRAIN_POSITIVES = (58, 62, 85, 121, 134, 152, 177, 245, 362, 409, 471, 482, 547, 634, 882, 1017, 1817, 2346, 4003)
DROPPED = (
    "Edema", "Clavicle fracture", "Lung cyst", "COPD", "Emphysema", "Lung cavity", "Enlarged PA", "Rib fracture",
    "No finding",
)  # fmt: skip
_RESPELLED = {"Other disease": "Other diseases"}
_READERS = 3
_VAL_SHARE = 0.1

CARD = Card(
    title="VinDr-CXR 1.0.0",
    access="credentialed",
    where="PhysioNet, doi:10.13026/3akn-b287; PNG files: Kaggle awsaf49/vinbigdata-512-image-dataset",
    license="PhysioNet Credentialed Health Data License 1.5.0",
    citation="Nguyen et al., Scientific Data 2022",
    files=("train", "test"),
    expected=Expected(rows=18_000, splits={"test": 3_000}, source="PhysioNet's page of the data set"),
    patients_of="vindr",
    use="test: 19 findings (probe, label efficiency)",
    reference_split="official test; 10 % of the training images val, by image, seed 42",
    usual_splits={"train": 13_500, "val": 1_500, "test": 3_000},
)


def read(root: Path, *, options: Options) -> Manifest:
    """Read the two tables of image labels.

    Raises:
        PacxError: the folder is not the data set, a table is missing, or it holds what it cannot hold.
    """
    root = find_root(root, name="vindr", needs=CARD.files)
    tables = _tables(root, options.annotations)
    train = majority(tables["train"], _read(tables["train"], ["image_id", "rad_id", *FINDINGS]))
    test = _read(tables["test"], ["image_id", *FINDINGS])
    test = unique_rows(tables["test"], test, ["image_id"]).set_index("image_id")[list(FINDINGS)]
    suffix = _suffix(root)
    labels = pd.concat([train, test.astype(np.float64)])
    folder = np.repeat(["train", "test"], [len(train), len(test)])
    name = labels.index.to_series().astype(str)
    table = pd.DataFrame(
        {
            "image_id": name.to_numpy(),
            "path": [f"{where}/{one}{suffix}" for where, one in zip(folder, name, strict=True)],
            "patient_id": name.to_numpy(),
            "split": folder,
            **{finding: labels[finding].to_numpy() for finding in FINDINGS},
        }
    )
    table["split"] = with_official_test(table, val=_VAL_SHARE, options=options)
    return Manifest(
        "vindr",
        table,
        tasks={"findings": Task("findings", FINDINGS, "multilabel", "finding", "at least two of three readers")},
        about="frontal chest X-rays read by radiologists",
        root=root,
    )


def majority(path: Path, readings: pd.DataFrame) -> pd.DataFrame:
    """Return what at least half of an image's readers gave, float64, indexed by image in the order of the table.

    Raises:
        PacxError: an image has not three readers, or one of them twice.
    """
    twice = readings.duplicated(["image_id", "rad_id"])
    number = readings.groupby("image_id", sort=False)["rad_id"].nunique()
    wrong = number[number != _READERS].index.tolist()
    if twice.any() or wrong:
        raise PacxError(
            f"{path}: every image has {_READERS} readers, each once; {len(wrong)} images have another number "
            f"({', '.join(map(str, wrong[:3]))}) and {int(twice.sum())} rows repeat a reader. "
            "Give the table as it was published."
        )
    share = readings.groupby("image_id", sort=False)[list(FINDINGS)].mean()
    return (share >= 0.5).astype(np.float64)


def _tables(root: Path, annotations: Path | None) -> dict[str, Path]:
    names = {split: f"image_labels_{split}.csv" for split in ("train", "test")}
    where = annotations or (root / "annotations" if (root / "annotations").is_dir() else root)
    if not Path(where).is_dir():
        raise PacxError(f"{where} is not a folder. Give --annotations the folder of {' and '.join(names.values())}.")
    hint = "The table of image labels (PhysioNet's; give its folder with --annotations)"
    return {split: one_of(Path(where), name, what=hint) for split, name in names.items()}


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    table = read_table(path, columns=["image_id"], text=("image_id", "rad_id")).rename(columns=_RESPELLED)
    check_columns(path, table, columns)
    for finding in FINDINGS:
        check_values(path, table[finding], (0, 1))
    return table[columns]


def _suffix(root: Path) -> str:
    """Tell DICOM files from PNG files."""
    first = one_of(root / "train", "*.dicom", "*.dcm", "*.png", "*.jpg", what="Images of the folder train")
    return first.suffix
