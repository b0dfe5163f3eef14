from dataclasses import replace

import numpy as np
import pytest

from pacx.data.ecg import LEADS
from pacx.data.phantom.heart import cardiac_dipole, project, simulate_ecg
from pacx.data.phantom.latents import Patient, random_stream

HEALTHY = Patient(
    patient_id="P",
    age=55.0,
    sex="M",
    height=175.0,
    bmi=25.0,
    lv_dilation=0.0,
    lv_hypertrophy=0.0,
    congestion=0.0,
    hyperinflation=0.0,
    renal_dysfunction=0.0,
    infection=0.0,
    rhythm="sinus",
    conduction="normal",
    nodule=False,
    rib_fracture=False,
    device=False,
)


def dipoles(count=12, **change):
    patient = replace(HEALTHY, **change)
    return [cardiac_dipole(patient, random_stream("ecg", number)) for number in range(count)]


def conducted_beats(dipole):
    """Leads around each conducted R peak that lies well inside the record: (12, 2 s) at 500 Hz, peak at 0.5 s."""
    leads = project(dipole)
    peaks = (dipole.beats[~dipole.ectopic] * 500).astype(int)
    return [leads[:, peak - 250 : peak + 250] for peak in peaks if 250 <= peak <= 4750]


def qrs_duration(dipole):
    """Seconds during which the 12 leads together move faster than 20 mV/s, around one conducted R peak."""
    beat = conducted_beats(dipole)[0][:, 210:325]
    speed = np.linalg.norm(np.diff(beat, axis=1), axis=0) * 500
    fast = np.flatnonzero(speed > 20.0)
    return (fast[-1] - fast[0] + 1) / 500


def sokolow_lyon(dipole):
    beat = dict(zip(LEADS, conducted_beats(dipole)[0][:, 200:300], strict=True))
    return -beat["V1"].min() + max(beat["V5"].max(), beat["V6"].max())


def lead(leads, name):
    return leads[LEADS.index(name)]


@pytest.mark.parametrize("disturbed", [False, True])
def test_limb_leads_obey_einthoven_and_goldberger(disturbed):
    leads = simulate_ecg(HEALTHY, random_stream("ecg", 1)) if disturbed else project(dipoles(1)[0])
    assert leads.shape == (12, 5000) and leads.dtype == np.float32
    one, two, three = (lead(leads, name) for name in ("I", "II", "III"))
    np.testing.assert_allclose(one + three, two, atol=1e-5)
    np.testing.assert_allclose(lead(leads, "aVR"), -(one + two) / 2, atol=1e-5)
    np.testing.assert_allclose(lead(leads, "aVL"), (one - three) / 2, atol=1e-5)
    np.testing.assert_allclose(lead(leads, "aVF"), (two + three) / 2, atol=1e-5)


def test_a_healthy_ecg_looks_as_in_the_textbook():
    axes = []
    for dipole in dipoles(20):
        beat = conducted_beats(dipole)[0]
        qrs, after = beat[:, 215:290], beat[:, 330:420]
        assert lead(qrs, "V1").min() < -lead(qrs, "V1").max(), "rS in V1"
        assert lead(qrs, "V5").max() > -lead(qrs, "V5").min(), "R in V5"
        assert lead(qrs, "aVR").min() < -lead(qrs, "aVR").max(), "aVR points away"
        assert lead(after, "II").max() > 0.05 and lead(after, "V5").max() > 0.05, "upright T"
        axes.append(np.degrees(np.arctan2(lead(qrs, "aVF").sum() * 2 / np.sqrt(3), lead(qrs, "I").sum())))
    assert 10 < np.median(axes) < 75, "normal electrical axis"
    rates = [60 / np.diff(dipole.beats).mean() for dipole in dipoles(20)]
    assert 60 < np.mean(rates) < 85


def test_healthy_qrs_is_narrow_and_bundle_branch_blocks_are_wide():
    narrow = [qrs_duration(dipole) for dipole in dipoles()]
    assert 0.07 < np.median(narrow) < 0.11 and max(narrow) < 0.12
    for block in ("lbbb", "rbbb"):
        assert min(qrs_duration(dipole) for dipole in dipoles(conduction=block)) > 0.12, block


