from itertools import combinations

import numpy as np
import pytest
from ecg_records import PTBXL, record

from pacx.data.ecg.leads import LEADS, LIMB, contradiction, derive_limb_leads, lead_name, runs_against_v6


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        ("I", ("I", 1)), ("ii", ("II", 1)), ("AVR", ("aVR", 1)), (" avf ", ("aVF", 1)), ("v6", ("V6", 1)),
        ("MDC_ECG_LEAD_I", ("I", 1)), ("MDC_ECG_LEAD_AVF", ("aVF", 1)), ("ECG I", ("I", 1)), ("ecg-II", ("II", 1)),
        ("lead_ii", ("II", 1)), ("Lead V1", ("V1", 1)), ("LeadV3", ("V3", 1)), ("EKG.aVL", ("aVL", 1)),
        ("DII", ("II", 1)), ("D1", ("I", 1)), ("C4", ("V4", 1)),
        ("-aVR", ("aVR", -1)), ("−aVR", ("aVR", -1)), ("minus aVR", ("aVR", -1)), ("Lead -aVR", ("aVR", -1)),
        ("RESP", None), ("V7", None), ("V3R", None), ("MLII", None), ("II rhythm", None), ("", None), ("-", None),
        ("IV", None), ("lead", None), ("column 1", None),
    ],
)  # fmt: skip
def test_names_of_many_devices_are_understood_and_others_left_alone(spelled, meant):
    assert lead_name(spelled) == meant


@pytest.mark.parametrize("pair", list(combinations(LIMB, 2)))
def test_any_two_limb_leads_give_the_other_four(pair):
    x = dict(zip(LEADS, record(), strict=True))
    leads = {name: x[name] for name in (*pair, *LEADS[6:])}
    derived = derive_limb_leads(leads)
    assert derived == tuple(name for name in LIMB if name not in pair)
    for name in LEADS:
        np.testing.assert_allclose(leads[name], x[name], atol=1e-12)


def test_what_was_unmeasured_in_a_source_is_unmeasured_in_what_follows_from_it():
    leads = {name: lead for name, lead in zip(LEADS, record(), strict=True) if name != "III"}
    leads["I"][100:110] = np.nan
    derive_limb_leads(leads)
    assert np.isnan(leads["III"][100:110]).all()
    assert np.isnan(leads["III"]).sum() == 10


@pytest.mark.parametrize("pair", list(combinations(range(6), 2)))
def test_each_exchange_of_two_limb_leads_is_noticed_and_named(pair):
    x = record()
    assert contradiction(dict(zip(LIMB, x, strict=False))) is None
    order = list(range(6))
    order[pair[0]], order[pair[1]] = pair[1], pair[0]
    said = contradiction(dict(zip(LIMB, x[order], strict=False)))
    assert said.endswith(f"; exchanging {LIMB[pair[0]]} and {LIMB[pair[1]]} would make them fit")


@pytest.mark.parametrize("lead", range(6))
def test_an_inverted_limb_lead_is_noticed_and_named(lead):
    x = record()
    x[lead] *= -1
    assert f"inverting {LIMB[lead]} would" in contradiction(dict(zip(LIMB, x, strict=False)))


def test_the_share_that_does_not_fit_is_a_share_of_the_limb_leads():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3, 100_000))
    # Three leads of independent noise: two of three dimensions fit, so sqrt(1 / 3) = 58 % lie outside. Exchanging or
    # inverting cannot help.
    assert contradiction(dict(zip(LIMB, noise, strict=False))) == (
        "limb leads contradict each other (58% of them does not fit): names may be swapped"
    )


def test_two_leads_cannot_contradict_each_other_and_offsets_do_not_count():
    x = record()
    assert contradiction({"I": x[0], "II": x[5]}) is None
    assert contradiction(dict(zip(LIMB, x + np.arange(12)[:, None], strict=False))) is None


def test_exchanged_arm_electrodes_fit_each_other_but_run_against_v6():
    t = np.arange(5000) / 500
    beat = np.exp(-(((t % 0.8) - 0.3) ** 2) / 0.0002)
    one, two = 0.8 * beat, 1.1 * beat
    limb = {"I": one, "II": two, "III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2, "aVF": two - one / 2}
    assert not runs_against_v6(limb | {"V6": 1.3 * beat})
    exchanged = {"I": -one, "II": limb["III"], "III": two, "aVR": limb["aVL"], "aVL": limb["aVR"], "aVF": limb["aVF"]}
    assert contradiction(exchanged) is None
    assert runs_against_v6(exchanged | {"V6": 1.3 * beat})


@pytest.mark.skipif(not PTBXL.is_dir(), reason="the open sample bundle (../shared/data) is not here")
def test_on_real_records_exchanges_are_noticed_and_nothing_else():
    import wfdb

    noticed, false, against, arms = [], 0, 0, 0
    files = sorted(PTBXL.glob("records100/*/*.hea"))[::8]
    for file in files:
        x = dict(zip(LEADS, wfdb.rdrecord(str(file.with_suffix(""))).p_signal.T, strict=True))
        limb = {name: x[name] for name in LIMB}
        false += contradiction(limb) is not None
        against += runs_against_v6(x)
        arms += runs_against_v6(x | {"I": -x["I"]})
        for a, b in combinations(LIMB, 2):
            said = contradiction(limb | {a: limb[b], b: limb[a]})
            noticed.append(said is not None)
            assert said is None or said.endswith(f"exchanging {a} and {b} would make them fit")
    assert false == 0
    assert np.mean(noticed) > 0.98
    assert against <= 1
    assert arms > 0.7 * len(files)
