import numpy as np
import pytest
from ecg_records import MIMIC, PTBXL, record

import pacx
from pacx.data.ecg import LEADS, EcgError, read_ecg
from pacx.data.ecg.recipe import prepare_ecg


def test_leads_are_ordered_by_name_whatever_their_order_and_spelling():
    x = record()
    shuffled = [*reversed([LEADS.index(name) for name in MIMIC])]
    spelled = [{"aVR": "AVR", "V1": "Lead V1", "II": "ii"}.get(LEADS[i], LEADS[i]) for i in shuffled]
    ecg = read_ecg(x[shuffled], leads=spelled, rate=500, unit="mV")
    np.testing.assert_allclose(ecg.signal, x, atol=1e-6)
    assert ecg.steps == ()
    assert ecg.derived == ()


def test_missing_limb_leads_are_derived_from_I_and_II():
    x = record()
    keep = [0, 1, 6, 7, 8, 9, 10, 11]
    ecg = read_ecg(x[keep], leads=[LEADS[i] for i in keep], rate=500, unit="mV")
    np.testing.assert_allclose(ecg.signal, x, atol=1e-6)
    assert ecg.derived == ("III", "aVR", "aVL", "aVF")
    assert "derived: III, aVR, aVL, aVF" in ecg.steps


@pytest.mark.parametrize("absent", ["I", "II"])
def test_I_or_II_follows_from_the_other_and_III(absent):
    x = record()
    keep = [i for i, name in enumerate(LEADS) if name != absent]
    ecg = read_ecg(x[keep], leads=[LEADS[i] for i in keep], rate=500, unit="mV")
    np.testing.assert_allclose(ecg.signal, x, atol=1e-6)
    assert ecg.derived == (absent,)


def test_a_missing_chest_lead_is_refused_by_name():
    keep = [i for i in range(12) if i != 8]
    with pytest.raises(EcgError, match=r"Leads V3 are missing \(found: I, II"):
        read_ecg(record()[keep], leads=[LEADS[i] for i in keep], rate=500, unit="mV")


def test_a_lead_given_twice_is_refused():
    with pytest.raises(EcgError, match="Lead V1 is given twice"):
        read_ecg(record(), leads=[*LEADS[:6], "V1", "v1", *LEADS[8:]], rate=500, unit="mV")


def test_a_lead_of_nan_only_counts_as_missing_and_is_derived():
    x = record()
    broken = x.copy()
    broken[4] = np.nan
    ecg = read_ecg(broken, leads=LEADS, rate=500, unit="mV")
    np.testing.assert_allclose(ecg.signal, x, atol=1e-6)
    assert ecg.derived == ("aVL",)


def test_other_channels_are_left_out_and_said_so():
    x = np.vstack([record(), np.ones((1, 5000))])
    ecg = read_ecg(x, leads=[*LEADS, "RESP"], rate=500, unit="mV")
    assert ecg.signal.shape == (12, 5000)
    assert ecg.steps == ("ignored channels: RESP",)
    assert ecg.ignored == ("RESP",)


@pytest.mark.parametrize(("unit", "factor"), [("V", 1e3), ("mV", 1.0), ("uV", 1e-3), ("nV", 1e-6)])
def test_every_unit_becomes_millivolts(unit, factor):
    ecg = read_ecg(record() / factor, leads=LEADS, rate=500, unit=unit)
    np.testing.assert_allclose(ecg.signal, record(), atol=1e-5)


def test_an_unknown_unit_is_refused():
    with pytest.raises(EcgError, match=r"has the unit 'adu'; known are V, mV, uV and nV. Give unit=.*relative"):
        read_ecg(record(), leads=LEADS, rate=500, unit="adu")


def test_unmeasured_samples_become_the_median_and_are_counted():
    x = record()
    x[3, 100:110] = np.nan
    x[8, 7] = np.inf
    ecg = read_ecg(x, leads=LEADS, rate=500, unit="mV")
    assert ecg.missing == 11
    assert ecg.steps == ("unmeasured samples: 11",)
    np.testing.assert_allclose(ecg.signal[3, 100:110], np.nanmedian(x[3]), atol=1e-6)
    np.testing.assert_allclose(ecg.signal[8, 7], np.nanmedian(np.where(np.isinf(x[8]), np.nan, x[8])), atol=1e-6)


