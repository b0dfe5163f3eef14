import gzip

import numpy as np
import pytest
from ecg_records import MIMIC, record

from pacx.data.ecg import LEADS, EcgError, read_ecg


def table(x, names, *, sep=",", time=None, digits=4, comma=False):
    """Text of a table; `time` is the title of a first column of times and the step between them."""
    columns = [*x]
    if time is not None:
        columns.insert(0, np.arange(x.shape[1]) * time[1])
        names = [time[0], *names]
    rows = np.char.mod(f"%.{digits}f", np.stack(columns, axis=1))
    text = "\n".join(sep.join(row) for row in rows)
    return sep.join(names) + "\n" + (text.replace(".", ",") if comma else text) + "\n"


def read(folder, text, name="a.csv", **keywords):
    (folder / name).write_text(text)
    return read_ecg(folder / name, **keywords)


@pytest.mark.parametrize(
    ("sep", "comma", "name"),
    [(",", False, "a.csv"), ("\t", False, "a.tsv"), (";", True, "a.csv"), (" ", False, "a.txt")],
)
def test_tables_with_any_separator_and_decimal_comma_are_read_by_name(tmp_path, sep, comma, name):
    order = [LEADS.index(lead) for lead in MIMIC]
    ecg = read(tmp_path, table(record()[order], MIMIC, sep=sep, comma=comma), name, rate=500, unit="mV")
    np.testing.assert_allclose(ecg.signal, record(), atol=6e-5)
    assert ecg.steps == ()


@pytest.mark.parametrize(
    ("title", "step", "rate"),
    [
        ("time (s)", 0.002, 500),
        ("time_ms", 2, 500),
        ("Time [ms]", 4, 250),
        ("seconds", 0.01, 100),
        ("t/s", 0.001, 1000),
    ],
)
def test_a_time_column_gives_the_rate(tmp_path, title, step, rate):
    ecg = read(tmp_path, table(record(rate=rate), LEADS, time=(title, step)), unit="mV")
    assert ecg.rate == rate
    assert not any("time" in said for said in ecg.steps)
    np.testing.assert_allclose(ecg.signal[:, 500:-500], record()[:, 500:-500], atol=0.01)


@pytest.mark.parametrize(("step", "unit"), [(0.002, "s"), (2.0, "ms")])
def test_a_time_without_a_unit_is_understood_and_said(tmp_path, step, unit):
    ecg = read(tmp_path, table(record(), LEADS, time=("time", step)), unit="mV")
    assert ecg.rate == 500
    assert ecg.steps == (f"time column 'time' without a unit read as {unit}",)


def test_a_time_without_a_unit_may_run_at_the_slowest_rate(tmp_path):
    ecg = read(tmp_path, table(record(rate=50), LEADS, time=("time", 0.02)), unit="mV")
    assert ecg.rate == 50
    assert "time column 'time' without a unit read as s" in ecg.steps


def test_rounded_times_give_the_rate_that_was_meant(tmp_path):
    # 360 Hz printed in whole milliseconds: steps of 2 and 3 ms.
    text = table(record(rate=360), LEADS)
    lines = text.splitlines()
    timed = ["time_ms," + lines[0], *(f"{round(i / 0.36)},{line}" for i, line in enumerate(lines[1:]))]
    assert read(tmp_path, "\n".join(timed), unit="mV").rate == 360


def test_times_with_a_gap_are_refused_unless_the_rate_is_given(tmp_path):
    lines = table(record(), LEADS, time=("time_ms", 2)).splitlines()
    text = "\n".join(lines[:100] + lines[101:])
    with pytest.raises(EcgError, match=r"do not run evenly \(steps from 2 to 4\)"):
        read(tmp_path, text, unit="mV")
    assert read(tmp_path, text, unit="mV", rate=500).rate == 500


@pytest.mark.parametrize("pattern", ["{} (uV)", "{} [µV]", "{}_uV", "{}/uV", "{} in uV", "Lead {} uV"])
def test_units_in_the_header_are_used(tmp_path, pattern):
    names = [pattern.format(lead) for lead in LEADS]
    ecg = read(tmp_path, table(record() * 1000, names, digits=1), rate=500)
    np.testing.assert_allclose(ecg.signal, record(), atol=6e-5)


def test_every_column_may_have_its_own_unit(tmp_path):
    x = record()
    x[6:] *= 1000
    names = [f"{lead} ({'mV' if lead in LEADS[:6] else 'uV'})" for lead in LEADS]
    np.testing.assert_allclose(read(tmp_path, table(x, names), rate=500).signal, record(), atol=6e-5)


