"""A tiny store of ECGs and labs in which one latent decides both."""

from pathlib import Path

import numpy as np
import pandas as pd

from pacx.data.manifest import Manifest, Task
from pacx.data.store import Store, StoreWriter

LABS = ["Creatinine", "Urea", "Potassium", "Sodium"]


def make_ecg(latent: float, rng: np.random.Generator) -> np.ndarray:
    """Regular beats; a positive latent turns V1 to V3 upside down and doubles the rate."""
    t = np.arange(5000) / 500
    period = 0.5 if latent > 0 else 1.0
    beat = np.exp(-(((t + rng.uniform()) % period - period / 2) ** 2) / 0.0005)
    gain = np.ones(12)
    gain[6:9] = -1 if latent > 0 else 1
    return gain[:, None] * beat + 0.02 * rng.standard_normal((12, 5000)) + 0.2 * np.sin(t)


def make_labs(latent: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Creatinine, urea and potassium follow the latent; sodium does not. A quarter is missing."""
    noise = 0.2 * rng.standard_normal((len(latent), 4))
    values = np.exp(np.stack([latent, latent, latent, np.zeros_like(latent)], axis=1) + noise)
    values[rng.random(values.shape) < 0.25] = np.nan
    return pd.DataFrame(values, columns=LABS)


def make_store(path: Path, *, num_rows: int = 60, ecg: bool = True, seed: int = 0) -> Store:
    """60 % train, 20 % val, 20 % test; two rows in ten lack the ECG or all labs; some labels are unknown."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal(num_rows)
    failing = (latent > 0).astype(float)
    table = pd.DataFrame(
        {
            "image_id": [f"image{row:03d}" for row in range(num_rows)],
            "patient_id": [f"patient{row:03d}" for row in range(num_rows)],
            "split": [("train", "train", "train", "val", "test")[row % 5] for row in range(num_rows)],
            "failing": np.where(np.arange(num_rows) % 7 == 0, np.nan, failing),
            "stone": np.zeros(num_rows),
            "mixed": (rng.random(num_rows) < 0.5).astype(float),
            "stage": rng.integers(0, 3, num_rows).astype(float),
        }
    )
    tasks = {
        "failing": Task("failing", ("failing",), "binary", group="physiology"),
        "others": Task("others", ("stone", "mixed"), "multilabel", group="control"),
        "stage": Task("stage", ("stage",), "multiclass", group="physiology"),
    }
    labs = make_labs(latent, rng)
    labs[np.arange(num_rows) % 10 == 9] = np.nan
    labs.index = pd.Index(table["image_id"], name="image_id")
    writer = StoreWriter(path, name="toy", num_rows=num_rows, ecg=ecg)
    for row in range(num_rows):
        writer.write(row, ecg=make_ecg(latent[row], rng) if ecg and row % 10 != 4 else None)
    units = dict.fromkeys(LABS, "mg/dL")
    writer.finish(Manifest("toy", table, tasks=tasks, labs=labs, lab_units=units), source={"command": "test"})
    return Store.open(path)
