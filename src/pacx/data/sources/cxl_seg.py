"""CXL-Seg 1.0.0: masks of the lungs for frontal X-rays of MIMIC-CXR.

What: 243,324 frontal images, `files/pXX/pSUBJECT/sSTUDY/DICOM.jpg` with `DICOM-mask.jpg` beside each, and
`CXLSeg-split.csv` (dicom_id, subject_id, study_id, split).

Labels: none but the masks. Mask `lung`; masks are JPEG files, so what is brighter than half of their maximum counts.

Split: official (194,660 / 24,332 / 24,332). A patient who is in several parts stays in the most protected one (test
before val before train); how many images that moves is logged. `--split reference` takes the split as it is.

Who may get it: credentialed users of PhysioNet (doi 10.13026/9cy4-f535).

Known faults: masks were made by a network. `DICOM.jpg` seems to show the lungs already cut out on black, so that a
threshold solves the task (an encoder of natural images reaches an IoU of .984): `--images` takes the full pictures from
MIMIC-CXR-JPG, whose masks must then fit. The patients are those of MIMIC (namespace `mimic`).

Citation: Indeewara et al., Chest X-ray Dataset with Lung Segmentation 1.0.0, PhysioNet 2023.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pacx.data.manifest import Manifest
from pacx.data.sources import Options
from pacx.data.sources.card import Card, Expected
from pacx.data.sources.mimic_cxr_jpg import image_path
from pacx.data.sources.reading import find_root, read_table, unique_rows
from pacx.data.sources.splitting import keep_patients_together
from pacx.data.sources.values import check_values
from pacx.errors import PacxError

__all__ = ["CARD", "OPTIONS", "read"]

OPTIONS = ("images",)

_SPLITS = {"train": "train", "validate": "val", "test": "test"}

CARD = Card(
    title="CXL-Seg 1.0.0",
    access="credentialed",
    where="PhysioNet, doi:10.13026/9cy4-f535",
    license="PhysioNet Credentialed Health Data License 1.5.0",
    citation="Indeewara et al., Chest X-ray Dataset with Lung Segmentation 1.0.0, PhysioNet 2023",
    files=("CXLSeg-split.csv", "files"),
    expected=Expected(rows=243_324, source="PhysioNet's page of the data set"),
    patients_of="mimic",
    use="test: lungs (segmentation)",
    reference_split="the official split as it is, whoever is in several parts",
    holds=("image", "mask"),
    usual_splits={"train": 194_660, "val": 24_332, "test": 24_332},
)


def read(root: Path, *, options: Options) -> Manifest:
    """Read CXLSeg-split.csv.

    Raises:
        PacxError: the folder is not the release, its table holds what it cannot hold, or `--images` is no folder.
    """
    root = find_root(root, name="cxl-seg", needs=CARD.files)
    path = root / "CXLSeg-split.csv"
    keys = ["dicom_id", "subject_id", "study_id"]
    source = unique_rows(path, read_table(path, columns=[*keys, "split"], text=keys), ["dicom_id"])
    check_values(path, source["split"], tuple(_SPLITS))
    for key, letter in (("subject_id", "p"), ("study_id", "s")):
        source[key] = source[key].str.removeprefix(letter)
    relative = image_path(source)
    table = pd.DataFrame(
        {
            "image_id": source["dicom_id"],
            "path": [_picture(options.images, one) for one in relative],
            "mask_path": "files/" + relative.str.removesuffix(".jpg") + "-mask.jpg",
            "patient_id": source["subject_id"],
            "study_id": source["study_id"],
            "split": source["split"].map(_SPLITS),
        }
    )
    if options.split == "own":
        table["split"] = keep_patients_together(table, name="cxl-seg")
    return Manifest(
        "cxl-seg",
        table,
        about="frontal chest X-rays of MIMIC-CXR with lung masks",
        root=root,
        mask_name="lung",
    )


def _picture(images: Path | None, relative: str) -> str:
    """Return the path of a picture: the release's own, or MIMIC-CXR-JPG's."""
    if images is None:
        return f"files/{relative}"
    folder = Path(images).resolve()
    folder = folder / "files" if (folder / "files").is_dir() else folder
    if not folder.is_dir():
        raise PacxError(f"--images {images} is not a folder. Give the folder of MIMIC-CXR-JPG, which holds `files`.")
    return (folder / relative).as_posix()
