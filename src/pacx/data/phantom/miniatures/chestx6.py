"""A simulated cohort in the form of ChestX6: chest-xray/{train,val,test}/CLASS/*.jpg, no table.

Every sixth training image has an augmented copy (mirrored, brighter), some of them in other splits, as in the original;
suffixes are mixed. Class by the simulated state, whichever trait is strongest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pacx.data.manifest import Manifest
from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.miniatures.drawing import picture, save, write_notice
from pacx.errors import PacxError

__all__ = ["CLASSES", "check", "write"]

CLASSES = ("Covid-19", "Emphysema", "Normal", "Pneumonia-Bacterial", "Pneumonia-Viral", "Tuberculosis")
_SUFFIXES = (".jpg", ".jpg", ".jpeg", ".png")
_FEWEST = 10


def check(config: Mapping[str, Any], manifest: Manifest, out: Path) -> None:
    """Refuse a cohort that cannot fill six classes in each split.

    Raises:
        PacxError: a split has fewer images than classes.
    """
    del out
    fewest = int(manifest.table["split"].value_counts().reindex(["train", "val", "test"], fill_value=0).min())
    if fewest < len(CLASSES):
        raise PacxError(
            f"{config['patients']} patients give a split of {fewest} images, fewer than the {len(CLASSES)} classes of "
            "ChestX6. Give more --patients, e.g. 80."
        )


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files into an empty folder."""
    seen, root = simulated.store.manifest, folder / "chest-xray"
    for split in ("train", "val", "test"):
        rows = np.flatnonzero((seen["split"] == split).to_numpy())
        # By rank, so that each class of each split gets some; emphysema goes to the most hyperinflated.
        order = rows[np.argsort(simulated.truth["hyperinflation"].to_numpy()[rows])]
        for place, row in enumerate(order):
            name = CLASSES[place * len(CLASSES) // len(order)]
            file = f"{name}-{row}{_SUFFIXES[row % len(_SUFFIXES)]}"
            pixels = picture(simulated, int(row))
            save(pixels, root / split / name / file)
            if split == "train" and row % 6 == 0:
                copy = np.clip(pixels[:, ::-1].astype(np.int16) + 12, 0, 255).astype(np.uint8)
                target = ("train", "val", "test")[row // 6 % 3]
                save(copy, root / target / name / f"augmented_{name}-{row}_0_{1000 + row}.jpg")
    write_notice(root, title="ChestX6")
