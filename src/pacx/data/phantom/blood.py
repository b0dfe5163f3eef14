"""The simulated blood: 50 laboratory values that follow the latents.

Each lab is normal or log-normal around a mean that the latents shift. What is bound together in a body or a laboratory
is bound here:

* **Blood gas**: pCO2 rises with hyperinflation and falls with infection; bicarbonate falls with renal dysfunction and
  lactate and follows pCO2; pH = 6.1 + log10(bicarbonate / (0.0307 pCO2)) (Henderson-Hasselbalch), the total CO2 is
  bicarbonate + 0.0307 pCO2, the base excess comes from Siggaard-Andersen's van Slyke equation with Hb in g/dL:
  BE = (1 - 0.014 Hb) (bicarbonate - 24.8 + (1.43 Hb + 7.7) (pH - 7.4)).
* **Electrolytes**: chloride = sodium + potassium - bicarbonate - anion gap.
* **Red cells**: haematocrit = haemoglobin / MCHC, red cell count = haematocrit / MCV, MCH = MCV MCHC.
* **White cells**: percentages come from one softmax and sum to 100 with the immature granulocytes; absolute counts are
  percentage x white cell count.
* **Clotting**: PT follows INR; half of those with atrial fibrillation take warfarin. **Heart**: congestion raises liver
  enzymes and bilirubin, lowers sodium. **Kidney**: creatinine, urea, potassium, phosphate up, haemoglobin and
  bicarbonate down. **Infection**: white cells, neutrophils, immature granulocytes, platelets, lactate up, albumin down.
* **Sample quality**: indices of haemolysis (H, raises potassium and AST a little), icterus (I, follows bilirubin) and
  lipaemia (L, follows body mass).

Values are rounded as a laboratory reports them, after all of the above, so the identities hold up to rounding.
Which of them were measured is decided by `orders.py`.
"""

from __future__ import annotations

import math

import numpy as np

from pacx.data.labs import PANEL
from pacx.data.phantom.latents import Patient
from pacx.data.phantom.orders import ordered_labs

__all__ = ["simulate_labs"]

_CO2_SOLUBILITY = 0.0307  # mmol/L per mmHg

# Digits after the decimal point, as MIMIC-IV's laboratory reports them; absent = whole numbers.
_DECIMALS = {
    "Lactate": 1,
    "pH": 2,
    "Albumin": 1,
    "Bilirubin, Total": 1,
    "Calcium, Total": 1,
    "Creatinine": 1,
    "Magnesium": 1,
    "Phosphate": 1,
    "Potassium": 1,
    "Absolute Lymphocyte Count": 2,
    "Basophils": 1,
    "Eosinophils": 1,
    "Hematocrit": 1,
    "Hemoglobin": 1,
    "INR(PT)": 1,
    "Lymphocytes": 1,
    "MCH": 1,
    "MCHC": 1,
    "Monocytes": 1,
    "Neutrophils": 1,
    "PT": 1,
    "PTT": 1,
    "RDW": 1,
    "Red Blood Cells": 2,
    "White Blood Cells": 1,
    "Absolute Basophil Count": 2,
    "Absolute Eosinophil Count": 2,
    "Absolute Monocyte Count": 2,
    "Absolute Neutrophil Count": 2,
    "Immature Granulocytes": 1,
    "RDW-SD": 1,
}


def simulate_labs(patient: Patient, rng: np.random.Generator) -> dict[str, float]:
    """Simulate one admission's laboratory values.

    Args:
        patient: the latent state.
        rng: the stream of this admission's blood.

    Returns:
        One value per lab of `pacx.data.labs.PANEL`, in its order and units; NaN = not measured.
    """
    values = _values(patient, rng)
    observed = ordered_labs(patient, rng)
    return {
        lab.name: min(max(round(values[lab.name], _DECIMALS.get(lab.name, 0)), lab.low), lab.high)
        if lab.name in observed
        else math.nan
        for lab in PANEL
    }


def _values(patient: Patient, rng: np.random.Generator) -> dict[str, float]:
    """All 50 values before rounding. Later groups may read what earlier ones wrote."""
    values: dict[str, float] = {}
    for group in (_red_cells, _white_cells, _liver_and_muscle, _kidney, _gas_and_electrolytes, _clotting):
        group(values, patient, rng)
    return values


