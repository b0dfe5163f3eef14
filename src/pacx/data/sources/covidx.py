"""COVIDx CXR-4: chest X-rays with and without COVID-19, gathered from eight sources.

What: 84,818 images in `train`, `val` and `test`, with `train.txt`, `val.txt` and `test.txt`: patient, file, class and
source, separated by spaces.

Labels: task `covid`, positive or negative.

Split: the published lists, except that a patient who is in several of them stays in the most protected one (test before
val before train); how many images that moves is logged. `--split reference` pools the lists and splits by image.

Who may get it: anybody (Kaggle `andyczhao/covidx-cxr2`, version 9).

Known faults: positives are mostly from BIMCV, negatives from RSNA, so a network may tell the source and not the
disease; 77 % are positive; patient A860070 is in all three lists.

Citation: Wu et al., COVIDx CXR-4, 2023; Wang et al., COVID-Net, Scientific Reports 2020.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card, Expected
from pacx.data.sources.reading import find_root, read_table, unique_rows
from pacx.data.sources.splitting import keep_patients_together, reference_split
from pacx.data.sources.values import check_values

__all__ = ["CARD", "OPTIONS", "read"]

OPTIONS: tuple[str, ...] = ()
_COLUMNS = ("patient", "file", "class", "source")

CARD = Card(
    title="COVIDx CXR-4",
    access="open",
    where="Kaggle andyczhao/covidx-cxr2, version 9",
    license="as of the sets that it is made of",
    citation="Wu et al., COVIDx CXR-4, 2023",
    files=("train.txt", "val.txt", "test.txt", "train", "val", "test"),
    expected=Expected(rows=84_818, source="the lists of version 9"),
    patients_of="covidx",
    use="test in the code of the authors: COVID-19 (not among the nine of the paper)",
    reference_split="all images pooled, by image, stratified, seed 42: 20 % test, then 10 % of the rest val",
    usual_splits={"train": 61_068, "val": 6_786, "test": 16_964},
)


def read(root: Path, *, options: Options) -> Manifest:
    """Read the three lists.

    Raises:
        PacxError: the folder is not the release, or a list holds what it cannot hold.
    """
    root = find_root(root, name="covidx", needs=CARD.files)
    parts = [_read(root / f"{split}.txt", split) for split in ("train", "val", "test")]
    table = pd.concat(parts, ignore_index=True)
    if options.split == "reference":
        table["split"] = reference_split(table, test=0.2, val=0.1, stratify=table["covid"])
    else:
        table["split"] = keep_patients_together(table, name="covidx")
    return Manifest(
        "covidx",
        table,
        tasks={"covid": Task("covid", ("covid",), "binary", "finding", "as in the published lists")},
        about="chest X-rays with and without COVID-19",
        root=root,
    )


def _read(path: Path, split: str) -> pd.DataFrame:
    text = ("patient", "file")
    source = read_table(path, columns=_COLUMNS, text=text, separator=" ", names=list(_COLUMNS))
    source = unique_rows(path, source, ["file"])
    check_values(path, source["class"], ("positive", "negative"))
    return pd.DataFrame(
        {
            "image_id": split + "/" + source["file"].str.rpartition(".")[0],
            "path": split + "/" + source["file"],
            "patient_id": source["patient"],
            "source": source["source"],
            "covid": source["class"].map({"positive": 1.0, "negative": 0.0}).astype(np.float64),
            "split": split,
        }
    )