def test_a_record_measured_for_two_seconds_only_is_refused():
    x = record()
    x[:, 1000:] = np.nan
    with pytest.raises(EcgError, match=r"Only 2\.00 s are measured"):
        read_ecg(x, leads=LEADS, rate=500, unit="mV")


def test_three_constant_chest_leads_are_named():
    x = record()
    x[[7, 9, 11]] = 0.25
    ecg = read_ecg(x, leads=LEADS, rate=500, unit="mV")
    assert ecg.flat == ("V2", "V4", "V6")
    assert ecg.steps == ("flat: V2, V4, V6",)
    np.testing.assert_allclose(ecg.signal[7], 0.25)


def test_constant_limb_leads_are_computed_where_two_of_the_first_three_vary():
    x = record()
    x[[2, 4, 5]] = 0
    ecg = read_ecg(x, leads=LEADS, rate=500, unit="mV")
    assert ecg.flat == ecg.derived == ("III", "aVL", "aVF")
    assert ecg.steps == ("flat: III, aVL, aVF", "derived: III, aVL, aVF")
    np.testing.assert_allclose(ecg.signal, record(), atol=1e-6)


def test_limb_leads_of_an_electrode_that_was_off_stay_flat():
    x = record()
    x[[0, 2]] = 0  # left arm off: only II is left of the three
    ecg = read_ecg(x, leads=LEADS, rate=500, unit="mV")
    assert (ecg.flat, ecg.derived) == (("I", "III"), ())
    assert (ecg.signal[[0, 2]] == 0).all()


@pytest.mark.parametrize("flat", [[6, 7, 8, 9, 10, 11], [0, 1, 2, 3, 4, 5], [0, 1, 6, 7, 8, 9, 10]])
def test_more_than_six_constant_leads_or_a_whole_plane_are_refused(flat):
    x = record()
    x[flat] = 0
    with pytest.raises(EcgError, match=r"are constant\. At most six may be"):
        read_ecg(x, leads=LEADS, rate=500, unit="mV")


def test_twelve_constant_leads_are_refused():
    with pytest.raises(EcgError, match="All 12 leads are constant"):
        read_ecg(np.ones((12, 5000)), leads=LEADS, rate=500, unit="mV")


def test_swapped_names_are_noticed_and_an_offset_is_not():
    swapped = read_ecg(record()[[1, 0, *range(2, 12)]], leads=LEADS, rate=500, unit="mV")
    assert swapped.steps[0].startswith("limb leads contradict each other")
    assert swapped.steps[0].endswith("exchanging I and II would make them fit")
    mimic_by_position = read_ecg(record()[[LEADS.index(name) for name in MIMIC]], leads=LEADS, rate=500, unit="mV")
    assert mimic_by_position.steps[0].endswith("exchanging aVL and aVF would make them fit")
    offset = read_ecg(record() + np.arange(12)[:, None] / 2, leads=LEADS, rate=500, unit="mV")
    assert offset.steps == ()


def test_contradictions_are_sought_in_recorded_leads_only():
    x = record()
    x[2] = 0
    assert read_ecg(x, leads=LEADS, rate=500, unit="mV").steps == ("flat: III", "derived: III")


def test_the_cabrera_order_with_its_inverted_avr_is_read_by_name():
    order = ["aVL", "I", "-aVR", "II", "aVF", "III", *LEADS[6:]]
    x = dict(zip(LEADS, record(), strict=True)) | {"-aVR": -record()[3]}
    ecg = read_ecg(np.stack([x[name] for name in order]), leads=order, rate=500, unit="mV")
    np.testing.assert_allclose(ecg.signal, record(), atol=1e-6)
    assert ecg.inverted == ("aVR",)
    assert ecg.steps == ("inverted: aVR",)


def test_a_lead_copied_into_another_is_noticed():
    x = record()
    x[7] = x[6]
    assert read_ecg(x, leads=LEADS, rate=500, unit="mV").steps == ("V1 and V2 are identical",)


def test_an_end_without_signal_is_said():
    x = record()
    x[:, 2500:] = 0
    assert read_ecg(x, leads=LEADS, rate=500, unit="mV").steps == ("the last 5.00 s hold no signal",)


def test_eight_leads_serve_when_they_are_the_right_ones():
    x = record()
    other = ["I", "V1", "V2", "V3", "V4", "V5", "V6", "RESP"]
    with pytest.raises(EcgError, match=r"Leads II, III, aVR, aVL, aVF are missing \(found: I, V1.*two limb leads"):
        read_ecg(x[:8], leads=other, rate=500, unit="mV")
    with pytest.raises(EcgError, match=r"Leads V5, V6 are missing"):
        read_ecg(x[:8], leads=["I", "II", "III", "aVR", "V1", "V2", "V3", "V4"], rate=500, unit="mV")


