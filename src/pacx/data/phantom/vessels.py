"""The branching air- and blood ways of the lungs.

Pulmonary arteries and veins divide in two, over and over. Radii follow Murray's law with a little asymmetry
(r0^3 = r1^3 + r2^3), lengths are a few radii, and every branch leaves its parent at an angle but drifts away from the
hilum. A tree is grown level by level for all branches at once. On the standing patient the lower lobes' vessels are
wider; congestion evens this out and then reverses it.
"""

from __future__ import annotations

import numpy as np

from pacx.data.phantom.acquisition import Acquisition
from pacx.data.phantom.latents import Patient
from pacx.data.phantom.projection import Doubles
from pacx.data.phantom.skeleton import curve
from pacx.data.phantom.thorax import SIDES, Thorax, patient_stream, softplus
from pacx.data.phantom.tubes import Tubes, polyline

__all__ = ["airway_tubes", "hilum", "vessel_tubes"]

BLOOD_IN_LUNG = 0.165
"""attenuation of blood above aerated lung, 1/cm"""
LEVELS = 7
STEMS = np.array(
    # x outwards, y down, z forward: upper lobe, middle or lingula, lower lobe; arteries, then the flatter veins
    [
        [0.45, -1.0, 0.2], [0.8, -0.7, -0.4], [0.9, -0.1, 0.6], [0.75, 0.75, -0.5], [0.4, 1.0, -0.2], [0.55, 0.9, 0.5],
        [0.7, -0.8, 0.5], [1.0, 0.25, -0.3], [1.0, 0.5, 0.2],
    ]
)  # fmt: skip
STEM_RADIUS = np.array([0.42, 0.40, 0.40, 0.50, 0.52, 0.42, 0.36, 0.42, 0.40])


def hilum(thorax: Thorax, side: int) -> Doubles:
    """Place the root of a lung, (3,) cm; the left one is higher."""
    return np.array([side * 2.9 * thorax.width, (2.2 if side < 0 else 1.1) * thorax.scale, -1.0])


def vessel_tubes(patient: Patient, acquisition: Acquisition, thorax: Thorax) -> Tubes:
    """Grow the vessels of both lungs."""
    parts = []
    for side in SIDES:
        rng = patient_stream(patient, f"vessels {side}")
        parts.append(_grow(patient, acquisition, thorax, side, rng))
        parts.append(_root(patient, thorax, side))
    return Tubes.collect(parts)


def airway_tubes(thorax: Thorax, patient: Patient) -> Tubes:
    """Lay the trachea and the main bronchi: tubes of air in soft tissue."""
    k = thorax.scale
    lean = 0.25 + 0.012 * max(patient.age - 50, 0)
    radius = (0.85 if patient.sex == "M" else 0.72) * k
    trachea = curve([(0, -24 * k, 2.0), (0, -12 * k, 0.5), (-lean, -5 * k, -1.5), (-0.1, 0.2 * k, -2.2)], num=26)
    right = curve([(-0.1, 0.0, -2.2), (-1.4 * k, 1.9 * k, -2.4), (-2.4 * k, 4.6 * k, -2.6)], num=14)
    left = curve([(-0.1, 0.0, -2.2), (2.0 * k, 1.8 * k, -2.5), (4.0 * k, 3.2 * k, -2.8)], num=14)
    return Tubes.collect(
        [
            polyline(trachea, radius=radius, wall=-0.17),
            polyline(right, radius=radius * np.linspace(0.75, 0.5, 13), wall=-0.13),
            polyline(left, radius=radius * np.linspace(0.7, 0.45, 13), wall=-0.13),
        ]
    )


