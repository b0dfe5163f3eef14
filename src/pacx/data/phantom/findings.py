"""What illness adds to the lungs: fluid, oedema, consolidation, and a nodule that has nothing to do with it.

Each finding has a visibility of its own (`Visibility`), drawn once per image, so that a severity shows more in one
image than in another: a picture tells less than the latent that caused it. For fixed draws every finding grows
monotonically.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pacx.data.phantom.acquisition import Acquisition
from pacx.data.phantom.latents import Patient
from pacx.data.phantom.projection import Beam, Doubles, Ellipsoid, Floats
from pacx.data.phantom.texture import value_noise
from pacx.data.phantom.thorax import SIDES, Thorax, patient_stream, softplus
from pacx.data.phantom.tubes import Tubes, polyline
from pacx.data.phantom.vessels import hilum

__all__ = ["Visibility", "aerated_space", "opacity_in_lung", "sample_visibility", "septal_lines", "solid_nodule"]

LOBES = np.array(
    # x outwards, y, z of the middle of: right upper, middle, lower; left upper, lingula, lower lobe
    [[-6.3, -4.0, 1.0], [-5.2, 5.0, 4.0], [-6.8, 7.0, -4.0], [6.3, -3.5, 1.0], [6.9, 4.5, 4.0], [6.4, 7.0, -4.0]]
)


@dataclass(frozen=True)
class Visibility:
    """Noise on how much of each severity shows, standard normal draws."""

    effusion: dict[int, float]
    oedema: float
    consolidation: float
    nodule: float
    fracture: float


def sample_visibility(rng: np.random.Generator) -> Visibility:
    """Draw the visibilities of one image."""
    draws = rng.normal(size=6)
    return Visibility({-1: draws[0], 1: draws[1]}, draws[2], draws[3], draws[4], draws[5])


def aerated_space(patient: Patient, thorax: Thorax, visibility: Visibility, side: int) -> Ellipsoid | None:
    """Give the body in which lung still holds air when an effusion fills the pleural space below; None without fluid.

    Lung floats: fluid collects below and climbs along the walls, so that its upper border is concave (the meniscus).
    A wide ellipsoid centred at the apex has such a lower border.
    """
    load = patient.congestion + 0.25 * patient.renal_dysfunction + 0.35 * visibility.effusion[side]
    # Cardiac effusions are larger on the right; pneumonia adds a little fluid.
    depth = 4.0 * softplus(load, onset=1.05) * (1.0 if side < 0 else 0.8)
    depth += 0.5 * softplus(patient.infection + 0.5 * visibility.effusion[side], onset=1.6)
    main = thorax.lungs[side][0]
    floor = thorax.dome_level[side] + 5.3 * thorax.scale
    if depth < 0.15:
        return None
    top = -13.0 * thorax.scale
    lateral = floor - min(depth, 12.0)
    bottom = (lateral - top) / 0.76
    width = main.axes[0] * 1.5
    return Ellipsoid((main.centre[0] - side * 0.1, top, main.centre[2] + 0.5), (width, bottom, main.axes[2] * 1.6))


def opacity_in_lung(
    beam: Beam, patient: Patient, acquisition: Acquisition, thorax: Thorax, visibility: Visibility
) -> Floats:
    """Add up what replaces air: oedema about the hila and bases, and lobar consolidation.

    Returns:
        (S, S), cm of lung turned to soft tissue, before it is limited to the lung there is.
    """
    total = _consolidation(beam, patient, visibility)
    amount = softplus(patient.congestion + 0.3 * visibility.oedema, onset=0.75)
    amount += 0.1 * softplus(patient.renal_dysfunction, onset=1.0)
    if amount > 0.01:
        total = total + np.float32(0.36 * amount) * _bat_wings(beam, thorax)
    if total.any():
        patches = value_noise(beam.size, np.random.default_rng([acquisition.seed, 11]), octaves=(12, 24, 48))
        total = total * np.exp(np.float32(0.42) * patches)
    return np.asarray(total, np.float32)


def _bat_wings(beam: Beam, thorax: Thorax) -> Floats:
    total = np.zeros((beam.size, beam.size), np.float32)
    for side in SIDES:
        x, y, z = hilum(thorax, side)
        total += beam.blob(Ellipsoid((x + side * 2.2, y + 0.8, z), (3.2, 4.6, 3.6)))
        total += np.float32(0.55) * beam.blob(Ellipsoid((x + side * 3.0, y + 6.5, z - 1.0), (4.0, 3.2, 4.0)))
    return total


def _consolidation(beam: Beam, patient: Patient, visibility: Visibility) -> Floats:
    rng = patient_stream(patient, "infection")
    lobes = rng.permutation(len(LOBES))
    severity = patient.infection + 0.3 * visibility.consolidation
    # One lobe first, a second when severe, then patches in a third.
    amounts = (softplus(severity, onset=0.8), 0.8 * softplus(severity, onset=1.9), 0.6 * softplus(severity, onset=2.4))
    total = np.zeros((beam.size, beam.size), np.float32)
    for lobe, amount in zip(lobes[:3], amounts, strict=True):
        centres = LOBES[lobe] + rng.normal(0, [1.2, 1.8, 1.6], (5, 3))
        sizes = rng.uniform([1.0, 0.9, 1.0], [2.6, 2.3, 2.6], (5, 3))
        if amount < 0.01:
            continue
        for centre, size in zip(centres, sizes, strict=True):
            blob = Ellipsoid((centre[0], centre[1], centre[2]), (size[0], size[1], size[2]))
            total += np.float32(1.0 * amount) * beam.blob(blob)
    return total


def septal_lines(patient: Patient, thorax: Thorax, visibility: Visibility) -> Tubes:
    """Lay Kerley B lines (short, horizontal, at the lateral bases) and the thickened minor fissure."""
    rng = patient_stream(patient, "septa")
    amount = softplus(patient.congestion + 0.4 * visibility.oedema, onset=1.0)
    strength = 0.05 * np.tanh(amount)
    parts = []
    for side in SIDES:
        for y in 8.5 + np.arange(8) * 0.62 + rng.normal(0, 0.1, 8):
            outer = float(thorax.section(np.array(y))[0]) - 0.5
            inner = outer - rng.uniform(1.0, 1.8)
            points = np.array([[side * outer, y, 0.5], [side * inner, y + rng.normal(0, 0.15), 0.5]])
            parts.append(polyline(points, radius=0.12, wall=strength * 3))
    fissure = np.array([[-2.8 - 0.9 * i, 3.6 + 0.10 * i - 0.02 * i * i, 1.0] for i in range(10)]) * thorax.scale
    parts.append(polyline(fissure, radius=0.09, wall=0.25 + 3 * strength))
    return Tubes.collect(parts)


def solid_nodule(patient: Patient, thorax: Thorax, visibility: Visibility) -> Ellipsoid | None:
    """Place a round soft-tissue nodule of 1 to 3 cm in the lung away from the heart; None for most patients."""
    if not patient.nodule:
        return None
    rng = patient_stream(patient, "nodule")
    radius = float(np.clip(1.1 * np.exp(rng.normal(0, 0.25) + 0.12 * visibility.nodule), 0.5, 1.6))
    side = int(rng.choice(SIDES))
    candidates: Doubles = rng.uniform([4.5, -7.5, -4.0], [10.5, 7.5, 4.0], (32, 3)) * np.array([side, 1.0, 1.0])
    main, apex = thorax.lungs[side]
    inside = main.inside(candidates, margin=0.85) | apex.inside(candidates, margin=0.75)
    centre = candidates[int(np.argmax(inside))]
    stretch = rng.uniform(0.85, 1.15, 3) * radius
    return Ellipsoid((centre[0], centre[1], centre[2]), (stretch[0], stretch[1], stretch[2]))
