"""The waves of one heartbeat: Gaussian in time, a dipole vector (mV) in space.

Axes: x to the patient's left, y to the feet, z to the back (Frank's convention). Times are seconds from the R peak.
P has a right- and a left-atrial wave; QRS has septum, apex, free wall and base, or the slow waves of a bundle branch
block; ST and T move with the QT interval. The vectors were set by hand and eye, so that the 12 leads look as in
textbooks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pacx.data.phantom.latents import Patient

__all__ = ["Waves", "conducted_waves", "ectopic_waves"]

Floats = NDArray[np.float32]


class Waves(NamedTuple):
    """The K Gaussian waves of one kind of beat."""

    centre: Floats
    """(K,) seconds from the R peak"""
    width: Floats
    """(K,) seconds, standard deviation"""
    vector: Floats
    """(K, 3) mV"""
    with_qt: Floats
    """(K,) part of the QT interval by which a wave comes later"""


def conducted_waves(patient: Patient, rng: np.random.Generator) -> Waves:
    """Make the waves of a beat that comes down from the atria, of one person.

    Args:
        patient: the latent state.
        rng: the stream of this record; people differ in all waves.
    """
    ventricle = {"normal": _normal_qrs, "lbbb": _left_block_qrs, "rbbb": _right_block_qrs}[patient.conduction](patient)
    rows = [*ventricle, *_repolarisation(patient, rng)]
    if patient.rhythm == "sinus":
        rows += _p_wave(patient, rng)
    return _individual(rows, rng)


_Row = tuple[float, float, tuple[float, float, float], float]  # centre s, width s, vector mV, part of QT


def _p_wave(patient: Patient, rng: np.random.Generator) -> list[_Row]:
    pr = 0.150 + 0.0004 * (patient.age - 50.0) + 0.016 * rng.standard_normal()  # PR interval, s
    middle = -(float(np.clip(pr, 0.11, 0.24)) - 0.010)
    lungs = max(patient.hyperinflation, 0.0)
    left = 1.0 + 0.35 * max(0.6 * patient.congestion + 0.4 * patient.lv_hypertrophy, 0.0)
    delay = 0.008 * (left - 1.0) / 0.35
    return [
        (middle - 0.014, 0.015, (0.045, 0.075 + 0.045 * lungs, -0.055 - 0.010 * lungs), 0.0),
        (middle + 0.016 + delay, 0.017, (0.070 * left, 0.050, 0.048 * left), 0.0),
    ]


def _left_ventricular_gain(patient: Patient) -> float:
    """Growth of the free wall's dipole; about 1.9 in overt hypertrophy (severity 2)."""
    grown = np.log1p(np.exp(1.6 * patient.lv_hypertrophy)) / 1.6 - 0.43
    return float(np.exp(0.36 * min(grown, 3.0) + 0.08 * np.clip(patient.lv_dilation, -2.0, 3.0)))


def _normal_qrs(patient: Patient) -> list[_Row]:
    wall = _left_ventricular_gain(patient)
    wide = 1.0 + 0.05 * float(np.clip(patient.lv_dilation + 0.5 * patient.lv_hypertrophy, -1.5, 4.0))
    return [
        (-0.022 * wide, 0.0075 * wide, (-0.17, -0.06, -0.26), 0.0),  # septum: to the right and front
        (-0.006 * wide, 0.0085 * wide, (0.48 * wall, 0.29, -0.14), 0.0),  # apex
        (0.007 * wide, 0.0100 * wide, (0.72 * wall, 0.40, 0.44 * wall), 0.0),  # free wall: left, down and back
        (0.029 * wide, 0.0085 * wide, (-0.14, -0.16, 0.34 * wall), 0.0),  # base: back and up
    ]


def _left_block_qrs(patient: Patient) -> list[_Row]:
    wall = _left_ventricular_gain(patient)
    return [
        (-0.034, 0.011, (0.10, 0.10, -0.10), 0.0),  # right ventricle and apex, no septal Q
        (-0.008, 0.017, (0.52 * wall, 0.40, 0.42 * wall), 0.0),
        (0.036, 0.017, (0.66 * wall, 0.18, 0.72 * wall), 0.0),  # the notch lies between this and the wave before
        (0.066, 0.015, (0.30 * wall, -0.08, 0.42 * wall), 0.0),
    ]