@pytest.mark.parametrize("factor", [1000, 0.001])
def test_voltages_that_no_heart_makes_are_refused(factor):
    with pytest.raises(EcgError, match="the unit is probably wrong"):
        read_ecg(record() * factor, leads=LEADS, rate=500, unit="mV")


@pytest.mark.parametrize(("unit", "scale"), [("mV", 1.0), ("relative", 0.1)])
def test_a_lead_beside_which_the_others_would_vanish_is_refused(unit, scale):
    x = record() * scale
    x[LEADS.index("V2")] *= 1000  # written in uV among leads in mV
    with pytest.raises(EcgError, match=r"V2 .*unit or gain is wrong"):
        read_ecg(x, leads=LEADS, rate=500, unit=unit)
    spike = record() * scale
    spike[LEADS.index("V5"), 700] = 1e6
    with pytest.raises(EcgError, match="V5 1e"):
        read_ecg(spike, leads=LEADS, rate=500, unit=unit)


def test_a_lead_that_moves_only_after_the_ten_seconds_is_flat():
    x = record(seconds=11)
    x[LEADS.index("V1"), :5000] = 0.25
    assert read_ecg(x, leads=LEADS, rate=500, unit="mV").flat == ("V1",)


def test_relative_voltages_are_taken_as_they_are():
    x = record()
    scaled = 2 * (x - x.min()) / (x.max() - x.min()) - 1
    ecg = read_ecg(scaled, leads=LEADS, rate=500, unit="relative")
    np.testing.assert_allclose(ecg.signal, scaled, atol=1e-6)
    assert ecg.unit == "relative"
    assert ecg.steps == ("voltages are relative",)


def test_raw_counts_far_from_zero_survive_half_precision():
    # 24-bit counts around 8 million overflow float16, and their waves would drown in its steps.
    ecg = read_ecg(record() * 1e4 + 8e6, leads=LEADS, rate=500, unit="relative")
    assert ecg.steps[1].startswith("offset removed: I, II")
    assert ecg.steps[2].startswith("relative voltages divided by")
    for stored, lead in zip(ecg.signal.astype(np.float16).astype(np.float64), record(), strict=True):
        assert np.corrcoef(stored, lead)[0, 1] > 0.999999


def test_an_electrode_offset_in_millivolts_is_removed_and_said():
    x = record()
    x[7] += 150
    ecg = read_ecg(x, leads=LEADS, rate=500, unit="mV")
    assert ecg.steps == ("offset removed: V2",)
    np.testing.assert_allclose(ecg.signal[7], record()[7] - np.median(record()[7]), atol=1e-5)


@pytest.mark.parametrize("defect", ["none", "short", "gap", "rate", "offset"])
def test_the_prepared_signal_does_not_depend_on_the_unit_it_was_written_in(defect):
    x = record(rate=250 if defect == "rate" else 500, seconds=6 if defect == "short" else 10)
    x += 0.3
    if defect == "gap":
        x[4, 1000:1400] = np.nan
    if defect == "offset":
        x[9] += 80
    rate = 250 if defect == "rate" else 500
    wanted = prepare_ecg(read_ecg(x, leads=LEADS, rate=rate, unit="mV").signal)
    low, high = np.nanmin(x), np.nanmax(x)
    for scale, offset, unit in (
        (1000, 0, "uV"),
        (1e-3, 0, "V"),
        (2 / (high - low), -1.5, "relative"),
        (3e4, 7e5, "relative"),
    ):
        ecg = read_ecg(scale * x + offset, leads=LEADS, rate=rate, unit=unit)
        np.testing.assert_allclose(prepare_ecg(ecg.signal), wanted, atol=2e-4)


@pytest.mark.parametrize("rate", [100, 250, 257, 360, 1000])
def test_any_rate_is_resampled_to_500_hz(rate):
    ecg = read_ecg(record(rate=rate), leads=LEADS, rate=rate, unit="mV")
    # Away from the ends, where the resampling filter runs out of data, band-limited waves come back.
    np.testing.assert_allclose(ecg.signal[:, 500:-500], record()[:, 500:-500], atol=0.01)
    assert ecg.rate == rate
    assert f"resampled from {rate} Hz to 500 Hz" in ecg.steps


