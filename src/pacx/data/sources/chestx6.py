"""ChestX6: a collection of X-rays in six classes, gathered from other public data sets.

What: 18,036 images in folders `train`, `val` and `test`, each with a folder per class, without any table.

Labels: task `classes`, one of Covid-19, Emphysema, Normal, Pneumonia-Bacterial, Pneumonia-Viral, Tuberculosis: the name
of the folder.

Split: the collection's own folders, as published. They leak: some files are augmented copies (`augmented_NAME_0_...`)
of images in other folders. In the own split here such copies count as one patient with their original, and a group that
crosses the folders stays where its most protected part is: test before val before train. Patients are unknown
otherwise; every other image counts as a patient of its own. `--split reference` takes the folders as they are.

Who may get it: anybody (Kaggle `mohamedasak/chest-x-ray-6-classes-dataset`).

Known faults: classes come from different hospitals, so a network may tell the hospital and not the disease; `.jpg`,
`.jpeg` and `.png` are mixed; some files are equal byte for byte under different names (`pacx data audit` finds them).

Citation: Asak, Chest X-ray 6 classes dataset, Kaggle; and the sets that it is made of.
"""

from __future__ import annotations

import re
from pathlib import Path

from pacx.data.manifest import Manifest, Task
from pacx.data.sources import Options
from pacx.data.sources.card import Card, Expected
from pacx.data.sources.reading import find_root
from pacx.data.sources.splitting import keep_patients_together
from pacx.data.sources.trees import class_folders

__all__ = ["CARD", "CLASSES", "OPTIONS", "read"]

OPTIONS: tuple[str, ...] = ()

CLASSES = ("Covid-19", "Emphysema", "Normal", "Pneumonia-Bacterial", "Pneumonia-Viral", "Tuberculosis")
_COUNTS = {
    "train": (2417, 2050, 2671, 2400, 2413, 2600),
    "val": (300, 250, 300, 300, 300, 298),
    "test": (300, 250, 300, 300, 300, 287),
}
_COPY = re.compile(r"^(?:augmented_)+(?P<original>.+?)(?:_\d+)+(?:_.*)?$", flags=re.IGNORECASE)

CARD = Card(
    title="ChestX6",
    access="open",
    where="Kaggle mohamedasak/chest-x-ray-6-classes-dataset",
    license="as of the sets that it is made of",
    citation="Asak, Chest X-ray 6 classes dataset, Kaggle",
    files=("train", "val", "test"),
    expected=Expected(
        rows=18_036,
        positives={f"class={i}": sum(own[i] for own in _COUNTS.values()) for i in range(len(CLASSES))},
        source="the folders of version 1",
    ),
    use="test: six classes (probe)",
    reference_split="the collection's folders as they are, augmented copies and all",
    usual_splits={"train": 14_551, "val": 1_748, "test": 1_737},
)


def read(root: Path, *, options: Options) -> Manifest:
    """List the folders of classes.

    Raises:
        PacxError: the folder is not the collection, or has a class that it does not have.
    """
    root = find_root(root, name="chestx6", needs=CARD.files)
    table = class_folders(root, splits={"train": "train", "val": "val", "test": "test"}, classes=CLASSES)
    table["patient_id"] = [_original(Path(path).name) for path in table["path"]]
    if options.split == "own":
        table["split"] = keep_patients_together(table, name="chestx6", what="augmented copies")
    return Manifest(
        "chestx6",
        table,
        tasks={"classes": Task("classes", ("class",), "multiclass", "finding", "folder of the image", CLASSES)},
        about="chest X-rays in six classes, from several data sets",
        patients_of="chestx6",
        root=root,
    )


def _original(name: str) -> str:
    """Return what an image is a copy of: itself, unless its name says otherwise."""
    stem = name.rpartition(".")[0]
    found = _COPY.match(stem)
    return (found["original"] if found else stem).lower()