def test_a_table_without_a_unit_is_refused(tmp_path):
    with pytest.raises(EcgError, match="Lead I has no unit"):
        read(tmp_path, table(record(), LEADS), rate=500)
    with pytest.raises(EcgError, match="Lead I has the unit 'adu'"):
        read(tmp_path, table(record(), [f"{lead} (adu)" for lead in LEADS]), rate=500)


def test_a_table_without_times_needs_the_rate(tmp_path):
    with pytest.raises(EcgError, match=r"a\.csv does not say all it should: give rate="):
        read(tmp_path, table(record(), LEADS), unit="mV")


def test_the_text_form_of_physionet_is_read_with_clock_quotes_units_and_gaps(tmp_path):
    x = record()
    names = "'Elapsed time'," + ",".join(f"'{lead}'" for lead in LEADS)
    units = "'hh:mm:ss.mmm'," + ",".join(["'mV'"] * 12)
    rows = [
        f"'0:{i // 30000:02d}:{i / 500 % 60:06.3f}'," + ",".join(f"{v:.3f}" for v in x[:, i]) for i in range(x.shape[1])
    ]
    rows[7] = rows[7].rsplit(",", 1)[0] + ",-"
    ecg = read(tmp_path, "\n".join([names, units, *rows]))
    assert (ecg.rate, ecg.missing, ecg.steps) == (500, 1, ("unmeasured samples: 1",))
    keep = np.arange(5000) != 7
    np.testing.assert_allclose(ecg.signal[:, keep], x[:, keep], atol=6e-4)


def test_comments_byte_order_marks_index_columns_and_gzip_do_not_disturb(tmp_path):
    lines = table(record(), [f"{lead}_mV" for lead in LEADS], time=("time_s", 0.002)).splitlines()
    indexed = ["," + lines[0], *(f"{i},{line}" for i, line in enumerate(lines[1:]))]
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(("\ufeff# device X\n" + "\n".join(indexed)).encode()))
    ecg = read_ecg(tmp_path / "a.csv.gz")
    np.testing.assert_allclose(ecg.signal, record(), atol=6e-5)
    assert ecg.ignored == ("column 1",)


def test_a_text_column_beside_the_leads_is_ignored_and_in_a_lead_refused(tmp_path):
    lines = table(record(), LEADS).splitlines()
    noted = [lines[0] + ",note", *(line + ",ok" for line in lines[1:])]
    assert read(tmp_path, "\n".join(noted), rate=500, unit="mV").ignored == ("note",)
    lines[3] = lines[3].replace(lines[3].split(",")[1], "high", 1)
    with pytest.raises(EcgError, match=r"column 'II' holds 'high' in sample 3, which is not a number"):
        read(tmp_path, "\n".join(lines), rate=500, unit="mV")


def test_a_table_without_a_header_needs_the_names_of_its_leads(tmp_path):
    text = table(record(), LEADS).split("\n", 1)[1]
    with pytest.raises(EcgError, match=r"has no header: it begins with .*Give leads="):
        read(tmp_path, text, rate=500, unit="mV")
    ecg = read(tmp_path, text, rate=500, unit="mV", leads=LEADS)
    np.testing.assert_allclose(ecg.signal, record(), atol=6e-5)
    german = table(record(), LEADS, sep=";", comma=True).split("\n", 1)[1]
    np.testing.assert_array_equal(read(tmp_path, german, rate=500, unit="mV", leads=LEADS).signal, ecg.signal)
    with pytest.raises(EcgError, match="has 12 channels, but 11 lead names"):
        read(tmp_path, text, rate=500, unit="mV", leads=LEADS[:11])


@pytest.mark.parametrize(
    "text", ["", "I,II\n", "\n\n", "# only a comment\n", "I,II\n1,2\n1,2,3\n", "\x00\x01\x02", "I,II\n1,2\n"]
)
def test_damaged_tables_are_user_errors(tmp_path, text):
    with pytest.raises(EcgError):
        read(tmp_path, text, rate=500, unit="mV")


def test_binary_files_and_absent_ones_are_user_errors(tmp_path):
    (tmp_path / "a.csv").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "b.csv.gz").write_bytes(b"no gzip")
    packed = gzip.compress(table(record(), LEADS).encode())
    (tmp_path / "c.csv.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "d.csv.gz").write_bytes(packed[:50] + bytes(1000) + packed[1050:])
    for name in ("a.csv", "b.csv.gz", "c.csv.gz", "d.csv.gz", "absent.csv"):
        with pytest.raises(EcgError, match="cannot be read as a table"):
            read_ecg(tmp_path / name, rate=500, unit="mV")
