"""The soft parts of the chest as ellipsoids, shaped by habitus, breath and the patient's severities.

Reference: an adult of 170 cm; the origin lies at the carina (bifurcation of the trachea), mid-depth. Lung apices are at
y = -12, the right dome of the diaphragm at y = 10, the costophrenic angles near y = 15; the cage is 27 cm wide inside.
The numbers are anatomical means read off normal radiographs and CT; `side` is -1 for the patient's right and 1 for the
left.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from pacx.data.phantom.acquisition import Acquisition
from pacx.data.phantom.latents import Patient
from pacx.data.phantom.projection import Doubles, Ellipsoid

__all__ = ["SIDES", "Thorax", "bowel_gas", "build_thorax", "patient_stream", "softplus"]

SIDES = (-1, 1)


def softplus(severity: float, *, onset: float, width: float = 0.35) -> float:
    """Rise from 0 below `onset` to a line of slope 1 above it (in standard deviations): smooth and monotone."""
    return float(width * np.logaddexp(0.0, (severity - onset) / width))


def patient_stream(patient: Patient, purpose: str) -> np.random.Generator:
    """Open the random stream of one part of a patient's anatomy, the same in all of the patient's images."""
    digest = hashlib.sha256(f"{patient.patient_id}:{purpose}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


@dataclass(frozen=True)
class Thorax:
    """Shapes of one patient in one breath, cm."""

    scale: float
    """body size over the reference"""
    width: float
    """cage width over the reference"""
    lungs: dict[int, tuple[Ellipsoid, ...]]
    """pleural spaces before the diaphragm and the mediastinum are cut out"""
    domes: dict[int, Ellipsoid]
    """what the diaphragm covers"""
    crura: Ellipsoid
    """what it covers between the domes"""
    abdomen: Ellipsoid
    """everything below the widest part of the domes, where no lung reaches"""
    heart: tuple[Ellipsoid, ...]
    mediastinum: tuple[Ellipsoid, ...]
    """great vessels and fat: what, beside the heart, keeps the lungs apart"""
    column: Ellipsoid
    """spine with its muscles; between it and the heart the lungs come close to each other"""
    torso: tuple[Ellipsoid, ...]
    """trunk with breasts, neck and shoulders"""
    arms: tuple[Ellipsoid, ...]
    depth: float
    """half the trunk's front-to-back thickness"""
    dome_level: dict[int, float]
    """y of the top of each dome"""
    hyperinflation: float

    def section(self, y: Doubles) -> tuple[Doubles, Doubles]:
        """Give the inner half-width and half-depth of the cage at heights y, cm."""
        main, apex = self.lungs[1]
        level = np.minimum(y, main.centre[1] + 2.0)
        at_main = np.sqrt(np.clip(1 - ((level - main.centre[1]) / main.axes[1]) ** 2, 0.0, 1))
        at_apex = np.sqrt(np.clip(1 - ((level - apex.centre[1]) / apex.axes[1]) ** 2, 0.05, 1))
        lean = main.centre[0] - (main.centre[1] - level) * np.sin(abs(main.roll))
        half_width = np.maximum(lean + main.axes[0] * at_main, apex.centre[0] + apex.axes[0] * at_apex)
        return half_width, np.maximum(main.axes[2] * at_main, apex.axes[2] * at_apex)


def build_thorax(patient: Patient, acquisition: Acquisition) -> Thorax:
    """Shape the chest of a patient at the acquisition's depth of breath."""
    own = patient_stream(patient, "habitus").normal(size=16)
    male = patient.sex == "M"
    scale = (patient.height / 170) ** 0.8 * (1 + 0.02 * own[0])
    width = scale * (1.01 if male else 0.96) * (1 + 0.004 * (patient.bmi - 25) + 0.03 * own[1])
    air, breath = patient.hyperinflation, acquisition.inspiration
    # Each step of severity lowers the domes by 0.9 cm and flattens them; mild cases move less than severe ones.
    lowering = 0.35 * air + 0.75 * softplus(air, onset=0.5)
    fat_push = 0.05 * max(patient.bmi - 25, 0.0)
    level = scale * 9.9 + lowering + 1.3 * breath - fat_push + 0.5 * own[2]
    dome_level = {-1: level, 1: level + 0.9 + 0.3 * own[3]}
    depth = 10.6 * scale * (1 + 0.008 * (patient.bmi - 25)) + 0.25 * lowering + 0.16 * (patient.bmi - 25)
    lungs = {side: _lung(side, scale, width, lowering, own) for side in SIDES}
    domes = {side: _dome(side, dome_level[side], scale, width, lowering) for side in SIDES}
    return Thorax(
        scale=scale,
        width=width,
        lungs=lungs,
        domes=domes,
        crura=_crura(level, scale),
        abdomen=_abdomen(domes),
        heart=_heart(patient, scale, width, dome_level, breath, lowering),
        mediastinum=_mediastinum(patient, scale, dome_level[1] - 4.0 * scale, breath),
        column=Ellipsoid((0.0, 4.0 * scale, -7.6 * scale), (1.7 * scale, 32.0 * scale, 3.0 * scale)),
        torso=_torso(patient, acquisition, scale, width, depth),
        arms=_arms(patient, acquisition, scale, width),
        depth=depth,
        dome_level=dome_level,
        hyperinflation=air,
    )


