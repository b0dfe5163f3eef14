"""A simulated cohort in the form of TB (Shenzhen): shenzhen_metadata.csv, images/images/CHNCXR_0001_0.png.

One image per patient: later visits are left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.miniatures.drawing import overt, picture, save, write_notice

__all__ = ["write"]


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files of the release into an empty folder."""
    seen = simulated.store.manifest
    ill = overt(simulated, {"ill": (lambda t: t["infection"], 0.3)})["ill"]
    rows = []
    for number, row in enumerate(np.flatnonzero(~seen["patient_id"].duplicated().to_numpy()), start=1):
        name = f"CHNCXR_{number:04d}_{ill[row]}.png"
        save(picture(simulated, int(row)), folder / "images" / "images" / name)
        sex = {"F": "Female", "M": "Male"}[seen["sex"].iloc[row]]
        finding = ("right PTB", "bilateral PTB", "left PTB")[number % 3] if ill[row] else "normal"
        rows.append({"study_id": name, "sex": sex, "age": int(seen["age"].iloc[row]), "findings": finding})
    pd.DataFrame(rows).to_csv(folder / "shenzhen_metadata.csv", index=False)
    write_notice(folder, title="TB (Shenzhen)")
