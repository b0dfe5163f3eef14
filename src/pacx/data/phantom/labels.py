"""The labels of the simulated cohort: what a reader would write down, with a reader's errors.

A trait is overt when its severity, seen through a reader's error, passes a threshold:

    lvh_or_dilation = max(lv_dilation, lv_hypertrophy)        + .30 e > 1.35   (the composite of CheXchoNet)
    heart_failure   = (congestion + .5 lv_dilation) / 1.36    + .30 e > 1.00
    renal_failure   = renal_dysfunction                       + .30 e > 1.00
    infection       = infection                               + .30 e > 0.90
    copd            = hyperinflation                          + .30 e > 1.00

What a cardiologist writes under an ECG, group "ecg", are tasks of their own. A teacher that is trained on these has not
seen the labels that an X-ray encoder is asked for later; if it had, distillation would hand those labels over, and a
probe "with 1 % of the labels" would have seen all of them:

    ecg_atrial_fibrillation, ecg_left_bundle_block, ecg_right_bundle_block   the rhythm and conduction themselves
    ecg_lvh         = lv_hypertrophy                                    + .50 e > 1.10   (voltage and strain)
    ecg_low_voltage = (hyperinflation + .6 congestion) / 1.17           + .50 e > 1.20
    ecg_tachycardia = (infection + .6 congestion) / 1.17                + .50 e > 1.10
    ecg_st_t        = (lv_dilation + .6 renal_dysfunction) / 1.17       + .50 e > 1.20   (repolarisation)

nodule, rib_fracture and device are the latents themselves: controls, which no ECG and no lab can tell anything about.
Every label is then misreported: 4 % of the positives are missed, 1 % of the negatives are called positive. So not even
an oracle that knows the latent state reaches an AUROC of 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pacx.data.manifest import Task
from pacx.data.phantom.latents import Patient

__all__ = ["TASKS", "sample_labels"]

_READER_NOISE, _MISSED, _FALSELY_CALLED = 0.30, 0.04, 0.01
_OVERT: dict[str, tuple[Callable[[Patient], float], float]] = {
    "lvh_or_dilation": (lambda p: max(p.lv_dilation, p.lv_hypertrophy), 1.35),
    "heart_failure": (lambda p: (p.congestion + 0.5 * p.lv_dilation) / 1.36, 1.0),
    "renal_failure": (lambda p: p.renal_dysfunction, 1.0),
    "infection": (lambda p: p.infection, 0.9),
    "copd": (lambda p: p.hyperinflation, 1.0),
}
_STATEMENT_NOISE = 0.50
_STATEMENTS: dict[str, tuple[Callable[[Patient], float], float]] = {
    "ecg_lvh": (lambda p: p.lv_hypertrophy, 1.1),
    "ecg_low_voltage": (lambda p: (p.hyperinflation + 0.6 * p.congestion) / 1.17, 1.2),
    "ecg_tachycardia": (lambda p: (p.infection + 0.6 * p.congestion) / 1.17, 1.1),
    "ecg_st_t": (lambda p: (p.lv_dilation + 0.6 * p.renal_dysfunction) / 1.17, 1.2),
}
_CONTROLS = ("nodule", "rib_fracture", "device")

_ABOUT = {
    "lvh_or_dilation": "Left ventricle hypertrophied or dilated, the composite of CheXchoNet.",
    "heart_failure": "Clinical heart failure: congestion, with a dilated ventricle behind it.",
    "renal_failure": "Loss of kidney function; the kidney itself is not on the X-ray.",
    "infection": "Pulmonary infection.",
    "copd": "Chronic obstructive lung disease, seen as hyperinflation.",
    "nodule": "Control: a lung nodule, independent of all physiology.",
    "rib_fracture": "Control: a displaced rib fracture, independent of all physiology.",
    "device": "Control: a pacemaker with leads, independent of all physiology.",
    "ecg_atrial_fibrillation": "ECG statement: atrial fibrillation.",
    "ecg_left_bundle_block": "ECG statement: left bundle branch block.",
    "ecg_right_bundle_block": "ECG statement: right bundle branch block.",
    "ecg_lvh": "ECG statement: voltage and strain of left ventricular hypertrophy.",
    "ecg_low_voltage": "ECG statement: low voltage.",
    "ecg_tachycardia": "ECG statement: fast rate.",
    "ecg_st_t": "ECG statement: abnormal repolarisation.",
}


def _group(task: str) -> str:
    if task.startswith("ecg_"):
        return "ecg"
    return "control" if task in _CONTROLS else "physiology"


TASKS: dict[str, Task] = {
    name: Task(name, (name,), "binary", group=_group(name), about=about) for name, about in _ABOUT.items()
}


def sample_labels(patient: Patient, rng: np.random.Generator) -> dict[str, float]:
    """Draw the labels of one visit by the rules in the module's docstring.

    Args:
        patient: the latent state.
        rng: the stream of this visit's labels.

    Returns:
        0.0 or 1.0 for each of `TASKS`.
    """
    truth = _read(_OVERT, patient, noise=_READER_NOISE, rng=rng)
    truth |= {name: getattr(patient, name) for name in _CONTROLS}
    truth |= {
        "ecg_atrial_fibrillation": patient.rhythm == "atrial_fibrillation",
        "ecg_left_bundle_block": patient.conduction == "lbbb",
        "ecg_right_bundle_block": patient.conduction == "rbbb",
    }
    truth |= _read(_STATEMENTS, patient, noise=_STATEMENT_NOISE, rng=rng)
    error = rng.uniform(size=len(TASKS))
    return {
        name: float(truth[name] != (u < (_MISSED if truth[name] else _FALSELY_CALLED)))
        for name, u in zip(TASKS, error, strict=True)
    }


def _read(
    rules: dict[str, tuple[Callable[[Patient], float], float]],
    patient: Patient,
    *,
    noise: float,
    rng: np.random.Generator,
) -> dict[str, bool]:
    """Say which traits a reader calls overt, each seen through an error of its own."""
    seen = noise * rng.standard_normal(len(rules))
    return {
        name: bool(trait(patient) + e > limit) for (name, (trait, limit)), e in zip(rules.items(), seen, strict=True)
    }
