"""Things on and in the patient that say nothing about physiology: pacemaker, electrodes and wires, catheter, marker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pacx.data.phantom.acquisition import Acquisition
from pacx.data.phantom.latents import Patient
from pacx.data.phantom.projection import Beam, Doubles, Ellipsoid, Floats
from pacx.data.phantom.skeleton import curve
from pacx.data.phantom.thorax import Thorax, patient_stream
from pacx.data.phantom.tubes import Tubes, polyline

__all__ = ["Hardware", "place_hardware"]

METAL = 2.6
"""attenuation of small metal parts as the detector shows it, 1/cm; beam hardening keeps it far below the true value"""
LETTERS: dict[str, list[list[tuple[float, float]]]] = {
    "L": [[(0, 0), (0, 1), (0.6, 1)]],
    "R": [[(0, 1), (0, 0), (0.4, 0), (0.58, 0.13), (0.58, 0.37), (0.4, 0.5), (0, 0.5)], [(0.28, 0.5), (0.62, 1)]],
    "A": [[(0, 1), (0.32, 0), (0.64, 1)], [(0.14, 0.62), (0.5, 0.62)]],
    "P": [[(0, 1), (0, 0), (0.42, 0), (0.6, 0.13), (0.6, 0.4), (0.42, 0.53), (0, 0.53)]],
}


@dataclass(frozen=True)
class Hardware:
    """Solid parts with their attenuation, and thin ones."""

    solids: tuple[tuple[Ellipsoid, float], ...]
    tubes: Tubes

    def draw_solids(self, beam: Beam) -> Floats:
        """Add up the solid parts, (S, S) attenuation; each saturates like thick metal does."""
        total = np.zeros((beam.size, beam.size), np.float32)
        for body, attenuation in self.solids:
            total += np.float32(attenuation) * np.tanh(beam.thickness(body) / np.float32(0.5))
        return total


def place_hardware(beam: Beam, patient: Patient, acquisition: Acquisition, thorax: Thorax) -> Hardware:
    """Collect everything foreign in one image."""
    rng = np.random.default_rng([acquisition.seed, 3])
    solids: list[tuple[Ellipsoid, float]] = []
    tubes = [_marker(beam, acquisition, np.random.default_rng([acquisition.seed, 4]))]
    if acquisition.electrodes:
        _electrodes(acquisition, thorax, rng, solids, tubes)
    if acquisition.catheter:
        tubes.append(_catheter(thorax, rng))
    if patient.device:
        _pacemaker(patient, thorax, solids, tubes)
    return Hardware(tuple(solids), Tubes.collect(tubes))


def _pacemaker(patient: Patient, thorax: Thorax, solids: list[tuple[Ellipsoid, float]], tubes: list[Tubes]) -> None:
    rng = patient_stream(patient, "device")
    side = 1 if rng.random() < 0.8 else -1
    front = thorax.depth * 0.72
    x, y = side * (9.3 + rng.normal(0, 0.5)) * thorax.width, -3.6 * thorax.scale + rng.normal(0, 0.6)
    roll = float(rng.normal(0, 0.3))
    solids.append((Ellipsoid((x, y, front), (2.6, 2.2, 0.8), roll=roll, yaw=side * 0.3), 1.5))
    solids.append((Ellipsoid((x, y + 0.3, front), (1.5, 1.1, 0.8), roll=roll), 0.45))
    solids.append((Ellipsoid((x - side * 0.3, y - 2.2, front), (1.5, 0.6, 0.5), roll=roll), 0.7))
    left_ventricle = thorax.heart[0].centre
    vein = [(x - side * 0.5, y - 2.3, front), (x + side * 0.8, y - 3.4, front - 0.6), (side * 6.5, -7.4, 5.0)]
    vein += [(side * 3.0, -7.9, 3.2), (-1.4, -5.6, 1.2), (-1.7, -1.0, 1.0)]
    atrium = thorax.heart[1].centre
    into_atrium = [(-2.0, atrium[1], 1.0), (-1.4, atrium[1] + 1.6, 2.2), (-2.2, atrium[1] + 0.2, 3.4)]
    tip = (left_ventricle[0] + 1.2, left_ventricle[1] + 2.9, 4.4)
    into_ventricle = [
        (-2.2, atrium[1] + 0.3, 1.6),
        (-0.6, atrium[1] + 3.2, 2.6),
        (2.0, left_ventricle[1] + 3.4, 4.0),
        tip,
    ]
    leads = [vein + into_ventricle] if rng.random() < 0.35 else [vein + into_ventricle, vein + into_atrium]
    for i, lead in enumerate(leads):
        points = curve([(px + 0.15 * i, py + 0.2 * i, pz) for px, py, pz in lead], num=56)
        radius = np.full(55, 0.13)
        radius[-3:] = 0.2
        tubes.append(polyline(points, radius=radius, wall=METAL))


def _electrodes(
    acquisition: Acquisition,
    thorax: Thorax,
    rng: np.random.Generator,
    solids: list[tuple[Ellipsoid, float]],
    tubes: list[Tubes],
) -> None:
    places = np.array([[-9.5, -4.5], [9.5, -4.5], [10.5, 12.0], [-10.0, 13.0], [2.0, 2.0]])
    exit_side = rng.choice([-1.0, 1.0])
    for place in places[: acquisition.electrodes]:
        x, y = place * thorax.scale + rng.normal(0, 1.3, 2)
        z = thorax.depth * float(np.sqrt(max(1 - (x / (16 * thorax.width)) ** 2, 0.1))) + 0.2
        solids.append((Ellipsoid((x, y, z), (0.55, 0.55, 0.16)), 0.9))
        solids.append((Ellipsoid((x, y, z), (1.5, 1.3, 0.12)), 0.06))
        away = np.array([exit_side * rng.uniform(8, 24), rng.uniform(24, 32)])
        bend = rng.normal(0, 4.0, (2, 2))
        knots = [(x, y), *((place + away * part + bend[i]) for i, part in enumerate((0.35, 0.7))), tuple(place + away)]
        points = curve([(float(px), float(py), z) for px, py in knots], num=60)
        tubes.append(polyline(points, radius=0.09, wall=0.75))


def _catheter(thorax: Thorax, rng: np.random.Generator) -> Tubes:
    k = thorax.scale
    start = [(-3.0 * k, -18.0 * k, 4.0), (-3.2 * k, -11.0 * k, 3.0)] if rng.random() < 0.5 else [
        (-9.0 * k, -6.0 * k, 6.0),
        (-5.0 * k, -7.6 * k, 4.0),
    ]  # fmt: skip
    end = [(-1.7 * k, -6.0 * k, 1.0), (-1.9 * k, -1.5 * k, 0.8), (-1.9 * k, float(rng.uniform(0.5, 4)) * k, 0.8)]
    return polyline(curve([*start, *end], num=50), radius=0.11, wall=0.65)


def _marker(beam: Beam, acquisition: Acquisition, rng: np.random.Generator) -> Tubes:
    """Write the side letter of lead on the detector, in a corner, sometimes with AP or a ring."""
    height = acquisition.field * rng.uniform(0.03, 0.05)
    side = -1.0 if acquisition.marker == "R" else 1.0
    u = side * acquisition.field * rng.uniform(0.38, 0.45)
    v = -acquisition.field * rng.uniform(0.30, 0.45)
    turn, ring, view = rng.normal(0, 0.12), rng.random() < 0.3, rng.random() < 0.4
    strokes: list[Doubles] = []
    if acquisition.marker != "none":
        strokes += [np.array(stroke) - np.array([0.3, 0.5]) for stroke in LETTERS[acquisition.marker]]
        if ring:
            angle = np.linspace(0, 2 * np.pi, 24)
            strokes.append(np.stack([0.95 * np.cos(angle), 0.95 * np.sin(angle)], axis=1))
        if view:
            for place, letter in enumerate(acquisition.view):
                shift = np.array([-0.55 + 0.6 * place, 1.3])
                strokes += [np.array(stroke) * 0.5 + shift for stroke in LETTERS[letter]]
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    parts = [Tubes.none()]
    for stroke in strokes:
        flat = stroke * height @ spin + np.array([u, v])
        points = beam.origin + flat[:, :1] * beam.right + flat[:, 1:] * beam.down
        parts.append(polyline(points, radius=height * 0.085, wall=2.6 / (height * 0.17)))
    return Tubes.collect(parts)
