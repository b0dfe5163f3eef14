"""The labels of the simulated cohort: what a reader would write down, with a reader's errors.

A trait is overt when its severity, seen through a reader's error, passes a threshold:

    lvh_or_dilation = max(lv_dilation, lv_hypertrophy)        + .30 e > 1.35   (the composite of CheXchoNet)
    heart_failure   = (congestion + .5 lv_dilation) / 1.36    + .30 e > 1.00
    renal_failure   = renal_dysfunction                       + .30 e > 1.00
    infection       = infection                               + .30 e > 0.90
    copd            = hyperinflation                          + .30 e > 1.00

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
}

TASKS: dict[str, Task] = {
    name: Task(name, (name,), "binary", group="control" if name in _CONTROLS else "physiology", about=about)
    for name, about in _ABOUT.items()
}


def sample_labels(patient: Patient, rng: np.random.Generator) -> dict[str, float]:
    """Draw the labels of one visit by the rules in the module's docstring.

    Args:
        patient: the latent state.
        rng: the stream of this visit's labels.

    Returns:
        0.0 or 1.0 for each of `TASKS`.
    """
    noise = _READER_NOISE * rng.standard_normal(len(_OVERT))
    error = rng.uniform(size=len(TASKS))
    truth = {name: trait(patient) + e > limit for (name, (trait, limit)), e in zip(_OVERT.items(), noise, strict=True)}
    truth |= {name: getattr(patient, name) for name in _CONTROLS}
    return {
        name: float(truth[name] != (u < (_MISSED if truth[name] else _FALSELY_CALLED)))
        for name, u in zip(TASKS, error, strict=True)
    }
