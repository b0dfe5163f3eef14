from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pacx.data.labs import files, gather
from pacx.data.labs.columns import LabColumns
from pacx.data.labs.panel import PANEL, LabIndex
from pacx.data.labs.percentiles import check_percentiles, percentile_columns
from pacx.data.labs.tables import LabRows, LabTable, read_lab_table
from pacx.data.labs.texts import read_numbers, read_times
from pacx.errors import PacxError

SAMPLE = Path(__file__).parents[2].parent / "shared" / "data" / "labs"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the open sample bundle is not beside the repository")
NAN = float("nan")


def long(path: Path, *rows: tuple, columns: str = "subject,item,value,unit,time") -> Path:
    """Write a long table as text, so that every cell is as it stands here."""
    lines = [columns, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def labs_of(table: LabTable, name: str) -> dict:
    return table.report["labs"][name]


def test_a_long_table_gives_the_earliest_value_in_the_window_by_id_loinc_or_name(tmp_path: Path) -> None:
    table = read_lab_table(
        long(
            tmp_path / "t.csv",
            ("p1", "50912", "1.5", "mg/dL", 30), ("p1", "2160-0", "1.2", "mg/dL", 3), ("p1", "crea", "9", "mg/dL", -2),
            ("p1", "Sodium", "140", "mmol/L", 24), ("p1", "K", "4.1", "mmol/L", 24.01),
            ("p2", "NA", "135", "mEq/L", 0), ("p2", "glucose", "7", "mmol/L", 1),
        ),
        window=(0, 24),
    )  # fmt: skip
    assert list(table.values.columns) == [lab.name for lab in PANEL]
    assert table.values.index.tolist() == ["p1", "p2"]
    assert table.values.loc["p1", "Creatinine"] == 1.2
    assert table.values.loc["p1", "Sodium"] == 140  # both ends belong to the window
    assert np.isnan(table.values.loc["p1", "Potassium"])
    assert table.values.loc["p2", "Sodium"] == 135
    assert table.values.loc["p2", "Glucose"] == pytest.approx(126.11, abs=0.01)
    assert table.units["Glucose"] == "mg/dL"
    assert labs_of(table, "Creatinine")["dropped"] == {"outside window": 2}
    assert labs_of(table, "Glucose")["converted_from"] == {"mmol/L": 1}
    assert table.report["dropped"] == {"outside window": 3}


def test_every_value_that_is_not_used_is_counted_with_its_reason(tmp_path: Path) -> None:
    table = read_lab_table(
        long(
            tmp_path / "t.csv",
            ("a", "Sodium", "140", "mEq/L", 1), ("a", "Sodium", "141", "mEq/L", 2), ("a", "Sodium", "1400", "mEq/L", 0),
            ("a", "Sodium", "ERROR", "mEq/L", 0), ("a", "Sodium", "", "mEq/L", 0), ("a", "Sodium", "140", "mEq/L", ""),
            ("a", "Sodium", "140", "mEq/L", 99), ("a", "Glucose", "100", "", 1), ("a", "Glucose", "100", "mg/kg", 1),
            ("a", "Glucose", "110", "mg/dL", 1), ("a", "FiO2", "21", "%", 1), ("", "Sodium", "140", "mEq/L", 1),
            ("a", "Lactate", "<0.3", "mmol/L", 1), ("a", "PTT", "> 150", "sec", 1), ("a", "pH", "7.31", "", 1),
        ),
        window=(0, 24),
    )  # fmt: skip
    assert table.report["dropped"] == {
        "no time": 1, "outside window": 1, "no value": 1, "not a number": 1, "no unit": 1, "unknown unit": 1,
        "implausible": 1, "later": 1,
    }  # fmt: skip
    assert set(table.report["dropped"]) <= set(table.report["reasons"])
    assert labs_of(table, "Glucose")["unknown_units"] == {"mg/kg": 1}
    assert labs_of(table, "Sodium")["dropped"]["implausible"] == 1
    assert table.report["unknown_items"] == {"FiO2": 1}
    assert table.report["without_subject"] == 1
    assert (labs_of(table, "Lactate")["detection_limits"], labs_of(table, "PTT")["detection_limits"]) == (
        {"<": 1}, {">": 1},
    )  # fmt: skip
    row = table.values.loc["a"]
    assert (row["Sodium"], row["Glucose"], row["Lactate"], row["PTT"], row["pH"]) == (140, 110, 0.3, 150, 7.31)
    everything = (
        table.report["used"] + sum(table.report["dropped"].values()) + table.report["without_subject"]
        + table.report["values_of_unknown_items"]
    )  # fmt: skip
    assert table.report["rows_read"] == everything == 15


def test_an_absurd_power_of_ten_is_an_unknown_unit_and_costs_its_own_value_alone(tmp_path: Path) -> None:
    rows = ("a", "wbc", "5", f"10^4{'0' * 5000}/L", 1), ("b", "wbc", "5", "10^400/L", 1), ("c", "wbc", "5", "10^9/L", 1)
    table = read_lab_table(long(tmp_path / "t.csv", *rows))
    name = LabIndex(PANEL).panel[LabIndex(PANEL).find("wbc")].name
    assert labs_of(table, name)["dropped"] == {"unknown unit": 2}
    assert table.values.loc["c", name] == 5


def test_an_implausible_first_value_makes_room_for_the_next(tmp_path: Path) -> None:
    rows = ("a", "Sodium", "14", "mEq/L", 1), ("a", "Sodium", "139", "mEq/L", 2)
    assert read_lab_table(long(tmp_path / "t.csv", *rows)).values.loc["a", "Sodium"] == 139


def test_an_item_twice_at_one_time_counts_once_and_contradictions_become_their_mean(tmp_path: Path) -> None:
    table = read_lab_table(
        long(
            tmp_path / "t.csv",
            ("a", "Sodium", "140", "mEq/L", 1), ("a", "Sodium", "140", "mmol/L", 1), ("a", "Sodium", "146", "mEq/L", 1),
            ("b", "Glucose", "126.1092", "mg/dL", 1), ("b", "Glucose", "7", "mmol/L", 1),
        ),
    )  # fmt: skip
    assert table.values.loc["a", "Sodium"] == 143
    assert labs_of(table, "Sodium")["dropped"] == {"repeated": 1, "contradicted": 1}
    assert labs_of(table, "Glucose")["used"] == 1


def test_of_values_at_one_time_the_last_revision_counts(tmp_path: Path) -> None:
    columns = "subject_id,itemid,charttime,storetime,value,valuenum,valueuom"
    at = "2180-05-06 22:25:00"
    table = read_lab_table(
        long(
            tmp_path / "t.csv",
            (1, 50983, at, "2180-05-06 23:00:00", "150", 150, "mEq/L"),
            (1, 50983, at, "2180-05-07 01:00:00", "140", 140, "mEq/L"),
            columns=columns,
        )
    )
    assert table.values.loc["1", "Sodium"] == 140
    assert table.report["dropped"] == {"corrected": 1}


def random_rows(seed: int, num: int = 400) -> list[tuple]:
    rng = np.random.default_rng(seed)
    items = np.array(["Sodium", "Glucose", "crea", "Other"])
    return [
        (f"s{rng.integers(7)}", items[rng.integers(4)], f"{rng.integers(100, 200)}", "mg/dL", int(rng.integers(-5, 30)))
        for _ in range(num)
    ]


def test_the_result_does_not_depend_on_the_order_of_rows_nor_on_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(0)
    whole = read_lab_table(long(tmp_path / "a.csv", *rows), window=(0, 24), missing_unit="panel")
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    monkeypatch.setattr(files, "_BLOCK_BYTES", 500)
    monkeypatch.setattr(gather, "_MOST_HELD", 20)
    again = read_lab_table(long(tmp_path / "b.csv", *shuffled), window=(0, 24), missing_unit="panel")
    pd.testing.assert_frame_equal(whole.values, again.values.loc[whole.values.index])
    assert whole.report == again.report
    assert whole.report["used"] + sum(whole.report["dropped"].values()) + whole.report["values_of_unknown_items"] == 400


def test_a_slow_reading_in_plain_python_agrees(tmp_path: Path) -> None:
    rows = random_rows(3)
    table = read_lab_table(long(tmp_path / "a.csv", *rows), window=(0, 24))
    for subject in {row[0] for row in rows}:
        found = [(t, float(v)) for s, item, v, _, t in rows if s == subject and item == "Glucose" and 0 <= t <= 24]
        first = {v for t, v in found if t == min(found)[0]}
        assert table.values.loc[subject, "Glucose"] == pytest.approx(np.mean(sorted(first)))


def test_each_row_has_its_own_window_and_one_value_may_serve_several_rows(tmp_path: Path) -> None:
    path = long(
        tmp_path / "t.csv",
        ("7.0", "Sodium", "130", "mEq/L", "2180-01-01 08:00:00"), ("7", "Sodium", "140", "mEq/L", "2180-01-03 08:00"),
        ("8", "Sodium", "150", "mEq/L", "2180-01-01"), ("9", "Sodium", "145", "mEq/L", "2180-01-01"),
    )  # fmt: skip
    rows = LabRows(
        ["x1", "x2", "x3", "x4", "x5"],
        pd.Series([7.0, 7.0, 7.0, 8.0, NAN]),  # ids that became floats because one is missing
        pd.Series(["2180-01-01 12:00:00", "2180-01-02", "2180-01-04", None, "2180-01-01"]),
    )
    table = read_lab_table(path, rows=rows, window=(-24, 24))
    np.testing.assert_array_equal(table.values["Sodium"], [130, 130, 140, NAN, NAN])
    assert table.values.index.tolist() == ["x1", "x2", "x3", "x4", "x5"]
    assert table.report["without_subject"] == 1
    assert labs_of(table, "Sodium")["dropped"] == {"outside window": 1}


def test_without_times_to_count_from_dates_count_from_the_subjects_first_value(tmp_path: Path) -> None:
    path = long(
        tmp_path / "t.csv",
        ("a", "Sodium", "140", "mEq/L", "2180-01-01"), ("a", "Glucose", "100", "mg/dL", "2180-01-01T20:00:00"),
        ("a", "Calcium", "9", "mg/dL", "2180-01-03"), ("a", "Nonsense", "9", "mg/dL", "2170-01-03"),
    )  # fmt: skip
    for rows in (None, LabRows(["a"], pd.Series(["a"]))):
        table = read_lab_table(path, rows=rows, window=(0, 24))
        assert table.values.loc["a", ["Sodium", "Glucose"]].tolist() == [140, 100]
        assert np.isnan(table.values.loc["a", "Calcium, Total"])


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet"])
def test_all_file_types_read_alike(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame(
        {
            "ITEMID": [50983, 50931, 1], "SUBJECT_ID": [1, 1, 1], "VALUENUM": [140.0, 99.5, 3],
            "VALUEUOM": ["mEq/L", "mg/dL", None],
        }
    )  # fmt: skip
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        text = frame.to_csv(index=False, sep="\t" if "tsv" in suffix else ",")
        path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    table = read_lab_table(path)
    assert table.values.loc["1", ["Sodium", "Glucose"]].tolist() == [140, 99.5]


def test_a_wide_table_has_units_in_its_headers_or_from_the_user(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    pd.DataFrame(
        {
            "patient_id": ["a", "b"], "glucose (mmol/L)": ["7", "x"], "2160-0 [umol/L]": [88.4, None],
            "Creatine Kinase (CK)": [100, 99999999], "INR(PT)": [1.1, ""], "50983": [140, 135], "sex": ["F", "M"],
        }
    ).to_csv(path, index=False)  # fmt: skip
    table = read_lab_table(path, units={"Creatine kinase (CK)": "U/L"})
    assert table.values.loc["a", "Glucose"] == pytest.approx(126.11, abs=0.01)
    assert table.values.loc["a", "Creatinine"] == pytest.approx(1.0, abs=1e-3)
    assert table.values.loc["b", "Sodium"] == 135
    assert table.values.loc["a", "INR(PT)"] == 1.1
    assert table.report["dropped"] == {"not a number": 1, "implausible": 1}  # empty cells were not measured
    assert table.report["columns_that_are_no_labs"] == ["sex"]


def test_every_item_of_a_table_can_be_a_lab_in_its_usual_unit(tmp_path: Path) -> None:
    path = long(
        tmp_path / "t.csv",
        ("a", "CRP", "5", "mg/L", 1), ("b", "crp", "5", "mg/L", 1), ("c", "CRP", "0.7", "mg/dL", 1),
        ("a", "FiO2", "21", "%", 1), ("a", "note", "seen", "", 1), ("a", "CRP", "9999999", "mg/L", 0),
    )  # fmt: skip
    table = read_lab_table(path, panel=None)
    assert list(table.values.columns) == ["CRP", "FiO2"]
    assert table.units == {"CRP": "mg/L", "FiO2": "%"}
    assert table.values["CRP"].tolist() == [9999999, 5, 7]  # no limits


@pytest.mark.parametrize(
    ("rows", "columns", "options", "says"),
    [
        ([("a", "Sodium", 1)], "subject,item,value", {}, r"no column of units.*--lab_missing_unit panel"),
        ([("a", "Sodium", 140, "mEq/L")], "subject,item,value,unit", {"window": (0, 24)}, "no column of times"),
        ([("a", "Sodium", 140, "mEq/L")], "who,item,value,unit", {}, "no column that names the subject"),
        ([("a", 1, 2)], "subject,x,y", {}, "neither a long nor a wide laboratory table"),
        ([("a", 1, 2)], "subject,glucose,crea", {}, "do not say their units: glucose, crea"),
        ([("a", 1, 2)], "subject,crea (mg/dL),2160-0 (mg/dL)", {}, "are the same lab"),
        ([("a", 1, 2)], "subject,x,x", {}, "several columns named 'x'"),
        ([("a", "Sodium", 14, "mEq/L")], "subject,item,value,unit", {}, "None of the 1 values .*'implausible': 1"),
        ([("a", "Sodium", 14, "mEq/L", "noon")], "subject,item,value,unit,time", {}, "holds 'noon', which is no time"),
        ([("a", "Sodium", 14, "mEq/L", 1)], "subject,item,value,unit,time", {"window": (24, 0)}, "24 to 0 h is empty"),
        ([("a", "Sodium", 14, "")], "subject,item,value,unit", {"columns": LabColumns(item="z")}, "'z'.*item_column"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_read_as_asked_are_refused_with_a_reason(
    tmp_path: Path, rows: list, columns: str, options: dict, says: str
) -> None:
    with pytest.raises(PacxError, match=says):
        read_lab_table(long(tmp_path / "t.csv", *rows, columns=columns), **options)


def test_dates_with_a_time_zone_stand_beside_none_without(tmp_path: Path) -> None:
    mixed = long(tmp_path / "a.csv", ("a", 50983, 140, "mEq/L", "2180-01-01 10:00"),
                 ("a", 50983, 141, "mEq/L", "2180-01-01 09:00+02:00"))  # fmt: skip
    with pytest.raises(PacxError, match=r"'2180-01-01 09:00\+02:00' with a time zone and '2180-01-01 10:00' without"):
        read_lab_table(mixed, window=(0, 24))
    zoned = long(tmp_path / "b.csv", ("a", 50983, 140, "mEq/L", "2180-01-01 10:00-05:00"))
    with pytest.raises(PacxError, match="are dates with time zones and those"):
        read_lab_table(zoned, rows=LabRows(["r"], pd.Series(["a"]), pd.Series(["2180-01-01 12:00"])), window=(0, 24))
    late = LabRows(["r"], pd.Series(["a"]), pd.Series(["2180-01-01 16:30+01:00"]))
    assert read_lab_table(zoned, rows=late, window=(-1, 0)).values["Sodium"].tolist() == [140]


def test_what_is_no_time_is_named_and_not_the_numbers_beside_it(tmp_path: Path) -> None:
    path = long(tmp_path / "a.csv", ("a", 50983, 140, "mEq/L", "1"), ("a", 50983, 141, "mEq/L", "soon"))
    with pytest.raises(PacxError, match="'soon', which is no time"):
        read_lab_table(path, window=(0, 24))


def test_dates_cannot_be_counted_from_numbers(tmp_path: Path) -> None:
    path = long(tmp_path / "t.csv", ("a", "Sodium", 140, "mEq/L", "2180-01-01"))
    rows = LabRows(["a"], pd.Series(["a"]), pd.Series([3.5]))
    with pytest.raises(PacxError, match="are dates and those that they are held against are numbers"):
        read_lab_table(path, rows=rows, window=(0, 24))


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"subject,item,value,unit\na,Sodium,1,\xb5mol/L\n")  # Latin-1
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    (tmp_path / "x.csv.gz").write_bytes(b"not gzip")
    (tmp_path / "ragged.csv").write_text("subject,item,value,unit\na,Sodium,1,mEq/L\na,Sodium\n")
    for name in ("x.csv", "x.parquet", "x.csv.gz", "ragged.csv"):
        with pytest.raises(PacxError, match="cannot be read as a table"):
            read_lab_table(tmp_path / name)
    with pytest.raises(PacxError, match="is a folder"):
        read_lab_table(tmp_path)
    with pytest.raises(PacxError, match="does not exist"):
        read_lab_table(tmp_path / "absent.csv")


def test_numbers_and_detection_limits_are_told_from_words() -> None:
    cells = ["1.5", "<0.01", "> 100", "≥5", "LESS THAN 3", "1,200", "3,5", "5 H", "", "___", "inf", "nan", "-2"]
    numbers = read_numbers(cells)
    np.testing.assert_array_equal(numbers.value, [1.5, 0.01, 100, 5, 3, NAN, NAN, NAN, NAN, NAN, NAN, NAN, -2])
    assert numbers.limit.tolist() == [0, -1, 1, 1, -1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert numbers.empty.tolist() == [False] * 8 + [True, True, False, True, False]


def test_times_are_seconds_in_the_unit_that_is_given() -> None:
    assert read_times(["90", "", "-30"], unit="minutes", column="t")[0][[0, 2]].tolist() == [5400, -1800]
    dates, kind = read_times(["1970-01-02", "1970-01-01 00:00:05", ""], unit="hours", column="t")
    assert kind == "dates" and dates[:2].tolist() == [86400, 5] and np.isnan(dates[2])


def test_percentiles_keep_to_their_range_and_the_mask_says_what_was_observed() -> None:
    percentiles = pd.DataFrame({"A": [0.0, 0.4, 1.0], "B": [0.5, 0.5, 0.9]})
    mask = pd.DataFrame({"A": [1, 1, 1], "B": [0, 0, 1]})
    result = check_percentiles(percentiles, mask)
    np.testing.assert_array_equal(result["B"], [NAN, NAN, 0.9])
    assert result["A"].tolist() == [0, 0.4, 1]
    for value in (1.01, -0.001, 45.0, np.inf):
        with pytest.raises(PacxError, match=r"1 percentiles of lab 'A' lie outside \[0, 1\]"):
            check_percentiles(percentiles.assign(A=[0, 0.4, value]))
    with pytest.raises(PacxError, match=r"mask of lab 'A' holds 2"):
        check_percentiles(percentiles, mask.assign(A=[1, 1, 2]))


def test_a_mask_the_wrong_way_round_is_refused() -> None:
    rng = np.random.default_rng(0)
    mask = (rng.random(40) < 0.6).astype(int)
    percentiles = pd.DataFrame({"A": np.where(mask == 1, rng.random(40), 0.5)})
    observed = pd.DataFrame({"A": mask})
    check_percentiles(percentiles, observed)
    with pytest.raises(PacxError, match="'A' is the wrong way round: where it says observed, all"):
        check_percentiles(percentiles, 1 - observed)
    raw = pd.DataFrame({"A": np.where(mask == 1, 140.0, NAN)})
    check_percentiles(percentiles, observed, raw=raw)
    with pytest.raises(PacxError, match=r"disagree in 40 of 40 rows: the mask is the wrong way round"):
        check_percentiles(percentiles, 1 - observed, raw=raw)
    with pytest.raises(PacxError, match="observed by the mask but empty"):
        check_percentiles(percentiles.where(observed == 1), 1 - observed)


def test_masks_and_raw_values_are_found_beside_percentile_columns() -> None:
    source = pd.DataFrame(
        {
            "Na": [140, NAN], "Na_percentile": [0.3, 0.5], "Na_observed": [1, 0], "K": [0.1, 0.2], "K_missing": [0, 1],
            "Ca": [NAN, 1],
        }
    )  # fmt: skip
    result = percentile_columns(source, ["Na_percentile", "K", "Ca"])
    assert list(result.columns) == ["Na", "K", "Ca"]
    np.testing.assert_array_equal(result, [[0.3, 0.1, NAN], [NAN, NAN, 1]])


@needs_sample
def test_the_real_eicu_table_agrees_with_the_ready_made_first_day() -> None:
    """YAIB takes the median of each hour, and mixes bedside glucose with the laboratory's."""
    table = read_lab_table(SAMPLE / "eicu_demo_lab_long.csv.gz", window=(0, 24))
    report = table.report
    assert report["rows_read"] == 29961
    everything = report["used"] + sum(report["dropped"].values()) + report["values_of_unknown_items"]
    assert everything == 29961
    assert report["unknown_items"]["bedside glucose"] == 2105
    ready = pd.read_csv(SAMPLE / "icu_first24h_labs.csv", keep_default_na=False, na_values=[""])
    ready = ready[ready["database"] == "eicu_demo"].astype({"stay_id": str}).set_index("stay_id")
    stays = table.values.index.intersection(ready.index)
    index, both, equal = LabIndex(PANEL), 0, 0
    for column in ready.columns:
        position = index.find(column)
        if position is None or column == "glu":
            continue
        ours = table.values.loc[stays, PANEL[position].name]
        theirs = ready.loc[stays, column]
        known = ours.notna() & theirs.notna()
        both += int(known.sum())
        equal += int(np.isclose(ours[known], theirs[known], rtol=1e-3).sum())
    assert (len(stays), both, equal) == (151, 2617, 2608)
