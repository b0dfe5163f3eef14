"""A simulated cohort in the form of CXL-Seg 1.0.0: CXLSeg-split.csv and files/ with JPEG masks.

`DICOM.jpg` shows the lungs cut out on black, as the original seems to. One patient is in two parts of the split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.miniatures.drawing import mask, picture, save, write_notice
from pacx.data.phantom.miniatures.mimic import images_of, where

__all__ = ["write"]


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files of the release into an empty folder."""
    images = images_of(simulated)
    for row, path in enumerate(where(images)):
        lungs = mask(simulated, row, "lung")
        target = folder / "files" / path
        save(np.where(lungs > 0, picture(simulated, row), np.uint8(0)), target, quality=95)
        save(lungs, target.with_name(f"{target.stem}-mask.jpg"), quality=75)
    table = images[["dicom_id", "subject_id", "study_id", "split"]].assign(split=_crossed(images))
    table.to_csv(folder / "CXLSeg-split.csv", index=False)
    write_notice(folder, title="CXL-Seg 1.0.0")


def _crossed(images: pd.DataFrame) -> pd.Series:
    """Let the second image of one training patient test."""
    again = images.index[images["subject_id"].duplicated() & (images["split"] == "train")]
    split = images["split"].copy()
    split.loc[again[:1]] = "test"
    return split
