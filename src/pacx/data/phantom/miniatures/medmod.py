"""A simulated cohort in the form of MedMod's extraction, and of the images that go with it.

    all_stays.csv   phenotype_labels.csv   testset_iv.csv
    mimic-cxr-jpg/files/...   mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv.gz

Every image has a stay around it; every eighth stay ends before the image was taken, and one has the image only between
admission and stay. Phenotypes that the simulated state says nothing of are drawn at random.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pacx.data.phantom.formats import Simulated
from pacx.data.phantom.latents import random_stream
from pacx.data.phantom.miniatures.drawing import overt, write_notice
from pacx.data.phantom.miniatures.mimic_cxr_jpg import write_images
from pacx.data.sources.medmod import PHENOTYPES

__all__ = ["write"]

_RULES = {
    "Acute and unspecified renal failure": (lambda t: t["renal_dysfunction"], 0.9),
    "Chronic kidney disease": (lambda t: t["renal_dysfunction"], 1.1),
    "Congestive heart failure; nonhypertensive": (lambda t: (t["congestion"] + 0.5 * t["lv_dilation"]) / 1.36, 0.9),
    "Chronic obstructive pulmonary disease and bronchiectasis": (lambda t: t["hyperinflation"], 0.9),
    "Pneumonia (except that caused by tuberculosis or sexually transmitted disease)": (lambda t: t["infection"], 0.9),
    "Septicemia (except in labor)": (lambda t: t["infection"], 1.2),
    "Cardiac dysrhythmias": (lambda t: 2.0 * (t["rhythm"] != "sinus"), 1.0),
    "Conduction disorders": (lambda t: 2.0 * (t["conduction"] != "normal"), 1.0),
}
_FIRST_STAY, _FIRST_ADMISSION = 30_000_000, 80_000_000
_AT_RANDOM = 0.15


def write(simulated: Simulated, folder: Path) -> None:
    """Write all files into an empty folder."""
    (folder / "mimic-cxr-jpg").mkdir()
    images = write_images(simulated, folder / "mimic-cxr-jpg")
    rng = random_stream("medmod", simulated.seed)
    # The program writes stays as they come, and labels sorted by stay.
    stay = _FIRST_STAY + rng.permutation(len(images))
    _stays(simulated, images, stay).to_csv(folder / "all_stays.csv", index=False)
    labels = overt(simulated, _RULES)
    drawn = {name: rng.binomial(1, _AT_RANDOM, len(images)) for name in PHENOTYPES if name not in labels}
    labels.assign(**drawn)[list(PHENOTYPES)].iloc[np.argsort(stay)].to_csv(folder / "phenotype_labels.csv", index=False)
    tests = images.loc[images["split"] == "test", ["subject_id"]].drop_duplicates()
    tests.to_csv(folder / "testset_iv.csv", index=False)
    write_notice(folder, title="MedMod")
    write_notice(folder / "mimic-cxr-jpg", title="MIMIC-CXR-JPG 2.1.0")


def _stays(simulated: Simulated, images: pd.DataFrame, stay: np.ndarray[Any, np.dtype[np.int64]]) -> pd.DataFrame:
    hours = pd.to_timedelta(np.ones(len(images)), unit="h")
    row = np.arange(len(images))
    intime, outtime = images["taken"] - 6 * hours, images["taken"] + 30 * hours
    missed = row % 8 == 7  # the X-ray was taken after the stay, before discharge
    outtime = outtime.mask(missed, images["taken"] - 1 * hours)
    dies = simulated.truth["congestion"].to_numpy() + simulated.truth["infection"].to_numpy() > 2.2
    return pd.DataFrame(
        {
            "subject_id": images["subject_id"],
            "hadm_id": _FIRST_ADMISSION + row,
            "stay_id": stay,
            "last_careunit": "Medical Intensive Care Unit (MICU)",
            "intime": intime,
            "outtime": outtime,
            "los": 1.5,
            "admittime": intime - 12 * hours,
            "dischtime": images["taken"] + 72 * hours,
            "deathtime": outtime.where(dies & ~missed),
            "race": "UNKNOWN",
            "gender": simulated.store.manifest["sex"],
            "anchor_age": simulated.store.manifest["age"].astype(int),
            "age": simulated.store.manifest["age"].astype(int),
            "mortality_inunit": (dies & ~missed).astype(int),
            "mortality": dies.astype(int),
            "mortality_inhospital": dies.astype(int),
        }
    )
