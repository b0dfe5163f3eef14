"""Who gets which blood test: missing not at random.

Labs are ordered in panels. Each panel is ordered with probability logistic(base + slope x sickness), where sickness is
the sum of the severities above average of congestion, infection, kidney and (less) lungs, and each item of an ordered
panel is there with a probability of its own. Blood gas and lactate are for the sick, a blood count for nearly all;
about 70 % of all entries are observed, as in Symile-MIMIC.
"""

from __future__ import annotations

import math

import numpy as np

from pacx.data.phantom.latents import Patient

__all__ = ["ordered_labs"]

# Panel: (base, slope of sickness, items with their probability given that the panel was ordered).
_ORDERS: dict[str, tuple[float, float, dict[str, float]]] = {
    "blood count": (
        4.0,
        0.5,
        {
            "Hematocrit": 1.0,
            "Hemoglobin": 1.0,
            "MCH": 1.0,
            "MCHC": 1.0,
            "MCV": 1.0,
            "Platelet Count": 1.0,
            "RDW": 1.0,
            "Red Blood Cells": 1.0,
            "White Blood Cells": 1.0,
            "RDW-SD": 0.72,
        },
    ),
    "differential": (
        0.6,
        0.6,
        {
            "Basophils": 1.0,
            "Eosinophils": 1.0,
            "Lymphocytes": 1.0,
            "Monocytes": 1.0,
            "Neutrophils": 1.0,
            "Immature Granulocytes": 0.72,
            "Absolute Lymphocyte Count": 0.78,
            "Absolute Basophil Count": 0.78,
            "Absolute Eosinophil Count": 0.78,
            "Absolute Monocyte Count": 0.78,
            "Absolute Neutrophil Count": 0.78,
        },
    ),
    "basic metabolic": (
        3.8,
        0.5,
        {
            "Sodium": 1.0,
            "Potassium": 1.0,
            "Chloride": 1.0,
            "Bicarbonate": 1.0,
            "Anion Gap": 0.99,
            "Urea Nitrogen": 1.0,
            "Creatinine": 1.0,
            "Glucose": 0.99,
        },
    ),
    "minerals": (2.0, 0.6, {"Calcium, Total": 0.97, "Magnesium": 0.98, "Phosphate": 0.96}),
    "indices": (0.2, 0.1, {"H": 1.0, "I": 1.0, "L": 1.0}),
    "liver": (
        0.2,
        0.8,
        {
            "Alanine Aminotransferase (ALT)": 1.0,
            "Asparate Aminotransferase (AST)": 1.0,
            "Alkaline Phosphatase": 0.98,
            "Bilirubin, Total": 0.98,
            "Albumin": 0.72,
        },
    ),
    "clotting": (1.3, 0.5, {"INR(PT)": 1.0, "PT": 1.0, "PTT": 0.95}),
    "muscle": (-1.4, 0.5, {"Creatine Kinase (CK)": 1.0}),
    "blood gas": (
        -1.3,
        1.4,
        {"Base Excess": 1.0, "Calculated Total CO2": 1.0, "pCO2": 1.0, "pH": 1.0, "pO2": 0.97},
    ),
    "lactate": (-0.7, 1.4, {"Lactate": 1.0}),
}
_NUM_LABS = sum(len(items) for _, _, items in _ORDERS.values())


def ordered_labs(patient: Patient, rng: np.random.Generator) -> set[str]:
    """Draw which labs were measured; the sicker the patient, the more.

    Args:
        patient: the latent state.
        rng: the stream of this admission's blood.

    Returns:
        Names of the measured labs.
    """
    severities = (patient.congestion, patient.infection, patient.renal_dysfunction, 0.7 * patient.hyperinflation)
    sickness = float(np.clip(sum(max(severity, 0.0) for severity in severities) - 1.3, -1.3, 2.5))
    u = rng.uniform(size=len(_ORDERS))
    v = iter(rng.uniform(size=_NUM_LABS))
    observed = set()
    for (base, slope, items), chance in zip(_ORDERS.values(), u, strict=True):
        ordered = chance < 1.0 / (1.0 + math.exp(-(base + slope * sickness)))
        observed |= {name for name, share in items.items() if next(v) < share and ordered}
    return observed