def _red_cells(values: dict[str, float], patient: Patient, rng: np.random.Generator) -> None:
    e = rng.standard_normal(6)
    hemoglobin = (13.6 if patient.sex == "M" else 12.3) - 0.85 * _positive(patient.renal_dysfunction) + 1.5 * e[0]
    hemoglobin -= 0.3 * _positive(patient.infection) + 0.2 * _positive(patient.congestion)
    hemoglobin = max(hemoglobin + 0.35 * _positive(patient.hyperinflation), 5.0)
    mchc, mcv = 33.0 + 1.0 * e[1], 90.5 + 5.5 * e[2]
    hematocrit = 100.0 * hemoglobin / mchc
    illness = 0.2 * patient.renal_dysfunction + 0.2 * patient.congestion
    rdw = 12.2 + math.exp(0.45 + illness - 0.05 * (mcv - 90.5) + 0.5 * e[3])
    values["Hemoglobin"], values["MCHC"], values["MCV"], values["Hematocrit"] = hemoglobin, mchc, mcv, hematocrit
    values["Red Blood Cells"] = 10.0 * hematocrit / mcv
    values["MCH"] = mcv * mchc / 100.0
    values["RDW"] = min(rdw, 30.0)
    values["RDW-SD"] = values["RDW"] * mcv / 100.0 * 3.65 + 0.8 * e[4]  # SD at 20 % of the histogram's height
    reaction = 0.08 * patient.infection - 0.05 * patient.congestion
    values["Platelet Count"] = math.exp(math.log(222.0) + reaction + 0.36 * e[5])


def _white_cells(values: dict[str, float], patient: Patient, rng: np.random.Generator) -> None:
    e = rng.standard_normal(7)
    infection, sick = patient.infection, _positive(patient.infection)
    count = math.exp(math.log(8.2) + 0.08 * infection + 0.24 * sick + 0.30 * e[0])
    # Log weights: neutrophils, lymphocytes, monocytes, eosinophils, basophils, immature granulocytes.
    typical = np.log([68.0, 20.0, 7.5, 1.7, 0.5, 0.5])
    shift = infection * np.array([0.10, -0.10, 0.0, 0.0, 0.0, 0.0]) + sick * np.array(
        [0.25, -0.10, 0.0, -0.45, -0.20, 0.75]
    )
    weight = np.exp(typical + shift + np.array([0.16, 0.42, 0.30, 0.75, 0.45, 0.50]) * e[1:])
    percent = 100.0 * weight / weight.sum()
    values["White Blood Cells"] = count
    kinds = ("Neutrophil", "Lymphocyte", "Monocyte", "Eosinophil", "Basophil")
    for name, share in zip(kinds, percent[:5], strict=True):
        values[f"{name}s"] = float(share)
        values[f"Absolute {name} Count"] = float(share) * count / 100.0
    values["Immature Granulocytes"] = float(percent[5])


def _liver_and_muscle(values: dict[str, float], patient: Patient, rng: np.random.Generator) -> None:
    e = rng.standard_normal(9)
    back_pressure, sick = _positive(patient.congestion), _positive(patient.infection)
    leak = 0.28 * back_pressure + 0.10 * sick + 0.60 * e[0]  # liver cell damage, shared by both enzymes
    hemolysis = math.exp(math.log(7.0) + 0.9 * e[1])
    values["H"] = hemolysis
    values["Alanine Aminotransferase (ALT)"] = math.exp(math.log(22.0) + 1.15 * leak + 0.40 * e[2])
    values["Asparate Aminotransferase (AST)"] = math.exp(math.log(27.0) + 1.05 * leak + 0.30 * e[3]) + 0.08 * hemolysis
    values["Alkaline Phosphatase"] = math.exp(math.log(82.0) + 0.12 * back_pressure + 0.38 * e[4])
    values["Bilirubin, Total"] = math.exp(math.log(0.5) + 0.34 * back_pressure + 0.08 * sick + 0.48 * e[5])
    values["I"] = math.exp(math.log(1.0 + 1.1 * values["Bilirubin, Total"]) + 0.15 * e[6])
    values["L"] = math.exp(math.log(9.0) + 0.03 * (patient.bmi - 27.5) + 0.50 * e[7])
    albumin = 3.75 - 0.25 * sick - 0.12 * back_pressure - 0.15 * _positive(patient.renal_dysfunction) + 0.45 * e[8]
    values["Albumin"] = max(albumin, 1.2)
    values["Creatine Kinase (CK)"] = math.exp(
        math.log(110.0 if patient.sex == "M" else 80.0) + 0.12 * sick + 0.85 * rng.standard_normal()
    )


