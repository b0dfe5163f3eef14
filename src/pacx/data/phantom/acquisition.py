"""How a simulated radiograph is taken: everything about an image that is not the patient.

Bedridden patients are imaged from the front (AP, short distance, shallow breath, leads on the chest), others from
behind (PA). The view therefore depends on how ill the patient is. This confounder is real, and wanted: an encoder that
reads only the view already knows something about congestion and infection, so results should also be read within one
view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pacx.data.phantom.latents import Patient

__all__ = ["Acquisition", "probability_of_ap", "sample_acquisition"]

View = Literal["PA", "AP"]
Border = Literal["none", "black", "white"]


@dataclass(frozen=True)
class Acquisition:
    """One exposure; lengths in cm, angles in radians."""

    view: View
    distance: float
    """source to detector"""
    rotation: float
    """of the patient about the vertical axis; positive brings the left side forward"""
    tilt: float
    """of the beam; positive looks from below (lordotic, clavicles high)"""
    roll: float
    """of the patient in the frontal plane"""
    inspiration: float
    """-1 (poor breath, diaphragm high) to 1 (deep)"""
    field: float
    """edge of the detector"""
    shift: tuple[float, float]
    """of the detector's centre to the patient's left and down"""
    exposure: float
    """mean photons per 224 px pixel; sets the quantum noise"""
    hardness: float
    """tube voltage: factor on all attenuations, 1 at 110 kVp"""
    scatter: float
    """scattered over primary radiation, mean over the detector"""
    contrast: float
    """slope of the display curve, 1 is usual"""
    brightness: float
    """shift of the display curve in units of its width, positive is brighter"""
    sharpness: float
    """standard deviation of the detector's blur in units of 1/224 of the field"""
    border: Border
    """what lies outside the collimated field"""
    collimation: tuple[float, float, float, float]
    """left, right, top, bottom margins as fractions of the edge"""
    arms: float
    """0 arms along the body to 1 lifted out of the field"""
    electrodes: int
    """ECG electrodes on the chest"""
    catheter: bool
    """a central venous line"""
    marker: Literal["none", "R", "L"]
    """side marker of lead"""
    seed: int
    """places markers, electrodes, wires and bowel gas"""


def probability_of_ap(patient: Patient) -> float:
    """Say how likely the patient is too ill to stand: rises with congestion, infection, dilation and age."""
    burden = 0.55 * patient.congestion + 0.5 * patient.infection + 0.2 * patient.lv_dilation
    burden += 0.25 * patient.renal_dysfunction + 0.02 * (patient.age - 60)
    return float(1 / (1 + np.exp(-(burden - 1.0))))


def sample_acquisition(patient: Patient, rng: np.random.Generator) -> Acquisition:
    """Draw one exposure of a patient."""
    portable = bool(rng.random() < probability_of_ap(patient))
    sloppy = 1.8 if portable else 1.0
    size = 0.15 * (patient.height - 170) + 0.12 * (patient.bmi - 25)
    field = float(np.clip((42.5 if portable else 41.0) + size * 0.5 + rng.normal(0, 2.7), 32, 50))
    return Acquisition(
        view="AP" if portable else "PA",
        distance=float(np.clip(rng.normal(105, 8), 90, 130)) if portable else float(rng.normal(181, 3)),
        rotation=float(rng.normal(0, 0.035 * sloppy)),
        tilt=float(rng.normal(0.07, 0.06)) if portable else float(rng.normal(0, 0.025)),
        roll=float(rng.normal(0, 0.022 * sloppy)),
        inspiration=float(np.clip(rng.normal(-0.5 if portable else 0.25, 0.45), -1, 1)),
        field=field,
        shift=(float(rng.normal(0, 1.1 * sloppy)), float(rng.normal(2.8, 1.5 * sloppy))),
        exposure=float(1500 * np.exp(rng.normal(-0.4 if portable else 0.0, 0.5))),
        hardness=float(np.clip(rng.normal(1.05 if portable else 0.97, 0.07), 0.8, 1.25)),
        scatter=float(np.clip(rng.normal(0.9 if portable else 0.55, 0.17), 0.2, 1.4)),
        contrast=float(np.exp(rng.normal(-0.06 if portable else 0.05, 0.2))),
        brightness=float(rng.normal(0, 0.10)),
        sharpness=float(np.clip(rng.normal(0.5, 0.15), 0.2, 1.0)),
        border=_sample_border(rng),
        collimation=_sample_collimation(rng),
        arms=float(rng.uniform(0, 0.35) if portable else rng.uniform(0.1, 1.0)),
        electrodes=int(rng.integers(3, 6)) if rng.random() < (0.65 if portable else 0.06) else 0,
        catheter=bool(rng.random() < (0.22 if portable else 0.02)),
        marker=_sample_marker(rng),
        seed=int(rng.integers(2**63)),
    )


def _sample_border(rng: np.random.Generator) -> Border:
    draw = rng.random()
    if draw < 0.62:
        return "none"
    return "black" if draw < 0.9 else "white"


def _sample_collimation(rng: np.random.Generator) -> tuple[float, float, float, float]:
    margins = np.where(rng.random(4) < 0.5, rng.uniform(0, 0.07, 4), 0.0)
    return (float(margins[0]), float(margins[1]), float(margins[2]), float(margins[3]))


def _sample_marker(rng: np.random.Generator) -> Literal["none", "R", "L"]:
    draw = rng.random()
    if draw < 0.15:
        return "none"
    return "R" if draw < 0.5 else "L"