@pytest.mark.parametrize("rate", [0.5, 49.0, 0.0, -500.0, float("nan"), float("inf")])
def test_a_rate_that_no_recorder_has_is_refused(rate):
    with pytest.raises(EcgError, match=r"is impossible; ECGs are recorded at 50 Hz and more\. .* in Hz, not kHz"):
        read_ecg(record(), leads=LEADS, rate=rate, unit="mV")


def test_a_rate_that_is_no_whole_number_is_resampled_exactly():
    rate = 499.87
    t = np.arange(4999) / rate
    wave = np.sin(2 * np.pi * 3 * t)
    x = np.tile(wave, (12, 1)) * np.arange(1, 13)[:, None]
    ecg = read_ecg(x, leads=LEADS, rate=rate, unit="mV")
    np.testing.assert_allclose(ecg.signal[0, 500:-500], np.sin(6 * np.pi * np.arange(5000) / 500)[500:-500], atol=2e-3)


def test_resampling_returns_waves_far_from_the_ends_to_one_in_ten_thousand():
    for rate in (250, 1000):
        ecg = read_ecg(record(rate=rate), leads=LEADS, rate=rate, unit="mV")
        np.testing.assert_allclose(ecg.signal[:, 500:-500], record()[:, 500:-500], atol=5e-5)


def test_long_records_are_cropped_to_the_first_ten_seconds_and_short_ones_followed_by_their_median():
    long = read_ecg(record(seconds=30), leads=LEADS, rate=500, unit="mV")
    np.testing.assert_allclose(long.signal, record(seconds=30)[:, :5000], atol=1e-6)
    assert long.steps == ("cropped from 30.00 s to 10 s",)
    assert long.seconds == 30
    short = read_ecg(record(seconds=5), leads=LEADS, rate=500, unit="mV")
    np.testing.assert_allclose(short.signal[:, :2500], record(seconds=5), atol=1e-6)
    median = np.median(record(seconds=5), axis=1, keepdims=True)
    np.testing.assert_allclose(short.signal[:, 2500:], np.repeat(median, 2500, axis=1), atol=1e-6)
    assert short.seconds == 5
    assert short.steps == ("padded from 5.00 s to 10 s with each lead's median",)
    with pytest.raises(EcgError, match=r"lasts 2\.00 s"):
        read_ecg(record(seconds=2), leads=LEADS, rate=500, unit="mV")


def test_what_follows_the_first_ten_seconds_does_not_matter_but_for_the_filter():
    x = record(rate=250, seconds=30)
    whole, cut = (read_ecg(a, leads=LEADS, rate=250, unit="mV") for a in (x, x[:, : 11 * 250]))
    np.testing.assert_array_equal(whole.signal, cut.signal)
    np.testing.assert_allclose(whole.signal[:, 500:], record()[:, 500:], atol=1e-4)  # its last samples too


def test_an_ecg_says_in_one_line_what_it_is():
    clean = read_ecg(record(), leads=LEADS, rate=500, unit="mV")
    assert repr(clean) == "Ecg(12 leads x 10 s at 500 Hz, mV; source 10 s at 500 Hz; taken as it is)"
    keep = [i for i in range(12) if i != 2]
    low = record(rate=100)[keep]
    assert repr(read_ecg(low, leads=[LEADS[i] for i in keep], rate=100, unit="mV")) == (
        "Ecg(12 leads x 10 s at 500 Hz, mV; source 10 s at 100 Hz; derived: III; resampled from 100 Hz to 500 Hz)"
    )


def test_reading_is_public():
    assert pacx.read_ecg is read_ecg
    assert "Ecg" in dir(pacx)


@pytest.mark.skipif(not PTBXL.is_dir(), reason="the open sample bundle (../shared/data) is not here")
def test_a_real_record_reads_nearly_equal_at_100_and_500_hz():
    low = read_ecg(PTBXL / "records100" / "00000" / "00001_lr")
    high = read_ecg(PTBXL / "records500" / "00000" / "00001_hr")
    assert low.steps == ("resampled from 100 Hz to 500 Hz",)
    assert high.steps == ()
    for a, b in zip(low.signal, high.signal, strict=True):
        assert np.corrcoef(a, b)[0, 1] > 0.95  # the sharp tips of the QRS are lost at 100 Hz
    np.testing.assert_allclose(high.signal[2], high.signal[1] - high.signal[0], atol=0.006)  # rounding of 1 uV steps
