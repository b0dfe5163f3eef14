import numpy as np
import pytest
from ecg_records import MIMIC, record, write_record

from pacx.data.ecg import LEADS, EcgError, read_ecg
from pacx.data.ecg.recipe import prepare_ecg


def symile_rows(n: int = 3) -> np.ndarray:
    """(n, 1, 5000, 12) in the order of MIMIC, each record scaled to [-1, 1] as a whole."""
    order = [LEADS.index(name) for name in MIMIC]
    rows = np.stack([record(seed=seed)[order].T for seed in range(n)])
    low, high = rows.min(axis=(1, 2), keepdims=True), rows.max(axis=(1, 2), keepdims=True)
    return (2 * (rows - low) / (high - low) - 1)[:, None].astype(np.float32)


def test_an_array_may_lie_either_way_and_must_say_what_it_holds(tmp_path):
    np.save(tmp_path / "a.npy", record().T.astype(np.float32))
    ecg = read_ecg(tmp_path / "a.npy", leads=LEADS, rate=500, unit="mV")
    np.testing.assert_allclose(ecg.signal, record(), atol=1e-6)
    with pytest.raises(EcgError, match=r"a\.npy does not say all it should: give rate=, unit="):
        read_ecg(tmp_path / "a.npy", leads=LEADS)
    with pytest.raises(EcgError, match=r"shape \(5000, 12\), but 8 lead names"):
        read_ecg(tmp_path / "a.npy", leads=LEADS[:8], rate=500, unit="mV")


def test_integers_of_any_size_are_read(tmp_path):
    np.save(tmp_path / "a.npy", np.rint(record() * 1000).astype(">i2"))
    ecg = read_ecg(tmp_path / "a.npy", leads=LEADS, rate=500, unit="uV")
    np.testing.assert_allclose(ecg.signal, record(), atol=6e-4)


def test_a_row_of_symile_arrays_is_read_by_its_layout(tmp_path):
    rows = symile_rows()
    np.save(tmp_path / "ecg_train.npy", rows)
    for row in range(3):
        ecg = read_ecg(f"{tmp_path}/ecg_train.npy::{row}", layout="symile")
        for i, name in enumerate(MIMIC):
            np.testing.assert_array_equal(ecg.signal[LEADS.index(name)], rows[row, 0, :, i])
        in_mv = read_ecg(record(seed=row), leads=LEADS, rate=500, unit="mV")
        np.testing.assert_allclose(prepare_ecg(ecg.signal), prepare_ecg(in_mv.signal), atol=2e-4)
    np.testing.assert_array_equal(
        read_ecg(rows[1], layout="symile").signal, read_ecg(rows[1, 0], layout="symile").signal
    )


def test_rows_that_are_not_there_and_whole_arrays_are_refused(tmp_path):
    np.save(tmp_path / "ecg.npy", symile_rows())
    with pytest.raises(EcgError, match="row 3 is asked for"):
        read_ecg(f"{tmp_path}/ecg.npy::3", layout="symile")
    with pytest.raises(EcgError, match=r"Name one record, as in FILE\.npy::0"):
        read_ecg(tmp_path / "ecg.npy", layout="symile")
    with pytest.raises(EcgError, match="cannot be opened"):
        read_ecg(tmp_path / "absent.npy", layout="symile")


def test_a_layout_is_known_and_stands_alone():
    with pytest.raises(EcgError, match="'mimic' is not known; known are: symile"):
        read_ecg(record(), layout="mimic")
    with pytest.raises(EcgError, match="give it or them"):
        read_ecg(record(), layout="symile", rate=500)


