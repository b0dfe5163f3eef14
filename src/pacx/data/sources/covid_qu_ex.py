"""COVID-QU-Ex: chest X-rays in three classes, with lung masks.

What: 33,920 PNG files of 256 px: COVID-19, non-COVID infections, and normal, each with a mask of the lungs, in the
part "Lung Segmentation Data" of the archive. The part with infection masks is not used.

Labels: task `classes`: 0 Normal, 1 COVID-19, 2 Non-COVID, the order of the published implementation. Mask `lung`.

Split: official (21,715 / 5,417 / 6,788 images). Patients are not named, so every image counts as a patient of its own
and a leak cannot be ruled out.

Who may get it: anybody (Kaggle `anasmohammedtahir/covidqu`, version 7).

Known faults: gathered from many sources; masks were made by a network and then corrected; file names hold spaces and
brackets.

Citation: Tahir et al., COVID-19 infection localization and severity grading from chest X-ray images, Computers in
Biology and Medicine 2021.
"""

from __future__ import annotations

from pathlib import Path

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card, Expected
from pacx.data.sources.reading import find_root
from pacx.data.sources.trees import class_folders

__all__ = ["CARD", "CLASSES", "OPTIONS", "read"]

OPTIONS: tuple[str, ...] = ()

CLASSES = ("Normal", "COVID-19", "Non-COVID")
_FOLDERS = {"Train": "train", "Val": "val", "Test": "test"}
_ROOT = "Lung Segmentation Data/Lung Segmentation Data"

CARD = Card(
    title="COVID-QU-Ex",
    access="open",
    where="Kaggle anasmohammedtahir/covidqu, version 7",
    license="CC BY-SA 4.0",
    citation="Tahir et al., Computers in Biology and Medicine 2021",
    files=("Lung Segmentation Data|Train",),
    expected=Expected(
        rows=33_920,
        splits={"train": 21_715, "val": 5_417, "test": 6_788},
        positives={"class=0": 10_701, "class=1": 11_956, "class=2": 11_263},
        source="the release's folders",
    ),
    patients_of="covid-qu-ex",
    use="test: three classes (probe), lungs (segmentation)",
    holds=("image", "mask"),
)


def read(root: Path, *, options: Options) -> Manifest:
    """List the folders of images; the mask of each has its name.

    Raises:
        PacxError: the folder is not the data set.
    """
    del options
    root = find_root(root, name="covid-qu-ex", needs=CARD.files)
    inner = root / _ROOT
    if not inner.is_dir():
        inner = find_root(root, name="covid-qu-ex", needs=tuple(_FOLDERS))
    table = class_folders(inner, splits=_FOLDERS, classes=CLASSES, below="images")
    table["mask_path"] = table["path"].str.replace("/images/", "/lung masks/", regex=False)
    table["patient_id"] = table["image_id"]
    return Manifest(
        "covid-qu-ex",
        table,
        tasks={"classes": Task("classes", ("class",), "multiclass", "finding", "folder of the image", CLASSES)},
        about="chest X-rays in three classes, with lung masks",
        root=inner,
        mask_name="lung",
    )
