"""A simulated cohort in the form of Open-i: indiana_reports.csv, indiana_projections.csv, images/images_normalized.

One image per patient, and for every third a lateral view, which is the frontal picture squeezed. One report was not
indexed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.miniatures.drawing import overt, picture, save, write_notice

__all__ = ["write"]

_RULES = {
    "Cardiomegaly": (lambda t: np.maximum(t["lv_dilation"], 0.8 * t["lv_hypertrophy"]), 1.0),
    "Emphysema": (lambda t: t["hyperinflation"], 1.0),
    "Pneumonia": (lambda t: t["infection"], 1.0),
    "Pleural Effusion": (lambda t: t["congestion"] + 0.25 * t["renal_dysfunction"], 1.0),
    "Pulmonary Edema": (lambda t: t["congestion"], 1.0),
    "Nodule": (lambda t: 2.0 * t["nodule"], 1.0),
    "Fractures, Bone": (lambda t: 2.0 * t["rib_fracture"], 1.0),
    "Implanted Medical Device": (lambda t: 2.0 * t["device"], 1.0),
}


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files into an empty folder."""
    found = overt(simulated, _RULES)
    first = np.flatnonzero(~simulated.store.manifest["patient_id"].duplicated().to_numpy())
    reports: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for uid, row in enumerate(first, start=1):
        words = ";".join(found.columns[found.iloc[row].astype(bool)]) or "normal"
        words = "No Indexing" if uid == 1 else words
        reports.append({"uid": uid, "MeSH": words, "Problems": words, "findings": "", "impression": ""})
        gray = picture(simulated, int(row))
        for number, kind in enumerate(("Frontal", "Lateral")[: 2 if uid % 3 == 0 else 1], start=1):
            name = f"{uid}_IM-{row:04d}-{number}001.dcm.png"
            save(gray if kind == "Frontal" else gray[:, ::2], folder / "images" / "images_normalized" / name)
            images.append({"uid": uid, "filename": name, "projection": kind})
    pd.DataFrame(reports).to_csv(folder / "indiana_reports.csv", index=False)
    pd.DataFrame(images).to_csv(folder / "indiana_projections.csv", index=False)
    write_notice(folder, title="Open-i")
