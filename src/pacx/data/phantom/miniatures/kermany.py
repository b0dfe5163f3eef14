"""A simulated cohort in the form of Kermany's pneumonia set: chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg.

A hidden .DS_Store lies among the images, as in the archive.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest
from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.miniatures.drawing import picture, save, write_notice
from pacx.errors import PacxError

__all__ = ["check", "write"]


def check(config: Mapping[str, Any], manifest: Manifest, out: Path) -> None:
    """Refuse a cohort that cannot fill both classes of each split.

    Raises:
        PacxError: a split has fewer than two images.
    """
    del out
    fewest = int(manifest.table["split"].value_counts().reindex(["train", "val", "test"], fill_value=0).min())
    if fewest < 2:
        raise PacxError(f"{config['patients']} patients leave a split without both classes. Give more --patients.")


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files into an empty folder."""
    seen, root = simulated.store.manifest, folder / "chest_xray"
    person = pd.factorize(seen["patient_id"])[0] + 1
    for split in ("train", "val", "test"):
        rows = np.flatnonzero((seen["split"] == split).to_numpy())
        infection = simulated.truth["infection"].to_numpy()[rows]
        for row in rows:
            if simulated.truth["infection"].iloc[row] > np.median(infection):
                cause = ("bacteria", "virus")[row % 2]
                name = f"PNEUMONIA/person{person[row]}_{cause}_{row}.jpeg"
            else:
                name = f"NORMAL/IM-{row:04d}-0001.jpeg"
            save(picture(simulated, int(row)), root / split / name)
    (root / "train" / "NORMAL" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    write_notice(root, title="Kermany's pneumonia set")
