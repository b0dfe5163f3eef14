from pathlib import Path

import numpy as np
import pytest
import wfdb

from pacx.data.ecg import LEADS, EcgError, read_ecg

PTBXL = Path(__file__).parents[3] / "shared" / "data" / "ecg" / "ptbxl"


def record(rate: float = 500, seconds: float = 10, seed: int = 0) -> np.ndarray:
    """12 leads in mV that obey Einthoven and Goldberger; smooth, so that resampling can be exact."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(rate * seconds)) / rate
    waves = np.stack([np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in (1.3, 3.1, 5.7, 8.0, 11.0, 2.2, 4.4, 6.6)])
    one, two, *chest = rng.uniform(0.3, 1.2, 8)[:, None] * waves
    return np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2, *chest])


def write_wfdb(
    folder: Path, x: np.ndarray, names: list[str], *, rate: float = 500, unit: str = "mV", gain: float = 1000
) -> Path:
    wfdb.wrsamp(
        "r1", fs=rate, units=[unit] * len(names), sig_name=names, p_signal=x.T.astype(float),
        fmt=["16"] * len(names), adc_gain=[gain] * len(names), baseline=[0] * len(names), write_dir=str(folder),
    )  # fmt: skip
    return folder / "r1"


def test_leads_are_ordered_by_name_whatever_their_order_and_spelling():
    x = record()
    mimic = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
    shuffled = [*reversed([LEADS.index(name) for name in mimic])]
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


@pytest.mark.parametrize(("unit", "factor"), [("V", 1e3), ("mV", 1.0), ("uV", 1e-3), ("nV", 1e-6)])
def test_every_unit_becomes_millivolts(unit, factor):
    ecg = read_ecg(record() / factor, leads=LEADS, rate=500, unit=unit)
    np.testing.assert_allclose(ecg.signal, record(), atol=1e-5)


def test_an_unknown_unit_is_refused():
    with pytest.raises(EcgError, match="has the unit 'adu'; known are V, mV, uV and nV"):
        read_ecg(record(), leads=LEADS, rate=500, unit="adu")


def test_nan_samples_become_zero_and_are_counted():
    x = record()
    x[3, 100:110] = np.nan
    ecg = read_ecg(x, leads=LEADS, rate=500, unit="mV")
    assert ecg.missing == 10
    assert (ecg.signal[3, 100:110] == 0).all()
    assert np.isfinite(ecg.signal).all()


def test_flat_leads_are_named_and_twelve_of_them_refused():
    x = record()
    x[[7, 9, 11]] = 0.25
    ecg = read_ecg(x, leads=LEADS, rate=500, unit="mV")
    assert ecg.flat == ("V2", "V4", "V6")
    assert ecg.steps == ("flat: V2, V4, V6",)
    with pytest.raises(EcgError, match="All 12 leads are constant"):
        read_ecg(np.ones((12, 5000)), leads=LEADS, rate=500, unit="mV")


def test_swapped_limb_leads_are_noticed_and_an_offset_is_not():
    swapped = read_ecg(record()[[1, 0, *range(2, 12)]], leads=LEADS, rate=500, unit="mV")
    assert "limb leads contradict each other" in swapped.steps[0]
    offset = read_ecg(record() + np.arange(12)[:, None], leads=LEADS, rate=500, unit="mV")
    assert offset.steps == ()


@pytest.mark.parametrize("rate", [100, 250, 257, 360, 1000])
def test_any_rate_is_resampled_to_500_hz(rate):
    ecg = read_ecg(record(rate=rate), leads=LEADS, rate=rate, unit="mV")
    # Away from the ends, where the resampling filter runs out of data, band-limited waves come back.
    np.testing.assert_allclose(ecg.signal[:, 500:-500], record()[:, 500:-500], atol=0.01)
    assert ecg.rate == rate
    assert f"resampled from {rate} Hz to 500 Hz" in ecg.steps


def test_long_records_are_cropped_to_the_first_ten_seconds_and_short_ones_followed_by_zeros():
    long = read_ecg(record(seconds=30), leads=LEADS, rate=500, unit="mV")
    np.testing.assert_allclose(long.signal, record(seconds=30)[:, :5000], atol=1e-6)
    short = read_ecg(record(seconds=5), leads=LEADS, rate=500, unit="mV")
    np.testing.assert_allclose(short.signal[:, :2500], record(seconds=5), atol=1e-6)
    assert (short.signal[:, 2500:] == 0).all()
    assert short.seconds == 5
    assert short.steps == ("padded from 5.00 s to 10 s with zeros",)
    with pytest.raises(EcgError, match=r"lasts 2\.00 s"):
        read_ecg(record(seconds=2), leads=LEADS, rate=500, unit="mV")


def test_an_array_may_lie_either_way_and_must_say_what_it_holds(tmp_path):
    np.save(tmp_path / "a.npy", record().T.astype(np.float32))
    ecg = read_ecg(tmp_path / "a.npy", leads=LEADS, rate=500, unit="mV")
    np.testing.assert_allclose(ecg.signal, record(), atol=1e-6)
    with pytest.raises(EcgError, match=r"give rate=, unit= for .*a\.npy"):
        read_ecg(tmp_path / "a.npy", leads=LEADS)
    with pytest.raises(EcgError, match=r"shape \(5000, 12\), but 8 lead names"):
        read_ecg(tmp_path / "a.npy", leads=LEADS[:8], rate=500, unit="mV")


def test_a_pickled_array_is_not_executed(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(EcgError, match="cannot be read as a NumPy array"):
        read_ecg(tmp_path / "a.npy", leads=LEADS, rate=500, unit="mV")


def test_wfdb_records_are_read_with_their_gain_unit_rate_and_names(tmp_path):
    order = [5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6]
    path = write_wfdb(
        tmp_path, record(rate=250)[order] * 1000, [LEADS[i].upper() for i in order], rate=250, unit="uV", gain=4
    )
    for name in (path, str(path), path.with_suffix(".hea")):
        ecg = read_ecg(name)
        np.testing.assert_allclose(ecg.signal[:, 500:-500], record()[:, 500:-500], atol=0.01)
    assert ecg.rate == 250


def test_a_wfdb_unit_that_is_wrong_can_be_replaced(tmp_path):
    path = write_wfdb(tmp_path, record(), list(LEADS), unit="NU")
    with pytest.raises(EcgError, match="unit 'NU'"):
        read_ecg(path)
    np.testing.assert_allclose(read_ecg(path, unit="mV").signal, record(), atol=1e-3)


def test_absent_and_damaged_wfdb_records_are_user_errors(tmp_path):
    with pytest.raises(EcgError, match="There is no ECG record"):
        read_ecg(tmp_path / "nothing")
    path = write_wfdb(tmp_path, record(), list(LEADS))
    data = (tmp_path / "r1.dat").read_bytes()
    (tmp_path / "r1.dat").write_bytes(data[:1000])
    with pytest.raises(EcgError, match="not a readable WFDB record"):
        read_ecg(path)
    (tmp_path / "r1.dat").unlink()
    with pytest.raises(EcgError, match="not a readable WFDB record"):
        read_ecg(path)
    (tmp_path / "r1.hea").write_text("this is no header\n")
    with pytest.raises(EcgError):
        read_ecg(path)
    (tmp_path / "r1.hea").write_bytes(b"\xff\xfe\x00\x01" * 50)
    with pytest.raises(EcgError):
        read_ecg(path)


@pytest.mark.skipif(not PTBXL.is_dir(), reason="the open sample bundle (../shared/data) is not here")
def test_a_real_record_reads_nearly_equal_at_100_and_500_hz():
    low = read_ecg(PTBXL / "records100" / "00000" / "00001_lr")
    high = read_ecg(PTBXL / "records500" / "00000" / "00001_hr")
    assert low.steps == ("resampled from 100 Hz to 500 Hz",)
    assert high.steps == ()
    for a, b in zip(low.signal, high.signal, strict=True):
        assert np.corrcoef(a, b)[0, 1] > 0.95  # the sharp tips of the QRS are lost at 100 Hz
    np.testing.assert_allclose(high.signal[2], high.signal[1] - high.signal[0], atol=0.006)  # rounding of 1 uV steps