def _root(patient: Patient, thorax: Thorax, side: int) -> Tubes:
    """Lay the main artery of one lung, from the mediastinum over the hilum down into the lower lobe."""
    k = thorax.scale
    swell = 1 + 0.13 * softplus(patient.congestion, onset=0.2) + 0.05 * softplus(patient.hyperinflation, onset=1.0)
    x, y, z = hilum(thorax, side)
    points = curve(
        [
            (side * 1.4 * k, y - 0.6, z + 1.0),
            (x + side * 0.3, y - 0.5, z),
            (x + side * 1.2, y + 1.8, z - 0.4),
            (x + side * 1.7, y + 4.6, z - 1.0),
        ],
        num=20,
    )
    radius = k * swell * np.interp(np.linspace(0, 1, 19), [0, 0.4, 1], [0.9, 0.85, 0.45])
    return polyline(points, radius=radius, wall=0.75 * BLOOD_IN_LUNG)


def _grow(patient: Patient, acquisition: Acquisition, thorax: Thorax, side: int, rng: np.random.Generator) -> Tubes:
    root = hilum(thorax, side)
    stems = STEMS * np.array([side, 1.0, 1.0])
    heading = _unit(stems + rng.normal(0, 0.12, stems.shape))
    start = root + heading * 0.8 + rng.normal(0, 0.25, stems.shape)
    radius = STEM_RADIUS * thorax.scale * 0.78
    size = 1 - 0.03 * np.clip(thorax.hyperinflation, -1, 3)
    starts, ends, radii = [], [], []
    for level in range(LEVELS):
        length = (0.95 + 2.9 * radius) * np.exp(rng.normal(0, 0.2, len(radius))) * thorax.scale
        bent = _unit(heading + rng.normal(0, 0.22, heading.shape))
        middle = start + heading * length[:, None] / 2
        end = middle + bent * length[:, None] / 2
        keep = _inside(thorax, side, end)
        # Large branches are bent in the middle; in small ones nobody could see it.
        for first, last in ((start, middle), (middle, end)) if level < 4 else ((start, end),):
            starts.append(first[keep])
            ends.append(last[keep])
            radii.append(radius[keep])
        # A branch outside the lung goes on unseen: dropping it would shift the draws of all others.
        start, heading, radius = _divide(end, bent, radius, root, rng, level)
    place, radius = np.concatenate(starts), np.concatenate(radii)
    radius = radius * size * _gravity(place[:, 1] - root[1], patient, acquisition)
    count = len(radius)
    wall = np.full(count, BLOOD_IN_LUNG)
    return Tubes(place, np.concatenate(ends), radius, wall, wall, np.zeros(count))


def _divide(
    end: Doubles, heading: Doubles, radius: Doubles, root: Doubles, rng: np.random.Generator, level: int
) -> tuple[Doubles, Doubles, Doubles]:
    """Split every branch in two; the draws do not depend on any severity."""
    side_axis = _unit(np.cross(heading, rng.normal(size=heading.shape)))
    share = rng.uniform(0.3, 0.7, len(radius))
    angle = 0.30 + 0.35 * rng.random(len(radius)) + 0.02 * level
    away = _unit(end - root)
    children = []
    for sign, part in ((1, share), (-1, 1 - share)):
        turn = sign * np.tan(angle * 2 * (1 - part))
        children.append(_unit(heading + turn[:, None] * side_axis + 0.22 * away))
    radii = np.concatenate([radius * np.cbrt(share), radius * np.cbrt(1 - share)])
    return np.concatenate([end, end]), np.concatenate(children), radii


def _inside(thorax: Thorax, side: int, points: Doubles) -> np.ndarray:
    main, apex = thorax.lungs[side]
    within = main.inside(points, margin=0.95) | apex.inside(points, margin=0.92)
    return np.asarray(within & ~thorax.domes[side].inside(points) & ~thorax.crura.inside(points))


def _gravity(below: Doubles, patient: Patient, acquisition: Acquisition) -> Doubles:
    """Widen vessels by height (cm below the hilum): lower lobes when standing, upper lobes when congested."""
    shift = 0.5 * softplus(patient.congestion, onset=0.3) + 0.1 * float(np.clip(patient.congestion, -1, 0.5))
    standing = 0.28 if acquisition.view == "PA" else 0.1
    lobe = np.tanh(below / 5.0)
    return np.clip(1 + (standing - 0.30 * shift) * lobe + 0.16 * shift, 0.5, 2.2)


def _unit(vectors: Doubles) -> Doubles:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), dtype=np.float64)
