"""The simulated 12-lead ECG: a moving cardiac dipole seen by nine electrodes.

From the patient to the paper, in the order of the code:

1. *Rhythm* (`rhythm.py`): times of the R peaks over ten seconds.
2. *Waves* (`waves.py`): every beat is a sum of Gaussian waves with a time c, a width s and a dipole vector v (mV):

       d(t) = sum_beats sum_waves v exp(-(t - t_beat - c)^2 / (2 s^2))

   Axes: x to the patient's left, y to the feet, z to the back. That a few Gaussians make a heartbeat is McSharry's idea
   (IEEE Trans. Biomed. Eng. 2003); here they are vectors, so one beat makes all leads. The heart is then turned in the
   chest and its voltage damped by what lies around it.
3. *Lead field*: electrode potential = row of `ELECTRODE_FIELD` . d(t). Its rows are made from the vectors of leads I,
   II and V1-V6, rounded from Dower's transfer (Clin. Cardiol. 1980), so that RA + LA + LL = 0 (Wilson's terminal).
4. *Disturbance*, all of it at the electrodes: contact gain, misplaced chest electrodes, baseline wander, 50 Hz mains,
   muscle noise. Leads are differences of electrodes (`LEADS_FROM_ELECTRODES`), so Einthoven's I + III = II and
   aVR = -(I + II) / 2 hold in the noisy record too, as they do in a real one.

What the latents do: hypertrophy -> voltage and strain; dilation -> voltage, wider QRS, flat T; congestion -> rate, low
voltage, broad left-atrial P; hyperinflation -> vertical axis, low voltage, late transition, tall P; body mass -> low
voltage, horizontal axis; renal dysfunction -> tall narrow T (potassium); infection -> rate. Known differences from
life: no atrial flutter, AV block, infarct scars or pacing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pacx.data.phantom.latents import Patient
from pacx.data.phantom.rhythm import qt_intervals, r_peaks
from pacx.data.phantom.waves import Waves, conducted_waves, ectopic_waves

__all__ = [
    "ELECTRODES",
    "ELECTRODE_FIELD",
    "LEADS_FROM_ELECTRODES",
    "SAMPLES",
    "SAMPLING_RATE",
    "CardiacDipole",
    "cardiac_dipole",
    "project",
    "simulate_ecg",
]

Floats = NDArray[np.float32]

SAMPLING_RATE = 500  # Hz
SAMPLES = 5000
ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
_MARGIN = 500  # samples around the record, so that beats which start before or end after it are laid down whole
_BEFORE, _AFTER = 0.32, 0.64  # seconds around an R peak in which a beat's waves live


def _electrode_field() -> Floats:
    lead_1, lead_2 = np.array([0.63, -0.24, 0.06]), np.array([0.24, 1.06, -0.13])
    right_arm = -(lead_1 + lead_2) / 3.0
    chest = [
        [-0.52, 0.16, -0.92],
        [0.04, 0.16, -1.38],
        [0.88, 0.10, -1.28],
        [1.21, 0.13, -0.60],
        [1.13, 0.13, -0.09],
        [0.83, 0.08, 0.23],
    ]
    return np.stack([right_arm, right_arm + lead_1, right_arm + lead_2, *np.array(chest)]).astype(np.float32)


def _leads_from_electrodes() -> Floats:
    right, left, leg = np.eye(9)[:3]
    terminal = (right + left + leg) / 3.0
    limb = [left - right, leg - right, leg - left]
    augmented = [right - (left + leg) / 2.0, left - (right + leg) / 2.0, leg - (right + left) / 2.0]
    return np.stack([*limb, *augmented, *(np.eye(9)[3:] - terminal)]).astype(np.float32)


ELECTRODE_FIELD = _electrode_field()  # (9, 3), mV of potential per mV of dipole
LEADS_FROM_ELECTRODES = _leads_from_electrodes()  # (12, 9), rows in the order I II III aVR aVL aVF V1..V6


class CardiacDipole(NamedTuple):
    """The heart's electric source over ten seconds."""

    vector: Floats
    """(3, 5000) dipole in mV; x left, y feet, z back"""
    beats: NDArray[np.float64]
    """times of the R peaks inside the record, seconds"""
    ectopic: NDArray[np.bool_]
    """which of the beats are ventricular extrasystoles"""