def test_left_block_is_negative_in_v1_and_right_block_ends_positive_there():
    for dipole in dipoles(conduction="lbbb"):
        qrs = lead(conducted_beats(dipole)[0][:, 200:320], "V1")
        assert -qrs.min() > 3 * qrs.max()
    for dipole in dipoles(conduction="rbbb"):
        late = conducted_beats(dipole)[0][:, 270:295]
        assert lead(late, "V1").max() > 0.15 and lead(late, "V6").min() < -0.05


def test_sokolow_lyon_voltage_grows_with_hypertrophy():
    means = [np.mean([sokolow_lyon(d) for d in dipoles(lv_hypertrophy=severity)]) for severity in (-1.0, 0.5, 2.0)]
    assert means[0] < means[1] < means[2]
    assert means[0] < 2.8 and means[2] > 3.5, "the criterion is 3.5 mV"


def test_strain_turns_t_in_v6():
    def t_wave(dipole):
        return np.mean([lead(beat, "V6")[355:385].mean() for beat in conducted_beats(dipole)])

    assert np.mean([t_wave(dipole) for dipole in dipoles()]) > 0.05
    assert np.mean([t_wave(dipole) for dipole in dipoles(lv_hypertrophy=2.5)]) < -0.05


def test_fibrillation_is_irregular_and_has_no_p_wave():
    def spread(dipole):
        return np.diff(dipole.beats).std() / np.diff(dipole.beats).mean()

    def p_wave(dipole):  # repeats from beat to beat before QRS, fibrillation waves do not
        beats = np.mean([lead(beat, "II")[150:215] for beat in conducted_beats(dipole)], axis=0)
        return beats.max() - beats[0]

    sinus, fibrillation = dipoles(lv_dilation=-3.0), dipoles(rhythm="atrial_fibrillation", lv_dilation=-3.0)
    assert max(map(spread, sinus)) < 0.09
    assert min(map(spread, fibrillation)) > 0.10
    assert np.mean([p_wave(d) for d in sinus]) > 2 * np.mean([p_wave(d) for d in fibrillation])


def test_infection_speeds_the_heart_up():
    def rate(**change):
        return np.mean([60 / np.diff(dipole.beats).mean() for dipole in dipoles(**change)])

    assert rate(infection=2.5) > rate() + 20


@pytest.mark.parametrize("change", [{"hyperinflation": 2.5}, {"congestion": 2.5}, {"bmi": 45.0}])
def test_air_fluid_and_fat_lower_the_voltage(change):
    def voltage(**change):
        return np.mean([np.linalg.norm(dipole.vector, axis=0).max() for dipole in dipoles(**change)])

    assert voltage(**change) < 0.9 * voltage()


def test_hyperinflation_turns_the_axis_down_and_body_mass_up():
    def axis(**change):
        qrs = [conducted_beats(dipole)[0][:, 215:290] for dipole in dipoles(**change)]
        return np.mean([np.degrees(np.arctan2(lead(q, "aVF").sum(), lead(q, "I").sum())) for q in qrs])

    assert axis(hyperinflation=2.0) > axis() + 10 > axis(bmi=40.0) + 20


def test_kidney_failure_makes_t_tall():
    def t_height(**change):
        return np.mean([lead(conducted_beats(d)[0], "V4")[330:420].max() for d in dipoles(**change)])

    assert t_height(renal_dysfunction=3.0) > 1.3 * t_height()


def test_dilation_brings_extrasystoles():
    count = sum(dipole.ectopic.sum() for dipole in dipoles(lv_dilation=2.5))
    assert count > 5 > sum(dipole.ectopic.sum() for dipole in dipoles(lv_dilation=-2.0))


def test_disturbance_is_small_beside_the_heart():
    patient = replace(HEALTHY, bmi=24.0)
    for number in range(10):
        leads = simulate_ecg(patient, random_stream("ecg", number))
        assert np.isfinite(leads).all() and np.abs(leads).max() < 6.0
        noise = np.median(np.abs(np.diff(leads, axis=1)), axis=1)
        assert (noise < 0.08).all() and (noise > 1e-4).all()
