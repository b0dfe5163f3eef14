import json

import numpy as np
import pandas as pd
import pytest

from pacx.data.labs import PANEL, LabReference, drop_implausible
from pacx.errors import PacxError

NAN = float("nan")


def test_the_panel_is_the_fifty_labs_in_the_order_of_the_release():
    assert len(PANEL) == 50
    ids = [lab.item_id for lab in PANEL]
    assert ids == sorted(ids)
    assert (PANEL[0].name, PANEL[16].name, PANEL[23].name, PANEL[49].name) == (
        "Base Excess", "Creatinine", "Sodium", "RDW-SD",
    )  # fmt: skip
    assert [PANEL[i].name for i in (18, 19, 43)] == ["H", "I", "L"]
    assert PANEL[10].name == "Asparate Aminotransferase (AST)"  # spelt so in the release
    assert len({lab.name for lab in PANEL}) == 50
    assert all(lab.low < lab.high and lab.unit for lab in PANEL)


def test_percentiles_are_the_distribution_of_the_training_set():
    reference = LabReference.fit(pd.DataFrame({"Na": [130.0, 135.0, 140.0, 145.0]}))
    percentiles, observed = reference.transform(pd.DataFrame({"Na": [130.0, 137.0, 145.0]}))
    np.testing.assert_allclose(percentiles[:, 0], [0.125, 0.5, 0.875])
    assert percentiles.dtype == observed.dtype == np.float32
    assert (observed == 1).all()


def test_ties_share_the_middle_of_their_ranks_and_the_mean_stays_a_half():
    values = pd.DataFrame({"K": [3.5, 4.0, 4.0, 4.0, 4.5, 5.0, 5.0, 6.1]})
    percentiles, _ = LabReference.fit(values).transform(values)
    np.testing.assert_allclose(percentiles[1:4, 0], (1 + 3 / 2) / 8)
    assert percentiles.mean() == pytest.approx(0.5)


def test_a_constant_lab_lies_in_the_middle_and_unseen_extremes_at_the_ends():
    reference = LabReference.fit(pd.DataFrame({"A": [7.0, 7.0, 7.0], "B": [1.0, 2.0, 3.0]}))
    percentiles, observed = reference.transform(pd.DataFrame({"A": [7.0, 6.9, 7.1], "B": [0.5, 3.5, 2.5]}))
    np.testing.assert_allclose(percentiles[:, 0], [0.5, 0.0, 1.0])
    np.testing.assert_allclose(percentiles[:, 1], [0.0, 1.0, 2 / 3], rtol=1e-6)
    assert (observed == 1).all()


def test_unobserved_entries_are_zero_under_a_zero_mask():
    reference = LabReference.fit(pd.DataFrame({"A": [1.0, NAN, 3.0], "B": [NAN, 5.0, 6.0]}))
    percentiles, observed = reference.transform(pd.DataFrame({"A": [NAN, 3.0], "B": [6.0, NAN]}))
    np.testing.assert_array_equal(observed, [[0, 1], [1, 0]])
    np.testing.assert_allclose(percentiles, [[0, 0.75], [0.75, 0]])


def test_columns_are_found_by_name_and_absent_ones_count_as_unobserved():
    reference = LabReference.fit(pd.DataFrame({"A": [1.0, 2.0], "B": [10.0, 20.0], "C": [5.0, 6.0]}))
    percentiles, observed = reference.transform(pd.DataFrame({"C": [6.0], "A": [1.0]}))
    np.testing.assert_array_equal(observed, [[1, 0, 1]])
    np.testing.assert_allclose(percentiles, [[0.25, 0, 0.75]])


def test_unknown_columns_are_refused_unless_told_to_ignore_them():
    reference = LabReference.fit(pd.DataFrame({"A": [1.0, 2.0]}))
    table = pd.DataFrame({"A": [1.0], "Z": [3.0]})
    with pytest.raises(PacxError, match="does not know Z"):
        reference.transform(table)
    percentiles, _ = reference.transform(table, ignore=True)
    assert percentiles.shape == (1, 1)


def test_a_lab_never_measured_in_training_stays_unobserved(caplog):
    with caplog.at_level("WARNING", logger="pacx"):
        reference = LabReference.fit(pd.DataFrame({"A": [1.0, 2.0], "B": [NAN, NAN]}))
    _, observed = reference.transform(pd.DataFrame({"A": [1.0], "B": [3.0]}))
    np.testing.assert_array_equal(observed, [[1, 0]])
    assert reference.counts == {"A": 2, "B": 0}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"A": ["high", "low"]}), "'A' holds values that are not numbers"),
        (pd.DataFrame({"A": [1.0, np.inf]}), "'A' holds 1 infinite values"),
        (pd.DataFrame({"A": [NAN, NAN]}), "None of the 1 labs has an observed value"),
        (pd.DataFrame(index=range(3)), "has no lab column"),
    ],
)
def test_tables_that_cannot_be_fitted_are_refused(table, message):
    with pytest.raises(PacxError, match=message):
        LabReference.fit(table)


