"""Small ECGs in arrays and in WFDB files, for the tests of reading."""

from pathlib import Path

import numpy as np

from pacx.data.ecg import LEADS

PTBXL = Path(__file__).parents[3] / "shared" / "data" / "ecg" / "ptbxl"
MIMIC = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")


def record(rate: float = 500, seconds: float = 10, seed: int = 0) -> np.ndarray:
    """12 leads in mV that obey Einthoven and Goldberger; smooth, so that resampling can be exact."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(rate * seconds)) / rate
    waves = np.stack([np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in (1.3, 3.1, 5.7, 8.0, 11.0, 2.2, 4.4, 6.6)])
    one, two, *chest = rng.uniform(0.3, 1.2, 8)[:, None] * waves
    return np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2, *chest])


def write_record(folder: Path, spec: str, *, name: str = "r", leads=LEADS, rate: str = "500", seed: int = 0) -> Path:
    """A WFDB record of format 16 whose every channel has the same specification, and 1000 counts per mV.

    Returns:
        The record's path without suffix.
    """
    counts = np.rint(record(seed=seed) * 1000).astype("<i2")
    (folder / f"{name}.dat").write_bytes(counts[[LEADS.index(lead) for lead in leads]].T.tobytes())
    lines = [f"{name} {len(leads)} {rate} 5000", *(f"{name}.dat 16 {spec} 16 0 0 0 0 {lead}" for lead in leads)]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return folder / name
