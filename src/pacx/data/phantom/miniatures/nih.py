"""A simulated cohort in the form of NIH ChestX-ray14.

    Data_Entry_2017.csv   its header ends in a comma; one age reads 058Y, one 414
    train_val_list.txt    test_list.txt
    images_001/images/00000001_000.png ...   gray PNG files, every seventh RGBA

Findings that the simulated state says nothing of are drawn at random.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.latents import random_stream
from pacx.data.phantom.miniatures.drawing import overt, picture, save, write_notice
from pacx.runs import write_text

__all__ = ["write"]

_RULES = {
    "Cardiomegaly": (lambda t: np.maximum(t["lv_dilation"], 0.8 * t["lv_hypertrophy"]), 1.0),
    "Edema": (lambda t: t["congestion"], 1.2),
    "Effusion": (lambda t: t["congestion"] + 0.25 * t["renal_dysfunction"], 1.0),
    "Emphysema": (lambda t: t["hyperinflation"], 1.2),
    "Infiltration": (lambda t: t["infection"], 0.7),
    "Consolidation": (lambda t: t["infection"], 1.2),
    "Pneumonia": (lambda t: t["infection"], 1.5),
    "Nodule": (lambda t: 2.0 * t["nodule"], 1.0),
    "Atelectasis": (lambda t: -t["acquisition_inspiration"], 0.6),
}
_RARE = ("Hernia", "Pneumothorax", "Pleural_Thickening", "Mass", "Fibrosis")


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files of the release into an empty folder."""
    seen = simulated.store.manifest
    rng = random_stream("nih", simulated.seed)
    found = overt(simulated, _RULES).assign(**{name: rng.binomial(1, 0.08, len(seen)) for name in _RARE})
    number = pd.Series(pd.factorize(seen["patient_id"])[0] + 1)
    follow_up = number.groupby(number).cumcount()
    names = [f"{patient:08d}_{again:03d}.png" for patient, again in zip(number, follow_up, strict=True)]
    for row, name in enumerate(names):
        mode = "RGBA" if row % 7 == 3 else None
        save(picture(simulated, row), folder / f"images_{row % 2 + 1:03d}" / "images" / name, mode=mode)
    ages = seen["age"].astype(int).astype(str).tolist()
    ages[0], ages[-1] = f"{int(seen['age'].iloc[0]):03d}Y", "414"
    size = len(picture(simulated, 0))
    findings = ["|".join(found.columns[row.astype(bool)]) or "No Finding" for row in found.to_numpy()]
    lines = [
        f"{name},{finding},{again},{patient},{age},{sex},{view},{size},{size},0.14,0.14,"
        for name, finding, again, patient, age, sex, view in zip(
            names, findings, follow_up, number, ages, seen["sex"], seen["view"], strict=True
        )
    ]
    write_text(folder / "Data_Entry_2017.csv", "\n".join([_HEADER, *lines]) + "\n")
    for stem, chosen in (("test", seen["split"] == "test"), ("train_val", seen["split"] != "test")):
        listed = [name for name, one in zip(names, chosen, strict=True) if one]
        write_text(folder / f"{stem}_list.txt", "\n".join(listed) + "\n")
    write_notice(folder, title="NIH ChestX-ray14")


_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