def _lung(side: int, scale: float, width: float, lowering: float, own: Doubles) -> tuple[Ellipsoid, ...]:
    lean = 0.065 + 0.012 * own[4] - 0.012 * lowering
    depth = scale * 8.8 + 0.35 * lowering
    main = Ellipsoid(
        (side * 6.55 * width, 7.4 * scale + 0.3 * lowering, -0.4),
        (6.9 * width, 19.0 * scale + 0.3 * lowering, depth),
        roll=-side * lean,
    )
    apex = Ellipsoid(
        (side * 5.7 * width, -6.6 * scale, -1.2), ((4.2 + 0.1 * lowering) * width, 5.4 * scale, 5.0 * scale)
    )
    return main, apex


def _dome(side: int, level: float, scale: float, width: float, lowering: float) -> Ellipsoid:
    # A flat diaphragm is a wide and shallow one: the top stays at `level`.
    height = max(8.0 * scale - 1.3 * max(lowering, 0.0), 4.0)
    reach = (7.5 + 0.35 * max(lowering, 0.0)) * width
    return Ellipsoid((side * 6.6 * width, level + height, 0.6), (reach, height, 10.0 * scale), roll=side * 0.10)


def _crura(level: float, scale: float) -> Ellipsoid:
    """Fill the middle between the domes, where the heart rests on the central tendon."""
    return Ellipsoid((0.8 * scale, level + 9.6 * scale, 0.8), (8.0 * scale, 8.8 * scale, 10.0 * scale))


def _abdomen(domes: dict[int, Ellipsoid]) -> Ellipsoid:
    """Close the pleural spaces below the domes' equators, where the domes turn inwards again."""
    equator = max(dome.centre[1] for dome in domes.values())
    return Ellipsoid((0.0, equator + 21.0, 0.0), (45.0, 20.0, 45.0))


def _heart(
    patient: Patient, scale: float, width: float, domes: dict[int, float], breath: float, lowering: float
) -> tuple[Ellipsoid, ...]:
    own = patient_stream(patient, "heart").normal(size=6)
    dilation = patient.lv_dilation + 0.15 * own[0]
    thick = 0.35 * patient.lv_hypertrophy + 0.65 * softplus(patient.lv_hypertrophy, onset=0.6)
    # About 0.5 cm more transverse diameter per step when mild, 1.8 cm when overt; fluid distends the right side.
    grow = 0.5 * dilation + 1.25 * softplus(dilation, onset=0.7)
    right = 0.12 * grow + 0.25 * softplus(patient.congestion, onset=0.5) + 0.1 * own[1]
    # A deep breath and low domes make the heart hang long and narrow, a shallow one lays it across.
    lying = 1 - 0.035 * breath - 0.035 * np.clip(lowering, -1, 3) + 0.004 * (patient.bmi - 25) + 0.015 * own[2]
    # Healthy hearts differ, by 4 % of their diameter, so that a single image does not give the severity away.
    size = 1 + 0.04 * own[3]
    across, along = 1.05 * width * lying * size, scale / np.sqrt(lying) * size
    top = domes[1] - 4.3 * scale - 0.25 * max(breath, 0)
    slope = 0.66 - 0.36 * (lying - 1) + 0.05 * grow - 0.09 * thick

    def chamber(x: float, y: float, z: float, ax: float, ay: float, az: float, roll: float = 0.0) -> Ellipsoid:
        return Ellipsoid((x * across, top + y * along, z * scale), (ax * across, ay * along, az * scale), roll=roll)

    left = chamber(
        3.3 + 0.30 * grow + 0.06 * thick,
        0.1 + 0.22 * grow - 0.1 * thick,
        1.6 - 0.1 * grow,
        5.2 + 0.32 * grow + 0.10 * thick,
        4.0 + 0.36 * grow + 0.16 * thick,
        4.3 + 0.3 * grow + 0.12 * thick,
        roll=slope,
    )
    return (
        left,
        chamber(-1.5 - right, -0.4, 1.2, 2.5 + 0.3 * right, 4.1 + 0.25 * right, 3.2),
        chamber(1.1, 1.2, 3.6, 4.5 + 0.5 * right, 3.1 + 0.15 * grow, 3.0, roll=0.2),
        chamber(0.7, -4.2, -1.0, 2.9 + 0.25 * right + 0.1 * grow, 2.7, 2.7),
        chamber(1.6 + 0.05 * grow, -4.0, 2.6, 2.4 + 0.12 * right, 3.4, 2.2, roll=-0.35),
    )