def _right_block_qrs(patient: Patient) -> list[_Row]:
    septum, apex, free, base = _normal_qrs(patient)
    late = [
        # The right ventricle, late and unopposed: R' in V1, broad S in I and V6.
        (0.050, 0.013, (-0.30, -0.02, -0.42), 0.0),
        (0.076, 0.014, (-0.34, 0.04, -0.30), 0.0),
    ]
    return [septum, apex, free, (base[0], base[1], (-0.05, -0.10, 0.30), 0.0), *late]


def _repolarisation(patient: Patient, rng: np.random.Generator) -> list[_Row]:
    """ST segment and T wave: with the QRS in health, against it in strain and left bundle branch block."""
    strain = float(1.0 / (1.0 + np.exp(-(patient.lv_hypertrophy - 1.3) / 0.35)))
    flat = float(np.exp(-0.16 * np.clip(patient.lv_dilation + 0.3 * patient.congestion, -1.5, 4.0)))
    t_wave = flat * np.array([0.28, 0.20, -0.16 if patient.sex == "M" else -0.10])
    st = np.array([0.010, 0.010, -0.035 if patient.sex == "M" else -0.012]) + 0.014 * rng.standard_normal(3)
    st -= 0.02 * max(patient.infection + patient.congestion, 0.0) * np.array([0.6, 0.5, -0.3])  # demand
    t_wave += strain * np.array([-0.50, -0.25, -0.16])
    st += strain * np.array([-0.10, -0.05, -0.09])
    if patient.conduction == "lbbb":
        size = min(_left_ventricular_gain(patient), 2.2)
        t_wave = size * np.array([-0.26, -0.03, -0.34])
        st = size * np.array([-0.07, -0.01, -0.13])
    elif patient.conduction == "rbbb":
        t_wave += np.array([0.06, 0.02, 0.20])
    # Potassium: the taller and narrower, the more of the kidney is lost.
    potassium = max(patient.renal_dysfunction - 0.6, 0.0)
    t_wave *= (1.0 + 0.28 * potassium) * np.exp(0.18 * rng.standard_normal())
    narrow = 1.0 / (1.0 + 0.22 * potassium)
    early, peak = 0.45 * t_wave, 0.75 * t_wave  # two waves: the rise is slower than the fall
    late = 0.045 if patient.conduction != "normal" else 0.0
    return [
        (0.030 + late, 0.042, _vector(st), 0.25),
        (-0.085, 0.050 * narrow, _vector(early), 0.77),
        (-0.042, 0.032 * narrow, _vector(peak), 0.77),
    ]


def ectopic_waves(rng: np.random.Generator) -> Waves:
    """Make the waves of a ventricular extrasystole: broad, from anywhere, without P, its T against it.

    Args:
        rng: the stream of this record.
    """
    side = rng.standard_normal(3)
    main = 1.5 * side / np.linalg.norm(side)
    skew = 0.35 * rng.standard_normal(3)
    rows = [
        (-0.030, 0.024, _vector(0.5 * main + skew), 0.0),
        (0.022, 0.026, _vector(main), 0.0),
        (0.064, 0.022, _vector(0.35 * main - skew), 0.0),
        (0.060, 0.050, _vector(-0.12 * main), 0.25),
        (-0.040, 0.055, _vector(-0.45 * main), 0.77),
    ]
    return _individual(rows, rng)


def _vector(v: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(v[0]), float(v[1]), float(v[2])


def _individual(rows: list[_Row], rng: np.random.Generator) -> Waves:
    """Make textbook waves one person's own: times, widths and vectors vary between people."""
    count = len(rows)
    vector = np.array([row[2] for row in rows])
    size = np.linalg.norm(vector, axis=1, keepdims=True)
    vector = vector * np.exp(0.12 * rng.standard_normal((count, 1))) + 0.12 * size * rng.standard_normal((count, 3))
    centre = np.array([row[0] for row in rows]) + 0.0012 * rng.standard_normal(count)
    width = np.array([row[1] for row in rows]) * np.exp(0.05 * rng.standard_normal(count))
    with_qt = np.array([row[3] for row in rows])
    return Waves(*(part.astype(np.float32) for part in (centre, width, vector, with_qt)))
