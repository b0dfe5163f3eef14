"""A simulated cohort in the form of CheXchoNet 1.0.0.

    metadata.csv
    images/PATIENT_XXXXXXXX.jpg   8-bit gray JPEG

Known differences from the release: the three measurements of the ventricle are drawn to go with the latent state but
follow no published relation to the labels; transplants are drawn at random.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.latents import random_stream
from pacx.data.phantom.miniatures.drawing import hex_name, overt, picture, save, write_notice

__all__ = ["write"]


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files of the release into an empty folder."""
    table = _metadata(simulated)
    for row, name in enumerate(table["cxr_filename"]):
        save(picture(simulated, row), folder / "images" / name)
    table.to_csv(folder / "metadata.csv", index=False)
    write_notice(folder, title="CheXchoNet 1.0.0")


def _metadata(simulated: Simulated) -> pd.DataFrame:
    seen, truth = simulated.store.manifest, simulated.truth
    heart = overt(simulated, {"slvh": (lambda t: t["lv_hypertrophy"], 1.35), "dlv": (lambda t: t["lv_dilation"], 1.35)})
    rng = random_stream("chexchonet", simulated.seed)
    number, patient = len(seen), seen["patient_id"].map(lambda name: hex_name(str(name), 40))
    names = [f"{who}_{hex_name(str(what), 8)}.jpg" for who, what in zip(patient, seen["image_id"], strict=True)]
    days = rng.integers(0, 3000, number)
    return pd.DataFrame(
        {
            "patient_id": patient,
            "cxr_filename": names,
            "cxr_time_offset": [f"{day} days 10:{day % 60:02d}:00" for day in days],
            "cxr_year": 2013 + days // 600,
            "cxr_path": [f"./cxrs/{name}" for name in names],
            "cxr_pixel_spacing_x": 0.139,
            "cxr_pixel_spacing_y": 0.139,
            "age": seen["age"].astype(np.int64),
            "sex": seen["sex"],
            "ivsd": np.round(1.0 + 0.2 * truth["lv_hypertrophy"], 2),
            "lvpwd": np.round(1.0 + 0.2 * truth["lv_hypertrophy"] + 0.05 * rng.standard_normal(number), 2),
            "lvidd": np.round(4.7 + 0.6 * truth["lv_dilation"], 2),
            "slvh": heart["slvh"],
            "dlv": heart["dlv"],
            "composite_slvh_dlv": heart.max(axis=1),
            "heart_transplant": rng.binomial(1, 0.01, number),
            "lung_transplant": rng.binomial(1, 0.01, number),
            "pacemaker_or_icd": truth["device"].astype(np.int64),
        }
    )