def test_a_saved_reference_is_readable_and_comes_back_equal(tmp_path):
    rng = np.random.default_rng(0)
    values = pd.DataFrame({"A": rng.normal(size=50), "B": rng.integers(0, 5, 50).astype(float)})
    reference = LabReference.fit(values, units={"A": "mg/dL"})
    reference.save(tmp_path / "reference.json")
    again = LabReference.load(tmp_path / "reference.json")
    np.testing.assert_array_equal(again.transform(values)[0], reference.transform(values)[0])
    assert again.units == {"A": "mg/dL", "B": ""}
    second = json.loads((tmp_path / "reference.json").read_text())["labs"][1]
    assert second["values"] == [0, 1, 2, 3, 4]
    assert sum(second["counts"]) == second["num_values"] == 50


def test_an_absent_or_foreign_reference_is_a_user_error(tmp_path):
    with pytest.raises(PacxError, match="does not exist"):
        LabReference.load(tmp_path / "none.json")
    for text in ("no json", "[]", '{"labs": [{"name": "A"}]}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(PacxError, match="is not a lab reference"):
            LabReference.load(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("values", "counts", "message"),
    [
        ([1.0, 2.0], [3], "lab 'A' has 2 values and 1 counts"),
        ([2.0, 1.0], [3, 1], "the values of lab 'A' do not ascend"),
        ([1.0, 1.0], [3, 1], "do not ascend"),
        ([1.0, float("nan")], [3, 1], "do not ascend"),
        ([1.0, 2.0], [3, 0], "counts that are not positive"),
        ([1.0], [10**30], "is not a lab reference"),
    ],
)
def test_a_reference_that_is_no_distribution_is_a_users_error(tmp_path, values, counts, message):
    labs = [{"name": "A", "unit": "", "values": values, "counts": counts}]
    (tmp_path / "x.json").write_text(json.dumps({"labs": labs}))
    with pytest.raises(PacxError, match=message):
        LabReference.load(tmp_path / "x.json")


def test_implausible_values_are_dropped_and_counted():
    table = pd.DataFrame({"Sodium": [140.0, 1400.0, NAN, 14.0], "pH": [7.4, 7.1, 8.0, 6.3], "Other": [1e9, 0, 0, 0]})
    cleaned, dropped = drop_implausible(table)
    assert dropped == {"Sodium": 2}
    np.testing.assert_array_equal(cleaned["Sodium"], [140.0, NAN, NAN, NAN])
    assert table["Sodium"][1] == 1400.0
    pd.testing.assert_frame_equal(cleaned[["pH", "Other"]], table[["pH", "Other"]])


def test_limits_follow_the_unit_of_a_column_whatever_its_name():
    table = pd.DataFrame({"glu": [7.0, 400.0, 0.1], "crea": [1.0, 60.0, 2.0], "Glucose": [90.0, 4000.0, 1.0]})
    cleaned, dropped = drop_implausible(table, units={"glu": "mmol/L"})
    assert dropped == {"glu": 2, "Glucose": 2}  # mmol/L: 0.28 to 167; by the panel's own name: mg/dL
    pd.testing.assert_series_equal(cleaned["crea"], table["crea"])  # an alias without a unit is not judged


def test_a_column_in_another_unit_is_refused_and_not_emptied():
    table = pd.DataFrame({"Hematocrit": [0.42] * 12})
    with pytest.raises(PacxError, match=r"12 of the 12 values of lab 'Hematocrit' lie outside 5 to 80, e.g. 0.42"):
        drop_implausible(table)
    assert drop_implausible(table, units={"Hematocrit": "fraction"})[1] == {}


def test_the_saved_reference_tells_a_reader_the_quartiles_of_each_lab():
    table = pd.DataFrame({"K": [3.0, 4.0, 4.0, 5.0, NAN], "Nothing": [NAN] * 5})
    first, second = LabReference.fit(table, units={"K": "mEq/L"}).to_dict()["labs"]
    assert (first["unit"], first["num_values"], first["quartiles"]) == ("mEq/L", 4, [3.75, 4.0, 4.25])
    assert second["quartiles"] == []