def _mediastinum(patient: Patient, scale: float, heart_level: float, breath: float) -> tuple[Ellipsoid, ...]:
    own = patient_stream(patient, "vessels").normal(size=5)
    aged = 0.022 * (patient.age - 50) + 0.2 * own[0]
    wide = 0.30 * softplus(patient.congestion, onset=0.3) + 0.05 * softplus(patient.renal_dysfunction, onset=1.0)
    wide += 0.12 * own[1] - 0.1 * breath
    trunk = 0.16 * softplus(patient.congestion, onset=0.3) + 0.1 * own[2]
    unfold = max(aged, -0.3)
    parts = (
        # aortic arch (knob), ascending and descending aorta
        ((2.0 + 0.35 * unfold, -3.9 - 0.3 * unfold, -2.2), (1.45 + 0.18 * aged, 1.5 + 0.15 * aged, 3.4), 0.0),
        ((-0.9 - 0.3 * unfold, -0.5, 1.6), (1.7 + 0.15 * aged, 4.6, 1.8), 0.05),
        ((1.75 + 0.45 * unfold, 6.5, -4.6), (1.25 + 0.1 * aged, 12.5, 1.4), 0.035),
        # superior vena cava with azygos, left brachiocephalic and subclavian: the vascular pedicle
        ((-1.45 - 0.5 * wide, -3.6, 0.6), (1.25 + 0.5 * wide, 7.0, 1.5), -0.03),
        ((0.9 + 0.3 * wide, -7.5, 0.0), (1.4 + 0.4 * wide, 6.0, 2.0), 0.06),
        # pulmonary trunk
        ((2.0, heart_level / scale - 6.6, 1.0), (1.8 + trunk, 2.3 + trunk, 1.9), -0.25),
        # thymic and mediastinal fat
        ((0.0, -3.0, 0.5), (1.6 + 0.02 * (patient.bmi - 25), 10.0, 3.6), 0.0),
    )
    return tuple(
        Ellipsoid((x * scale, y * scale, z * scale), (scale * ax, scale * ay, scale * az), roll=roll)
        for (x, y, z), (ax, ay, az), roll in parts
    )