def simulate_ecg(patient: Patient, rng: np.random.Generator) -> Floats:
    """Simulate a 10 s, 12-lead ECG at 500 Hz.

    Args:
        patient: the latent state.
        rng: the stream of this record.

    Returns:
        (12, 5000) in mV, leads in the order I, II, III, aVR, aVL, aVF, V1 to V6.
    """
    dipole = cardiac_dipole(patient, rng)
    field = ELECTRODE_FIELD.copy()
    field[3:] += 0.07 * rng.standard_normal((6, 3), dtype=np.float32)  # chest electrodes a finger's breadth off
    field *= 1.0 + 0.04 * rng.standard_normal((9, 1), dtype=np.float32)  # contact gain
    return LEADS_FROM_ELECTRODES @ (field @ dipole.vector + _disturbance(rng))


def project(dipole: CardiacDipole) -> Floats:
    """Project the dipole on the 12 leads without any disturbance; (12, 5000) in mV."""
    return LEADS_FROM_ELECTRODES @ (ELECTRODE_FIELD @ dipole.vector)


def cardiac_dipole(patient: Patient, rng: np.random.Generator) -> CardiacDipole:
    """Simulate the cardiac dipole: rhythm, waves of each beat, fibrillation waves.

    Args:
        patient: the latent state.
        rng: the stream of this record.
    """
    times, ectopic = r_peaks(patient, rng)
    qt = qt_intervals(patient, times, rng)
    turn = _heart_rotation(patient, rng)
    gain = _voltage(patient, rng)
    breath = 1.0 + 0.04 * np.sin(2.0 * np.pi * (0.25 * times + rng.uniform()))
    breath *= 1.0 + (0.05 if patient.rhythm == "atrial_fibrillation" else 0.015) * rng.standard_normal(len(times))

    track = np.zeros((3, SAMPLES + 2 * _MARGIN), dtype=np.float32)
    for chosen, waves in ((~ectopic, conducted_waves(patient, rng)), (ectopic, ectopic_waves(rng))):
        turned = waves._replace(vector=(gain * waves.vector @ turn.T).astype(np.float32))
        _lay_beats(track, times[chosen], qt=qt[chosen], amplitude=breath[chosen], waves=turned)
    vector = track[:, _MARGIN:-_MARGIN]
    if patient.rhythm == "atrial_fibrillation":
        vector = vector + _fibrillation(rng)
    inside = (times >= 0.0) & (times < SAMPLES / SAMPLING_RATE)
    return CardiacDipole(np.ascontiguousarray(vector), times[inside], ectopic[inside])


def _fibrillation(rng: np.random.Generator) -> Floats:
    """Fibrillation waves of the atria, 5 to 8 per second, strongest in V1; (3, 5000) mV."""
    t = np.arange(SAMPLES) / SAMPLING_RATE
    wobble = rng.uniform(0.6, 1.4) * np.sin(2.0 * np.pi * (rng.uniform(0.3, 0.9) * t + rng.uniform()))
    phase = 2.0 * np.pi * rng.uniform(5.0, 8.0) * t + wobble
    size = rng.uniform(0.02, 0.08) * (1.0 + 0.4 * np.sin(2.0 * np.pi * (rng.uniform(0.1, 0.5) * t + rng.uniform())))
    main = np.array([-0.35, 0.55, -0.75])[:, None] * (np.sin(phase) + 0.35 * np.sin(2.0 * phase))
    second = np.array([0.30, 0.35, 0.10])[:, None] * np.sin(1.13 * phase + rng.uniform(0.0, 6.0))
    return np.asarray(size * (main + second), dtype=np.float32)


