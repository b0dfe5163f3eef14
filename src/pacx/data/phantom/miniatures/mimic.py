"""What the miniatures of MIMIC-based sets share: ids outside MIMIC's ranges, the same for one cohort in all of them.

So a cohort written as MIMIC-CXR-JPG, MedMod and CXL-Seg has the same patients, studies and images in each, as the
originals have.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.latents import random_stream
from pacx.data.phantom.miniatures.drawing import hex_name
from pacx.data.sources.mimic_cxr_jpg import image_path

__all__ = ["images_of", "where"]

_FIRST_SUBJECT, _FIRST_STUDY = 90_000_000, 70_000_000


def images_of(simulated: Simulated) -> pd.DataFrame:
    """Return a row per image: dicom_id, subject_id, study_id (numbers), view, taken (date), split."""
    seen = simulated.store.manifest
    patient = pd.factorize(seen["patient_id"])[0]
    rng = random_stream("mimic", simulated.seed)
    visit = pd.Series(patient).groupby(patient).cumcount().to_numpy()
    days = np.array([rng.integers(0, 20_000) for _ in range(patient.max() + 1)])[patient] + 40 * visit
    minutes = rng.integers(0, 24 * 60, len(seen))
    dicom = [hex_name(f"dicom:{simulated.seed}:{one}", 40) for one in seen["image_id"]]
    return pd.DataFrame(
        {
            "dicom_id": ["-".join(one[i : i + 8] for i in range(0, 40, 8)) for one in dicom],
            "subject_id": _FIRST_SUBJECT + patient,
            "study_id": _FIRST_STUDY + np.arange(len(seen)),
            "view": seen["view"].to_numpy(),
            "taken": pd.Timestamp("2110-01-01")
            + pd.to_timedelta(days, unit="D")
            + pd.to_timedelta(minutes, unit="min"),
            "split": seen["split"].map({"train": "train", "val": "validate", "test": "test"}).to_numpy(),
        }
    )


def where(images: pd.DataFrame) -> pd.Series:
    """Return the path of each image below `files`."""
    return image_path(images)