def _torso(
    patient: Patient, acquisition: Acquisition, scale: float, width: float, depth: float
) -> tuple[Ellipsoid, ...]:
    own = patient_stream(patient, "soft tissue").normal(size=6)
    wall = 2.2 + 0.17 * (patient.bmi - 25) + (0.5 if patient.sex == "M" else 0.0)
    half = 13.3 * width + max(wall, 0.9)
    neck = (5.3 if patient.sex == "M" else 4.6) * (1 + 0.014 * (patient.bmi - 25)) * scale
    lift = acquisition.arms
    parts = [
        Ellipsoid((0.0, 14.0 * scale, 0.0), (half, 30.0 * scale, depth)),
        Ellipsoid((0.0, 24.0 * scale, 0.8), (half + 0.06 * (patient.bmi - 25), 17.0 * scale, depth * 1.04)),
        Ellipsoid((0.0, -18.0 * scale, -1.5), (neck, 14.0 * scale, neck)),
        Ellipsoid((0.0, -30.5 * scale, 1.0), (7.3, 9.5, 9.0)),
    ]
    for side in SIDES:
        # trapezius and deltoid: the line from neck to shoulder
        slope = side * (0.36 - 0.12 * lift)
        parts.append(
            Ellipsoid(
                (side * 8.6 * width, -7.6 * scale, -1.8), (11.5 * width, 4.4 * scale + 0.25 * wall, 5.0), roll=slope
            )
        )
        shoulder = (side * 15.3 * width, (-4.6 - 1.2 * lift) * scale, -1.0)
        parts.append(Ellipsoid(shoulder, (4.2 + 0.35 * wall, 5.2 + 0.3 * wall, 4.6 + 0.2 * wall)))
        # pectoral and broadest back muscles: the folds of the armpit
        fold = (side * (11.6 + 0.5 * lift) * width, (1.5 - lift) * scale, 0.0)
        parts.append(
            Ellipsoid(fold, (3.4 * width + 0.4 * wall, 11.0 * scale, 6.0 * scale), roll=side * (0.10 + 0.15 * lift))
        )
    if patient.sex == "F":
        parts += _breasts(patient, acquisition, width, depth, own)
    return tuple(parts)


def _breasts(patient: Patient, acquisition: Acquisition, width: float, depth: float, own: Doubles) -> list[Ellipsoid]:
    size = float(np.clip(4.9 + 0.14 * (patient.bmi - 22) + 0.7 * own[0], 3.6, 10.0))
    lying = acquisition.view == "AP"
    droop = 0.03 * (patient.age - 40) + 0.10 * (patient.bmi - 25)
    breasts = []
    for side in SIDES:
        x = side * min(7.9 * width + 0.25 * size * lying, 13.6 * width - size * (1.1 if lying else 1.0))
        y = 6.5 + (0.25 * droop if lying else droop) + 0.3 * own[1] * side
        surface = depth * np.sqrt(max(1 - (x / (15.5 * width)) ** 2, 0.2))
        # The upper end sinks into the chest wall, so that only the lower fold throws an edge.
        axes = (size * (1.1 if lying else 1.0), size * 1.25, size * (0.23 if lying else 0.28))
        breasts.append(Ellipsoid((x, y, surface - 0.5), axes, yaw=side * 0.35, pitch=0.3 if lying else 0.5))
    return breasts


def _arms(patient: Patient, acquisition: Acquisition, scale: float, width: float) -> tuple[Ellipsoid, ...]:
    thick = 4.1 + 0.13 * (patient.bmi - 25) + (0.4 if patient.sex == "M" else 0.0)
    spread = 0.12 + 0.9 * acquisition.arms
    arms = []
    for side in SIDES:
        shoulder = np.array([side * 17.0 * width, (-7.0 - 1.2 * acquisition.arms) * scale, -1.5])
        middle = shoulder + 10.5 * np.array([side * np.sin(spread), np.cos(spread), 0.05])
        arms.append(
            Ellipsoid(
                (middle[0], middle[1], middle[2]), (max(thick, 3.0), 17.5 * scale, max(thick, 3.0)), roll=-side * spread
            )
        )
    return tuple(arms)


def bowel_gas(patient: Patient, acquisition: Acquisition, thorax: Thorax) -> list[Ellipsoid]:
    """Place the gastric bubble under the left dome and some gas in the colon; changes from image to image."""
    rng = np.random.default_rng([acquisition.seed, 5])
    k, level = thorax.scale, thorax.dome_level[1]
    bubbles = []
    size = float(np.clip(rng.normal(1.5, 0.8), 0.0, 3.2))
    if size > 0.5:
        centre = (5.8 * k + rng.normal(0, 0.7), level + 2.2 + 0.75 * size, 1.5)
        bubbles.append(Ellipsoid(centre, (1.35 * size, 0.8 * size, 1.2 * size), roll=float(rng.normal(0.1, 0.2))))
    for _ in range(int(rng.poisson(1.2))):
        side = 1 if rng.random() < 0.7 else -1
        centre = (side * rng.uniform(3, 11) * k, level + rng.uniform(6, 9.5), 3.0)
        extent = rng.uniform([0.8, 0.6, 0.6], [2.0, 1.3, 1.2])
        bubbles.append(Ellipsoid(centre, (extent[0], extent[1], extent[2]), roll=float(rng.normal(0, 0.5))))
    return bubbles
