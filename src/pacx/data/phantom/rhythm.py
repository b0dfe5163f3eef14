"""When the simulated heart beats: R peaks, extrasystoles, QT intervals.

* Sinus rhythm swings with breathing (less in the old, the congested and the septic) and drifts slowly.
* Atrial fibrillation has independent log-normal intervals, spread 16 to 26 %, none below 0.3 s.
* Infection and congestion raise the rate, fibrillation too; a dilated ventricle throws extrasystoles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pacx.data.phantom.latents import Patient

__all__ = ["qt_intervals", "r_peaks"]

_DURATION = 10.0  # s


def r_peaks(patient: Patient, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Draw the R peaks of one record.

    Args:
        patient: the latent state.
        rng: the stream of this record.

    Returns:
        Ascending times in seconds, from before the record's start (0) to after its end (10), so that beats which
        reach into it are there; and which of them are ventricular extrasystoles.
    """
    rate = 71.0 + 8.0 * patient.infection + 6.0 * max(patient.infection, 0.0) + 5.0 * patient.congestion
    rate += (14.0 if patient.rhythm == "atrial_fibrillation" else 0.0) + 8.0 * rng.standard_normal()
    mean = 60.0 / float(np.clip(rate, 42.0, 165.0))
    count = int(14.0 / mean) + 4
    if patient.rhythm == "atrial_fibrillation":
        spread = rng.uniform(0.16, 0.26)
        intervals = np.maximum(mean * np.exp(spread * rng.standard_normal(count) - spread**2 / 2.0), 0.30)
    else:
        depth = 0.035 * np.exp(-0.018 * (patient.age - 50.0) - 0.3 * patient.congestion - 0.2 * patient.infection)
        breaths = rng.uniform(0.2, 0.3) * mean * np.arange(count) + rng.uniform()
        breathing = min(depth, 0.08) * np.sin(2.0 * np.pi * breaths)
        drift = np.cumsum(rng.standard_normal(count)) * 0.003
        intervals = mean * np.clip(1.0 + breathing + drift + 0.006 * rng.standard_normal(count), 0.75, 1.3)
    times = -1.0 - mean * rng.uniform() + np.cumsum(intervals)
    ectopic = rng.uniform(size=count) < min(0.006 * np.exp(0.9 * patient.lv_dilation), 0.12)
    ectopic[0] = False
    ectopic[1:] &= ~ectopic[:-1]
    # A premature beat whose successor stays on time: the pause is compensatory.
    times[ectopic] -= rng.uniform(0.25, 0.38) * mean
    keep = times < _DURATION + 0.9
    return times[keep], ectopic[keep]


def qt_intervals(patient: Patient, times: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the QT interval of each beat, in seconds.

    Hodges' rule, QT = QTc - 1.75 ms for each beat per minute above 60, with a heart rate that is mostly the record's
    mean: repolarisation adapts over minutes, not from beat to beat.

    Args:
        patient: the latent state.
        times: R peaks in seconds.
        rng: the stream of this record.
    """
    corrected = 0.402 + (0.010 if patient.sex == "F" else 0.0) + 0.008 * patient.lv_dilation
    corrected += (0.0 if patient.conduction == "normal" else 0.035) + 0.014 * rng.standard_normal()
    intervals = np.diff(times, prepend=2.0 * times[0] - times[1])
    adapted = 0.75 * intervals.mean() + 0.25 * np.clip(intervals, 0.35, 1.5)
    return np.asarray(np.clip(corrected - 0.00175 * (60.0 / adapted - 60.0), 0.26, 0.56))