def test_a_pickled_array_is_not_executed(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(EcgError, match="holds Python objects"):
        read_ecg(tmp_path / "a.npy", leads=LEADS, rate=500, unit="mV")


@pytest.mark.parametrize(
    ("spec", "factor", "offset"),
    [
        ("1000/mV", 1, 0), ("1000(0)/mV", 1, 0), ("1000.0(200)/mV", 1, -0.2), ("500(-100)/mV", 2, 0.2),
        ("1/uV", 1, 0), ("4.88(0)/uV", 1 / 4.88, 0), ("1e6/V", 1, 0), ("0.001/nV", 1, 0), ("1000/MV", 1, 0),
        ("-1000/mV", -1, 0), ("1000", 1, 0),
    ],
)  # fmt: skip
def test_any_gain_baseline_and_unit_of_a_wfdb_header_are_used(tmp_path, spec, factor, offset):
    ecg = read_ecg(write_record(tmp_path, spec))
    np.testing.assert_allclose(ecg.signal, record() * factor + offset, atol=1.1e-3)
    assert ecg.unit == "mV"


def test_mimics_order_is_read_by_name(tmp_path):
    path = write_record(tmp_path, "200.0(0)/mV", leads=MIMIC)
    for name in (path, str(path), path.with_suffix(".hea"), path.with_suffix(".dat")):
        ecg = read_ecg(name)
        np.testing.assert_allclose(ecg.signal, record() * 5, atol=3e-3)
        assert ecg.steps == ()


@pytest.mark.parametrize(("rate", "hertz"), [("499.87", 499.87), ("500/360(0)", 500), ("250", 250)])
def test_any_rate_of_a_wfdb_header_is_used(tmp_path, rate, hertz):
    ecg = read_ecg(write_record(tmp_path, "1000/mV", rate=rate))
    assert ecg.rate == hertz
    assert ecg.seconds == pytest.approx(5000 / hertz)


@pytest.mark.parametrize("spec", ["0/mV", "0(0)/mV", ""])
def test_a_gain_of_zero_means_that_the_voltage_is_unknown(tmp_path, spec):
    path = write_record(tmp_path, spec or "0")
    with pytest.raises(EcgError, match="Lead I has no unit"):
        read_ecg(path)
    counts = read_ecg(path, unit="uV")  # the counts of this file are microvolts
    np.testing.assert_allclose(counts.signal, record(), atol=6e-4)
    assert counts.steps[0].startswith("uncalibrated (gain 0), read as raw counts: I, II")
    relative = read_ecg(path, unit="relative")
    np.testing.assert_allclose(prepare_ecg(relative.signal), prepare_ecg(counts.signal), atol=2e-4)


def test_a_channel_without_gain_that_is_no_lead_does_not_matter(tmp_path):
    path = write_record(tmp_path, "1000/mV", leads=(*LEADS, "I"))
    header = path.with_suffix(".hea")
    header.write_text("".join(
        line.replace("1000/mV", "0").replace(" I\n", " STATUS\n") if i == 13 else line
        for i, line in enumerate(header.read_text().splitlines(keepends=True))
    ))  # fmt: skip
    ecg = read_ecg(path)
    assert ecg.ignored == ("STATUS",)
    np.testing.assert_allclose(ecg.signal, record(), atol=6e-4)


def test_channels_without_names_need_them(tmp_path):
    path = write_record(tmp_path, "1000/mV")
    header = path.with_suffix(".hea")
    lines = [line.rsplit(" ", 1)[0] if i else line for i, line in enumerate(header.read_text().splitlines())]
    header.write_text("\n".join(lines) + "\n")
    with pytest.raises(EcgError, match="give leads="):
        read_ecg(path)
    np.testing.assert_allclose(read_ecg(path, leads=LEADS).signal, record(), atol=6e-4)


def test_a_wfdb_unit_that_is_wrong_can_be_replaced(tmp_path):
    path = write_record(tmp_path, "1000/NU")
    with pytest.raises(EcgError, match="unit 'NU'"):
        read_ecg(path)
    np.testing.assert_allclose(read_ecg(path, unit="mV").signal, record(), atol=1e-3)


def test_gaps_in_a_wfdb_record_are_counted(tmp_path):
    path = write_record(tmp_path, "1000/mV")
    counts = np.frombuffer(path.with_suffix(".dat").read_bytes(), "<i2").reshape(5000, 12).copy()
    counts[10:20, 3] = -32768  # WFDB's "no sample" in format 16
    path.with_suffix(".dat").write_bytes(counts.tobytes())
    assert read_ecg(path).missing == 10


def test_matlab_files_of_challenges_are_read(tmp_path):
    path = write_record(tmp_path, "1000/mV")
    path.with_suffix(".mat").write_bytes(b"\0" * 24 + path.with_suffix(".dat").read_bytes())
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace("r.dat 16", "r.mat 16+24") + "#Age: 74\n")
    path.with_suffix(".dat").unlink()
    np.testing.assert_allclose(read_ecg(path.with_suffix(".mat")).signal, record(), atol=6e-4)