def _kidney(values: dict[str, float], patient: Patient, rng: np.random.Generator) -> None:
    e = rng.standard_normal(6)
    loss = _positive(patient.renal_dysfunction - 0.2)
    filtration = 0.10 * patient.renal_dysfunction + 0.52 * loss + 0.10 * e[0]  # shared by creatinine and urea
    values["Creatinine"] = math.exp(math.log(0.92 if patient.sex == "M" else 0.74) + filtration + 0.13 * e[1])
    prerenal = 0.16 * _positive(patient.congestion) + 0.08 * _positive(patient.infection) + 0.004 * (patient.age - 60.0)
    values["Urea Nitrogen"] = math.exp(math.log(15.0) + 0.85 * filtration + prerenal + 0.25 * e[2])
    values["Calcium, Total"] = 8.95 + 0.55 * (values["Albumin"] - 3.6) - 0.18 * loss + 0.42 * e[3]
    values["Phosphate"] = math.exp(math.log(3.3) + 0.17 * loss + 0.20 * e[4])
    values["Magnesium"] = max(1.95 + 0.10 * loss + 0.22 * e[5], 0.8)


def _gas_and_electrolytes(values: dict[str, float], patient: Patient, rng: np.random.Generator) -> None:
    e = rng.standard_normal(10)
    trapped, loss = _positive(patient.hyperinflation - 0.4), _positive(patient.renal_dysfunction - 0.2)
    sick, wet = _positive(patient.infection), _positive(patient.congestion)
    lactate = math.exp(math.log(1.35) + 0.26 * sick + 0.14 * wet + 0.34 * e[0])
    values["Lactate"] = lactate

    retention = 1.0 * patient.hyperinflation + 6.5 * trapped  # mmHg of pCO2 that the kidney has had time to answer
    acid = 1.6 * loss + 0.8 * (lactate - 1.35)
    bicarbonate = max(24.8 + 0.36 * retention - acid + 0.5 * wet + 1.9 * e[1], 6.0)
    # Breathing answers a metabolic acidosis: about 1 mmHg per mmol/L.
    pco2 = max(40.0 + retention - 2.0 * sick - 0.9 * (acid - 0.5) + 4.0 * e[2], 16.0)
    ph = 6.1 + math.log10(bicarbonate / (_CO2_SOLUBILITY * pco2))
    hemoglobin = values["Hemoglobin"]
    values["pCO2"], values["pH"] = pco2, ph
    values["Calculated Total CO2"] = bicarbonate + _CO2_SOLUBILITY * pco2
    values["Base Excess"] = (1.0 - 0.014 * hemoglobin) * (bicarbonate - 24.8 + (1.43 * hemoglobin + 7.7) * (ph - 7.4))
    values["pO2"] = max(math.exp(math.log(92.0) - 0.08 * trapped - 0.10 * sick - 0.08 * wet + 0.36 * e[3]), 25.0)

    # The chemistry analyser measures bicarbonate again, from another tube.
    values["Bicarbonate"] = bicarbonate + 0.9 * e[4]
    values["Sodium"] = 139.3 - 1.5 * wet + 0.3 * loss + 3.0 * e[5]
    potassium = 4.08 + 0.10 * patient.renal_dysfunction + 0.28 * loss + 0.34 * e[6] + 0.002 * values["H"]
    values["Potassium"] = max(potassium, 2.3)
    values["Anion Gap"] = max(13.2 + 0.9 * loss + 1.0 * (lactate - 1.35) + 1.8 * e[7], 5.0)
    values["Chloride"] = values["Sodium"] + values["Potassium"] - values["Bicarbonate"] - values["Anion Gap"]
    sugar = 0.012 * (patient.bmi - 27.5) + 0.10 * sick + 0.05 * e[8]
    values["Glucose"] = math.exp(math.log(112.0) + sugar + 0.36 * abs(e[9]) - 0.08)


def _clotting(values: dict[str, float], patient: Patient, rng: np.random.Generator) -> None:
    e = rng.standard_normal(3)
    warfarin = patient.rhythm == "atrial_fibrillation" and rng.uniform() < 0.5
    inr = math.exp(math.log(1.12) + 0.07 * _positive(patient.congestion) + 0.09 * e[0])
    if warfarin:
        inr = math.exp(math.log(2.3) + 0.25 * e[0])
    values["INR(PT)"] = max(inr, 0.8)
    values["PT"] = 11.0 * values["INR(PT)"] ** 0.97 + 0.25 * e[1]
    values["PTT"] = math.exp(math.log(29.5) + 0.25 * math.log(values["INR(PT)"]) + 0.14 * e[2])


def _positive(severity: float) -> float:
    return max(severity, 0.0)