def _heart_rotation(patient: Patient, rng: np.random.Generator) -> Floats:
    """(3, 3) rotation of the heart: the axis in the frontal plane, then the transition in the horizontal plane."""
    body = (patient.bmi - 27.5) / 5.0
    downward = 9.0 * patient.hyperinflation - 7.0 * body - 0.25 * (patient.age - 60.0) - 4.0 * patient.lv_hypertrophy
    frontal = np.deg2rad(np.clip(downward + 14.0 * rng.standard_normal(), -70.0, 55.0))
    backward = 6.0 * max(patient.hyperinflation, 0.0) + 3.0 * patient.lv_dilation
    horizontal = np.deg2rad(np.clip(backward + 9.0 * rng.standard_normal(), -30.0, 40.0))
    cf, sf, ch, sh = np.cos(frontal), np.sin(frontal), np.cos(horizontal), np.sin(horizontal)
    in_frontal = np.array([[cf, -sf, 0.0], [sf, cf, 0.0], [0.0, 0.0, 1.0]])
    in_horizontal = np.array([[ch, 0.0, -sh], [0.0, 1.0, 0.0], [sh, 0.0, ch]])
    return np.asarray(in_horizontal @ in_frontal, dtype=np.float32)


def _voltage(patient: Patient, rng: np.random.Generator) -> float:
    """Overall voltage: fat, trapped air and fluid between heart and electrodes lower it."""
    around = max(patient.hyperinflation, 0.0) + max(patient.congestion, 0.0)
    damping = 0.018 * (patient.bmi - 27.5) + 0.10 * around
    return 1.10 * math.exp(min(max(-damping, -0.9), 0.25) + 0.13 * rng.standard_normal())


def _lay_beats(
    track: Floats, times: NDArray[np.float64], *, qt: NDArray[np.float64], amplitude: NDArray[np.float64], waves: Waves
) -> None:
    """Add beats to a dipole track (3, 5000 + 2 margins) in place; all beats' Gaussians are evaluated at once."""
    if not len(times):
        return
    first = np.ceil((times - _BEFORE) * SAMPLING_RATE).astype(np.int64)
    length = int((_BEFORE + _AFTER) * SAMPLING_RATE)
    offset = (first / SAMPLING_RATE - times).astype(np.float32)
    t = offset[:, None] + np.arange(length, dtype=np.float32) / SAMPLING_RATE  # (beats, length)
    centre = waves.centre + waves.with_qt * qt[:, None].astype(np.float32)  # (beats, K)
    u = (t[:, None, :] - centre[:, :, None]) / waves.width[:, None]
    shape = np.exp(-0.5 * u * u)  # (beats, K, length)
    beats = np.matmul(waves.vector.T, shape) * amplitude[:, None, None].astype(np.float32)  # (beats, 3, length)
    for start, beat in zip(first + _MARGIN, beats, strict=True):
        low, high = max(start, 0), min(start + length, track.shape[1])
        if low < high:
            track[:, low:high] += beat[:, low - start : high - start]


def _disturbance(rng: np.random.Generator) -> Floats:
    """Baseline wander, mains and muscle noise at the nine electrodes; (9, 5000) mV."""
    t = np.arange(SAMPLES, dtype=np.float32) / SAMPLING_RATE
    frequency = np.concatenate([rng.uniform(0.05, 0.4, size=5), [50.0]]).astype(np.float32)
    phase = rng.uniform(0.0, 2.0 * np.pi, size=6).astype(np.float32)
    waves = np.sin(np.float32(2.0 * np.pi) * frequency[:, None] * t + phase[:, None])  # (6, 5000)
    wander, mains, muscle = np.exp(rng.normal(np.log([0.035, 0.004, 0.006]), [0.6, 0.8, 0.6]))
    weights = rng.standard_normal((9, 6), dtype=np.float32) * np.array([*[wander / 2.0] * 5, mains], dtype=np.float32)
    white = rng.standard_normal((9, SAMPLES + 2), dtype=np.float32)
    activity = muscle * np.exp(0.4 * rng.standard_normal((9, 1), dtype=np.float32))
    # The difference over two samples passes the band around 125 Hz, where surface electromyograms live.
    return np.asarray(weights @ waves + activity * (white[:, 2:] - white[:, :-2]), dtype=np.float32)
