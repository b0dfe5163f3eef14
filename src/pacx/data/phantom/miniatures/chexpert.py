"""A simulated cohort in the form of CheXpert-v1.0-small.

    CheXpert-v1.0-small/train.csv  valid.csv  train_visualCheXbert.csv
    CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg   view2_lateral.jpg ...

Every fourth study has a lateral view, which is the frontal picture squeezed: nobody's side. Of the observations in
train.csv a tenth is uncertain (-1), and what is absent is denied (0) in half of the reports and passed over in the
others. The other splits of the cohort are train; its validation patients are valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest
from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.latents import random_stream
from pacx.data.phantom.miniatures.drawing import overt, picture, save, write_notice
from pacx.errors import PacxError

__all__ = ["OBSERVATIONS", "check", "observed", "reported", "write"]

OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
"""in the order of the release's train.csv, which is not that of train_visualCheXbert.csv"""

_RULES = {
    "Enlarged Cardiomediastinum": (lambda t: t["lv_dilation"], 0.8),
    "Cardiomegaly": (lambda t: np.maximum(t["lv_dilation"], 0.8 * t["lv_hypertrophy"]), 1.0),
    "Lung Opacity": (lambda t: np.maximum(t["infection"], t["congestion"]), 0.9),
    "Lung Lesion": (lambda t: 2.0 * t["nodule"], 1.0),
    "Edema": (lambda t: t["congestion"], 1.0),
    "Consolidation": (lambda t: t["infection"], 1.2),
    "Pneumonia": (lambda t: t["infection"], 1.4),
    "Atelectasis": (lambda t: -t["acquisition_inspiration"], 0.6),
    "Pneumothorax": (lambda t: t["hyperinflation"], 2.0),
    "Pleural Effusion": (lambda t: t["congestion"] + 0.25 * t["renal_dysfunction"], 1.2),
    "Pleural Other": (lambda t: t["hyperinflation"], 1.8),
    "Fracture": (lambda t: 2.0 * t["rib_fracture"], 1.0),
    "Support Devices": (lambda t: 2.0 * t["device"], 1.0),
}
_ROOT = "CheXpert-v1.0-small"


def check(config: Mapping[str, Any], manifest: Manifest, out: Path) -> None:
    """Refuse a cohort without validation patients.

    Raises:
        PacxError: nobody would be in valid.csv.
    """
    del out
    if not (manifest.table["split"] == "val").any():
        raise PacxError(
            f"{config['patients']} patients give no validation image for valid.csv. Give more --patients, e.g. 20."
        )


def observed(simulated: Simulated) -> pd.DataFrame:
    """Return the true observations, 0 or 1, `No Finding` where there is nothing else but devices."""
    found = overt(simulated, _RULES)
    nothing = (found.drop(columns="Support Devices").sum(axis=1) == 0).astype(np.int64)
    return found.assign(**{"No Finding": nothing})[list(OBSERVATIONS)]


def reported(simulated: Simulated, found: pd.DataFrame) -> pd.DataFrame:
    """Return what a report says of them: 1, 0, -1 (uncertain), or empty (not mentioned)."""
    rng = random_stream("chexpert-report", simulated.seed)
    uncertain, denied = rng.uniform(size=found.shape) < 0.1, rng.uniform(size=found.shape) < 0.5
    told = found.astype(np.float64).where((found == 1) | denied)
    told = told.mask(uncertain & (found == 1).to_numpy(), -1.0)
    return told.assign(**{"No Finding": found["No Finding"].astype(np.float64).where(found["No Finding"] == 1)})


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files of the release into an empty folder."""
    seen, root = simulated.store.manifest, folder / _ROOT
    truth = observed(simulated)
    told = reported(simulated, truth)
    number = pd.factorize(seen["patient_id"])[0] + 1
    study = pd.Series(number).groupby(number).cumcount() + 1
    rows: list[dict[str, Any]] = []
    for row in range(len(seen)):
        where = "valid" if seen["split"].iloc[row] == "val" else "train"
        place = f"{where}/patient{number[row]:05d}/study{study[row]}"
        people = {"Sex": {"F": "Female", "M": "Male"}[seen["sex"].iloc[row]], "Age": int(seen["age"].iloc[row])}
        gray = picture(simulated, row)
        for view, name in enumerate(("frontal", "lateral")[: 2 if row % 4 == 1 else 1], start=1):
            path = f"{place}/view{view}_{name}.jpg"
            save(gray if name == "frontal" else gray[:, ::2], root / path)
            projection = seen["view"].iloc[row] if name == "frontal" else ""
            facts = {"Frontal/Lateral": name.capitalize(), "AP/PA": projection}
            rows.append({"Path": f"{_ROOT}/{path}", **people, **facts, "row": row})
    table = pd.DataFrame(rows)
    is_train = table["Path"].str.contains("/train/")
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA"]
    for name, labels, chosen in (
        ("train.csv", told, is_train),
        ("valid.csv", truth.astype(np.float64), ~is_train),
        ("train_visualCheXbert.csv", truth[[*OBSERVATIONS[1:], OBSERVATIONS[0]]], is_train),
    ):
        own = table[chosen]
        whole = pd.concat([own[columns].reset_index(drop=True), labels.iloc[own["row"]].reset_index(drop=True)], axis=1)
        if "visual" in name:
            whole["Path"] = whole["Path"].str.replace(_ROOT, "CheXpert-v1.0")
        whole.to_csv(root / name, index=False)
    write_notice(root, title="CheXpert 1.0")
