"""QaTa-COV19 v2: chest X-rays of COVID-19 pneumonia with masks of the infected regions.

What: 9,258 PNG files of 224 px, `Train Set` (7,145) and `Test Set` (2,113), each with `Images` and `Ground-truths`; the
mask of NAME is `mask_NAME`. Mask `infection`.

Labels: none but the masks. (The paper lists this set under classification; what its authors' code does with it is
segmentation.)

Split: official test; 10 % of the others validate. Patients are not named, so every image counts as a patient of its own
and a leak cannot be ruled out. `--split reference` draws the 10 % as published, seed 42.

Who may get it: anybody (Kaggle `aysendegerli/qatacov19-dataset`).

Known faults: the archive may unpack under an outer folder QaTa-COV19; masks were made by a network and corrected.

Citation: Degerli et al., OSegNet: Operational Segmentation Network for COVID-19 Detection using Chest X-ray Images,
ICIP 2022.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pacx.data.manifest import Manifest
from pacx.data.sources import Options
from pacx.data.sources.card import Card, Expected
from pacx.data.sources.reading import find_root, images_below
from pacx.data.sources.splitting import with_official_test

__all__ = ["CARD", "OPTIONS", "read"]

OPTIONS = ("seed",)

_FOLDERS = {"Train Set": "train", "Test Set": "test"}
_VAL_SHARE = 0.1

CARD = Card(
    title="QaTa-COV19 v2",
    access="open",
    where="Kaggle aysendegerli/qatacov19-dataset",
    license="as stated on its page",
    citation="Degerli et al., ICIP 2022",
    files=("Train Set/Images", "Train Set/Ground-truths", "Test Set/Images", "Test Set/Ground-truths"),
    expected=Expected(rows=9_258, splits={"test": 2_113}, source="the data set's page"),
    patients_of="qata-cov19",
    use="test: infected regions (segmentation)",
    reference_split="official test; 10 % of the training images val, seed 42",
    holds=("image", "mask"),
    usual_splits={"train": 6_430, "val": 715, "test": 2_113},
)


def read(root: Path, *, options: Options) -> Manifest:
    """List the images of both sets; the mask of each has its name after `mask_`.

    Raises:
        PacxError: the folder is not the data set.
    """
    root = find_root(root, name="qata-cov19", needs=CARD.files)
    rows = [
        (
            f"{split}/{path.stem}",
            path.relative_to(root).as_posix(),
            f"{folder}/Ground-truths/mask_{name}",
            split,
        )
        for folder, split in _FOLDERS.items()
        for name, path in images_below(root / folder / "Images", "*").items()
    ]
    table = pd.DataFrame.from_records(rows, columns=["image_id", "path", "mask_path", "split"])
    table["patient_id"] = table["image_id"]
    table["split"] = with_official_test(table, val=_VAL_SHARE, options=options)
    return Manifest(
        "qata-cov19",
        table,
        about="chest X-rays of COVID-19 pneumonia with masks of the infected regions",
        root=root,
        mask_name="infection",
    )
