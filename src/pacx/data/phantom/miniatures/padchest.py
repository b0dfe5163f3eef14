"""A simulated cohort in the form of PadChest: a compressed table and 16-bit PNG files in numbered folders.

One row is excluded, one has no labels. Findings that the simulated state says nothing of are left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.miniatures.drawing import hex_name, overt, picture, save, write_notice

__all__ = ["write"]

_RULES = {
    "cardiomegaly": (lambda t: np.maximum(t["lv_dilation"], 0.8 * t["lv_hypertrophy"]), 1.0),
    "COPD signs": (lambda t: t["hyperinflation"], 1.0),
    "infiltrates": (lambda t: t["infection"], 0.9),
    "pneumonia": (lambda t: t["infection"], 1.2),
    "pleural effusion": (lambda t: t["congestion"] + 0.25 * t["renal_dysfunction"], 1.0),
    "heart insufficiency": (lambda t: t["congestion"], 1.0),
    "nodule": (lambda t: 2.0 * t["nodule"], 1.0),
    "pacemaker": (lambda t: 2.0 * t["device"], 1.0),
    "rib fracture": (lambda t: 2.0 * t["rib_fracture"], 1.0),
}


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files of the release into an empty folder."""
    seen, found = simulated.store.manifest, overt(simulated, _RULES)
    labels = [str([*found.columns[row.astype(bool)]] or ["normal"]) for row in found.to_numpy()]
    labels[0], labels[1] = "['exclude']", ""
    names = [f"{hex_name(str(one), 20)}_{row:03d}.png" for row, one in enumerate(seen["image_id"])]
    for row, name in enumerate(names):
        save(picture(simulated, row).astype(np.uint16) * 257, folder / str(row % 3) / name)
    table = pd.DataFrame(
        {
            "ImageID": names,
            "ImageDir": [row % 3 for row in range(len(seen))],
            "StudyDate_DICOM": 20150101,
            "StudyID": [hex_name(f"study:{one}", 12) for one in seen["image_id"]],
            "PatientID": [hex_name(f"patient:{one}", 16) for one in seen["patient_id"]],
            "PatientBirth": 2015 - seen["age"],
            "PatientSex_DICOM": seen["sex"],
            "Projection": seen["view"].replace("AP", "AP_horizontal"),
            "MethodLabel": "Physician",
            "Labels": labels,
        }
    )
    # A fixed time inside the archive: the same cohort gives the same file.
    compression = {"method": "gzip", "mtime": 1}
    path = folder / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    table.to_csv(path, compression=compression)
    write_notice(folder, title="PadChest")
