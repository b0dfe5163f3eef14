import numpy as np
import pandas as pd
import pytest

from pacx.data.labs import PANEL
from pacx.data.phantom.blood import simulate_labs
from pacx.data.phantom.latents import SEVERITIES, random_stream, sample_patient

COUNT = 3000


@pytest.fixture(scope="module")
def patients():
    return [sample_patient(index, seed=1) for index in range(COUNT)]


@pytest.fixture(scope="module")
def latents(patients):
    return pd.DataFrame([vars(patient) for patient in patients])


@pytest.fixture(scope="module")
def labs(patients):
    return pd.DataFrame([simulate_labs(patient, random_stream("labs", 1, i)) for i, patient in enumerate(patients)])


def auroc(positive, score):
    known = score.notna()
    ranks = score[known].rank()
    positive = positive[known]
    num = positive.sum()
    return (ranks[positive].mean() - (num + 1) / 2) / (len(ranks) - num)


def test_names_order_and_plausibility_are_the_panels(labs):
    assert list(labs.columns) == [lab.name for lab in PANEL]
    for lab in PANEL:
        assert labs[lab.name].min() >= lab.low and labs[lab.name].max() <= lab.high


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("Sodium", 136, 141),
        ("Potassium", 3.9, 4.5),
        ("Creatinine", 0.8, 1.1),
        ("Urea Nitrogen", 14, 22),
        ("Hemoglobin", 11, 14),
        ("White Blood Cells", 7.5, 11),
        ("Platelet Count", 190, 250),
        ("Neutrophils", 65, 78),
        ("pH", 7.36, 7.42),
        ("pCO2", 37, 44),
        ("Lactate", 1.2, 2.1),
        ("Albumin", 3.2, 4.0),
        ("INR(PT)", 1.0, 1.3),
        ("MCV", 88, 92),
        ("Anion Gap", 12, 16),
        ("Glucose", 105, 150),
        ("RDW-SD", 43, 50),
    ],
)
def test_medians_are_those_of_a_hospital(labs, name, low, high):
    assert low <= labs[name].median() <= high


def test_blood_gas_obeys_henderson_hasselbalch(labs):
    gas = labs[["pH", "pCO2", "Calculated Total CO2"]].dropna()
    bicarbonate = gas["Calculated Total CO2"] - 0.0307 * gas["pCO2"]
    residual = gas["pH"] - 6.1 - np.log10(bicarbonate / (0.0307 * gas["pCO2"]))
    # rounding alone: pH to 0.01, total CO2 to 1 of about 25 mEq/L, pCO2 to 1 of about 40 mmHg
    assert len(gas) > 500 and residual.abs().max() < 0.035 and abs(residual.mean()) < 0.001


def test_electrolytes_red_cells_and_differential_are_consistent(labs):
    salt = labs["Sodium"] + labs["Potassium"] - labs["Chloride"] - labs["Bicarbonate"] - labs["Anion Gap"]
    assert salt.abs().max() <= 2.05
    assert (labs["Hemoglobin"] / labs["Hematocrit"] * 100 - labs["MCHC"]).abs().max() < 0.6
    assert (labs["Hematocrit"] / labs["Red Blood Cells"] * 10 - labs["MCV"]).abs().max() < 1.5
    assert (labs["Hemoglobin"] / labs["Red Blood Cells"] * 10 - labs["MCH"]).abs().max() < 0.6
    kinds = ["Neutrophil", "Lymphocyte", "Monocyte", "Eosinophil", "Basophil"]
    percent = labs[[f"{kind}s" for kind in kinds] + ["Immature Granulocytes"]].dropna()
    assert (percent.sum(axis=1) - 100).abs().max() < 0.35
    for kind in kinds:
        count = labs[f"{kind}s"] / 100 * labs["White Blood Cells"]
        difference = (labs[f"Absolute {kind} Count"] - count).abs()
        assert (difference < 0.01 + 0.001 * labs["White Blood Cells"] + 0.01 * count)[difference.notna()].all()


def test_labs_that_belong_together_move_together(labs):
    correlation = labs.corr(method="spearman")
    for a, b, low in (
        ("Hemoglobin", "Hematocrit", 0.9),
        ("Sodium", "Chloride", 0.6),
        ("Urea Nitrogen", "Creatinine", 0.6),
        ("Alanine Aminotransferase (ALT)", "Asparate Aminotransferase (AST)", 0.6),
        ("INR(PT)", "PT", 0.9),
        ("Bilirubin, Total", "I", 0.7),
        ("Bicarbonate", "Calculated Total CO2", 0.8),
    ):
        assert correlation.loc[a, b] > low, (a, b)
    assert correlation.loc["Neutrophils", "Lymphocytes"] < -0.7


def test_labs_follow_the_latents(labs, latents):
    correlation = pd.concat([labs, latents[list(SEVERITIES)]], axis=1).corr(method="spearman")
    for lab, severity, sign in (
        ("Creatinine", "renal_dysfunction", 1),
        ("Urea Nitrogen", "renal_dysfunction", 1),
        ("Potassium", "renal_dysfunction", 1),
        ("Phosphate", "renal_dysfunction", 1),
        ("Bicarbonate", "renal_dysfunction", -1),
        ("Hemoglobin", "renal_dysfunction", -1),
        ("White Blood Cells", "infection", 1),
        ("Neutrophils", "infection", 1),
        ("Immature Granulocytes", "infection", 1),
        ("Lactate", "infection", 1),
        ("Sodium", "congestion", -1),
        ("Bilirubin, Total", "congestion", 1),
        ("Alanine Aminotransferase (ALT)", "congestion", 1),
        ("pCO2", "hyperinflation", 1),
        ("Calculated Total CO2", "hyperinflation", 1),
        ("Bicarbonate", "hyperinflation", 1),
    ):
        assert sign * correlation.loc[lab, severity] > 0.15, (lab, severity)


def test_creatinine_tells_kidney_failure(labs, latents):
    assert 0.8 < auroc(latents["renal_dysfunction"] > 1.0, labs["Creatinine"]) < 1.0


def test_seven_in_ten_are_measured_and_more_in_the_sick(labs, latents):
    observed = labs.notna()
    assert 0.67 < observed.to_numpy().mean() < 0.73
    sickness = latents[["congestion", "infection", "renal_dysfunction"]].clip(lower=0).sum(axis=1)
    sick, well = observed[sickness > sickness.quantile(0.8)], observed[sickness < sickness.quantile(0.2)]
    assert sick.to_numpy().mean() > well.to_numpy().mean() + 0.15
    for gas in ("pH", "Lactate"):
        assert sick[gas].mean() > 2.5 * well[gas].mean()
    assert observed["Hemoglobin"].mean() > 0.95


def test_the_same_stream_gives_the_same_blood(patients):
    first, second = (simulate_labs(patients[0], random_stream("labs", 9)) for _ in range(2))
    np.testing.assert_equal(first, second)