@pytest.mark.parametrize("gap", [0, 500])
def test_records_of_several_segments_are_joined(tmp_path, gap):
    samples = (write_record(tmp_path, "1000/mV").with_suffix(".dat")).read_bytes()
    for name, half in (("s1", samples[: len(samples) // 2]), ("s2", samples[len(samples) // 2 :])):
        write_record(tmp_path, "1000/mV", name=name)
        (tmp_path / f"{name}.dat").write_bytes(half)
        header = tmp_path / f"{name}.hea"
        header.write_text(header.read_text().replace(" 5000\n", " 2500\n"))
    layout = "lay 12 500 0\n" + "".join(f"~ 0 1000/mV 16 0 0 0 0 {lead}\n" for lead in LEADS)
    (tmp_path / "lay.hea").write_text(layout)
    hole = f"~ {gap}\n" if gap else ""
    (tmp_path / "m.hea").write_text(f"m/{3 + bool(gap)} 12 500 {5000 + gap}\nlay 0\ns1 2500\n{hole}s2 2500\n")
    ecg = read_ecg(tmp_path / "m")
    assert ecg.missing == 12 * gap
    np.testing.assert_allclose(ecg.signal[:, :2500], record()[:, :2500], atol=6e-4)
    np.testing.assert_allclose(ecg.signal[:, 2500 + gap :], record()[:, 2500 : 5000 - gap], atol=6e-4)
    assert ecg.seconds == (5000 + gap) / 500


def test_a_record_that_is_one_of_its_own_segments_is_a_users_error(tmp_path):
    (tmp_path / "a.hea").write_text("a/1 12 500 5000\nb 5000\n")
    (tmp_path / "b.hea").write_text("b/1 12 500 5000\na 5000\n")
    (tmp_path / "c.hea").write_text("c/1 12 500 5000\nc 5000\n")
    for name in "ac":
        with pytest.raises(EcgError, match=f"{name} is one of its own segments"):
            read_ecg(tmp_path / name)


def test_of_a_long_record_only_the_beginning_is_decoded(tmp_path):
    path = write_record(tmp_path, "1000/mV")
    data = path.with_suffix(".dat")
    data.write_bytes(data.read_bytes() * 3)
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace(" 5000\n", " 15000\n"))
    ecg = read_ecg(path)
    assert ecg.seconds == 30
    assert ecg.steps == ("cropped from 30.00 s to 10 s",)
    np.testing.assert_allclose(ecg.signal, record(), atol=6e-4)


def test_absent_and_damaged_wfdb_records_are_user_errors(tmp_path):
    with pytest.raises(EcgError, match=r"There is no ECG record .*nothing \(no \.hea file\)"):
        read_ecg(tmp_path / "nothing")
    path = write_record(tmp_path, "1000/mV")
    whole = path.with_suffix(".dat").read_bytes()
    for size in (0, 1000, len(whole) - 24):
        path.with_suffix(".dat").write_bytes(whole[:size])
        with pytest.raises(EcgError, match="its signal file is shorter than the header says"):
            read_ecg(path)
    path.with_suffix(".dat").unlink()
    with pytest.raises(EcgError, match=r"its header names r\.dat, and that is not there"):
        read_ecg(path)
    header = path.with_suffix(".hea")
    for damage in (b"this is no header\n", b"\xff\xfe\x00\x01" * 50, b"", b"r 12 500\n", b"r 0 500 0\n"):
        header.write_bytes(damage)
        with pytest.raises(EcgError):
            read_ecg(path)


def test_a_header_that_is_overruled_is_named(tmp_path):
    path = write_record(tmp_path, "1000/mV")
    assert not any("as given" in step for step in read_ecg(path, rate=500, unit="mV").steps)
    assert "1000 Hz as given; the file says 500 Hz" in read_ecg(path, rate=1000).steps
    assert "unit relative as given; the file says mV" in read_ecg(path, unit="relative").steps
    renamed = [*LEADS[:6], *LEADS[:5:-1]]
    assert any(step.startswith("leads as given; the file says I, II") for step in read_ecg(path, leads=renamed).steps)
