"""A simulated cohort in the form of COVID-QU-Ex: folders of classes with images and lung masks.

    Lung Segmentation Data/Lung Segmentation Data/{Train,Val,Test}/{COVID-19,Non-COVID,Normal}/{images,lung masks}/*.png

File names hold spaces and brackets. Class by how infected the patient is, in thirds of each split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pacx.data.manifest import Manifest
from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.miniatures.drawing import mask, picture, save, write_notice
from pacx.errors import PacxError

__all__ = ["check", "write"]

_CLASSES = ("Normal", "Non-COVID", "COVID-19")
_SPLITS = {"train": "Train", "val": "Val", "test": "Test"}


def check(config: Mapping[str, Any], manifest: Manifest, out: Path) -> None:
    """Refuse a cohort that cannot fill three classes in each split.

    Raises:
        PacxError: a split has fewer images than classes.
    """
    del out
    fewest = int(manifest.table["split"].value_counts().reindex(list(_SPLITS), fill_value=0).min())
    if fewest < len(_CLASSES):
        raise PacxError(
            f"{config['patients']} patients give a split of {fewest} images, fewer than the {len(_CLASSES)} classes of "
            "COVID-QU-Ex. Give more --patients, e.g. 40."
        )


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files into an empty folder."""
    seen, root = simulated.store.manifest, folder / "Lung Segmentation Data" / "Lung Segmentation Data"
    for split, name in _SPLITS.items():
        rows = np.flatnonzero((seen["split"] == split).to_numpy())
        order = rows[np.argsort(simulated.truth["infection"].to_numpy()[rows])]
        for place, row in enumerate(order):
            kind = _CLASSES[place * len(_CLASSES) // len(order)]
            file = f"{kind.lower()} ({row}).png"
            save(picture(simulated, int(row)), root / name / kind / "images" / file)
            save(mask(simulated, int(row), "lung"), root / name / kind / "lung masks" / file)
    write_notice(folder, title="COVID-QU-Ex")
