"""NIH ChestX-ray14: frontal X-rays with 14 findings that were read off the radiologists' reports by a program.

What: 112,120 PNG files (1024 px, a few RGBA) of 30,805 patients of the NIH Clinical Center, with age, sex, projection
and one column of findings.

Labels: the 14 findings, in the order of the published implementation. `No Finding` is all zeros, not a label. Nothing
is unknown: what the program did not find is 0. It is thought to be right in about nine of ten.

Split: the official test list (25,596 images), patients apart from the others. Of the other 86,524 images 15 % of the
patients validate. `--split reference` takes 15 % of these images, so patients both train and validate.

Who may get it: anybody (NIH Clinical Center, or Kaggle `nih-chest-xrays/data`).

Known faults: labels are noisy, above all for pneumonia and infiltration; the header of the table ends in a comma; ages
may read 058Y or 011M, or be impossible (414), which counts as unknown; the archive comes as images_001 to images_012.

Citation: Wang et al., ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks, CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card, Expected
from pacx.data.sources.reading import find_root, one_of, places_of, read_table, unique_rows
from pacx.data.sources.splitting import with_official_test
from pacx.data.sources.values import parse_age
from pacx.errors import PacxError

__all__ = ["CARD", "FINDINGS", "OPTIONS", "read"]

OPTIONS = ("seed",)

FINDINGS = (
    "Hernia", "Pneumothorax", "Nodule", "Edema", "Effusion", "Pleural_Thickening", "Cardiomegaly", "Mass", "Fibrosis",
    "Consolidation", "Pneumonia", "Infiltration", "Emphysema", "Atelectasis",
)  # fmt: skip
_POSITIVES = (227, 5302, 6331, 2303, 13317, 3385, 2776, 5782, 1686, 4667, 1431, 19894, 2516, 11559)
_NONE = "No Finding"
_VAL_SHARE = 0.15

CARD = Card(
    title="NIH ChestX-ray14",
    access="open",
    where="NIH Clinical Center, or Kaggle nih-chest-xrays/data",
    license="no restriction (NIH asks to be acknowledged)",
    citation="Wang et al., ChestX-ray8, CVPR 2017",
    files=("Data_Entry_2017*.csv", "train_val_list.txt", "test_list.txt"),
    expected=Expected(
        rows=112_120,
        splits={"test": 25_596},
        positives=dict(zip(FINDINGS, _POSITIVES, strict=True)),
        source="the release's own tables",
    ),
    patients_of="nih",
    use="test: 14 findings (probe, label efficiency)",
    reference_split="official test; 15 % of the other images val, by image, seed 42",
    usual_splits={"train": 73_545, "val": 12_979, "test": 25_596},
)


def read(root: Path, *, options: Options) -> Manifest:
    """Read Data_Entry_2017.csv and the two lists.

    Raises:
        PacxError: the folder is not the release, its tables contradict each other or hold an unknown finding.
    """
    root = find_root(root, name="nih", needs=CARD.files)
    path = one_of(root, "Data_Entry_2017*.csv", what="The table of findings")
    columns = ["Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position"]
    source = unique_rows(path, read_table(path, columns=columns, text=("Patient ID",)), ["Image Index"])
    name = source["Image Index"]
    table = pd.DataFrame(
        {
            "image_id": name.str.removesuffix(".png"),
            "path": places_of(root, name.tolist()),
            "patient_id": source["Patient ID"],
            "view": source["View Position"],
            "age": parse_age(source["Patient Age"]),
            "sex": source["Patient Gender"],
        }
    )
    table[list(FINDINGS)] = _labels(path, source["Finding Labels"])
    table["split"] = _split(root, table, name, options)
    return Manifest(
        "nih",
        table,
        tasks={"findings": Task("findings", FINDINGS, "multilabel", "finding", "read off the reports by a program")},
        about="frontal chest X-rays with 14 findings",
        root=root,
    )


def _labels(path: Path, findings: pd.Series) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Turn "Mass|Nodule" into 0 and 1, (rows, 14)."""
    found = [set(text.split("|")) for text in findings.astype(str)]
    unknown = sorted(set().union(*found) - {*FINDINGS, _NONE})
    if unknown:
        raise PacxError(
            f"{path} names the findings {', '.join(unknown[:5])}, which the release does not have. It has "
            f"{', '.join(FINDINGS)} and {_NONE}. Give the table as it was published."
        )
    return np.array([[float(one in own) for one in FINDINGS] for own in found])


def _split(root: Path, table: pd.DataFrame, name: pd.Series, options: Options) -> pd.Series:
    """Test as listed; of the others, draw who validates."""
    lists = {stem: _names(root / f"{stem}_list.txt") for stem in ("train_val", "test")}
    test, rest = name.isin(lists["test"]), name.isin(lists["train_val"])
    if (test == rest).any():
        strange = name[test == rest].tolist()
        raise PacxError(
            f"{len(strange)} images ({', '.join(strange[:3])}) are in none of train_val_list.txt and test_list.txt, or "
            "in both. Download the lists of this release."
        )
    official = pd.Series("test", index=table.index).where(test, "train")
    return with_official_test(table.assign(split=official), val=_VAL_SHARE, options=options)


def _names(path: Path) -> Sequence[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
