import numpy as np
import pandas as pd
import pytest

from pacx.data.phantom.latents import SEVERITIES, random_stream, sample_patient


@pytest.fixture(scope="module")
def cohort():
    return pd.DataFrame([vars(sample_patient(index, seed=3)) for index in range(4000)])


def test_every_severity_has_mean_0_and_standard_deviation_1(cohort):
    assert cohort[list(SEVERITIES)].mean().abs().max() < 0.07
    assert (cohort[list(SEVERITIES)].std() - 1).abs().max() < 0.05


def test_causes_raise_their_effects(cohort):
    correlation = cohort[["age", "bmi", *SEVERITIES]].corr()
    for cause, effect, low in (
        ("lv_dilation", "congestion", 0.5),
        ("renal_dysfunction", "congestion", 0.35),
        ("age", "renal_dysfunction", 0.35),
        ("bmi", "lv_hypertrophy", 0.12),
        ("hyperinflation", "infection", 0.15),
    ):
        assert correlation.loc[cause, effect] > low, (cause, effect)
    assert correlation.loc["bmi", "hyperinflation"] < -0.1


def test_fibrillation_comes_with_age_and_left_block_with_dilation(cohort):
    fibrillates = cohort["rhythm"] == "atrial_fibrillation"
    assert 0.05 < fibrillates.mean() < 0.15
    assert cohort.loc[fibrillates, "age"].mean() > cohort["age"].mean() + 6
    assert cohort.loc[cohort["conduction"] == "lbbb", "lv_dilation"].mean() > 0.5
    assert cohort.loc[cohort["conduction"] == "rbbb", "hyperinflation"].mean() > 0.2


def test_controls_are_independent_of_physiology(cohort):
    controls = cohort[["nodule", "rib_fracture", "device"]].astype(float)
    causes = cohort[["age", "bmi", *SEVERITIES]]
    # 24 correlations of 4000 draws each: 4 standard errors are 0.063
    assert max(causes.corrwith(controls[name]).abs().max() for name in controls) < 0.063


def test_a_patient_does_not_depend_on_who_was_drawn_before():
    alone = sample_patient(17, seed=5)
    for index in range(3):
        sample_patient(index, seed=5)
    assert sample_patient(17, seed=5) == alone
    assert sample_patient(17, seed=6) != alone


def test_visits_of_one_patient_differ_in_congestion_and_infection_only():
    first, second = (vars(sample_patient(8, seed=0, visit=visit)) for visit in (0, 1))
    assert {name for name in first if first[name] != second[name]} == {"congestion", "infection"}


def test_streams_of_different_purposes_are_independent():
    a, b = (random_stream(purpose, 0, 1).standard_normal(4000) for purpose in ("ecg", "labs"))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06
    np.testing.assert_array_equal(a[:5], random_stream("ecg", 0, 1).standard_normal(5))
