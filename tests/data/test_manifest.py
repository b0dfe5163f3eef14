from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest

from pacx.data.manifest import Manifest, Task, split_hash, split_patients, subset_rows, validate
from pacx.errors import PacxError


def make_manifest(**columns: object) -> Manifest:
    table = pd.DataFrame(
        {
            "image_id": ["a1", "a2", "b1", "c1"],
            "patient_id": ["a", "a", "b", "c"],
            "split": ["train", "train", "val", "test"],
            "edema": [0.0, 1.0, np.nan, 1.0],
        }
    )
    for name, values in columns.items():
        table[name] = values
    return Manifest("demo", table, tasks={"edema": Task("edema", ("edema",), "binary")})


def cohort(num_patients: int = 200, images: int = 3, prevalence: float = 0.1) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    patient = np.repeat([f"p{i}" for i in range(num_patients)], images)
    sick = np.repeat(rng.random(num_patients) < prevalence, images).astype(float)
    return pd.DataFrame({"patient_id": patient, "sick": sick})


def test_a_good_manifest_with_unknown_labels_is_accepted() -> None:
    manifest = make_manifest()
    before = manifest.table.copy()
    validate(manifest)
    pd.testing.assert_frame_equal(manifest.table, before)  # unknown stays unknown


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"image_id": ["a1", "a1", "b1", "c1"]}, "more than once: 'a1'"),
        ({"patient_id": ["a", "a", "a", "c"]}, "1 patients .* more than one split: 'a'"),
        ({"split": ["train", "train", "valid", "test"]}, "'valid'.*Allowed are train, val, test"),
        ({"split": ["train", "train", None, "test"]}, "Allowed are train, val, test"),
        ({"edema": ["yes", "no", None, "yes"]}, "not numeric"),
        ({"edema": [0.0, 1.0, -1.0, np.nan]}, r"holds -1.0"),
        ({"edema": [0.0, np.inf, 0.0, 1.0]}, "holds inf"),
        ({"patient_id": ["a", "a", None, "c"]}, "1 of 4 rows .* no patient_id"),
    ],
)
def test_bad_rows_are_refused_with_a_reason(columns: dict[str, object], says: str) -> None:
    with pytest.raises(PacxError, match=says):
        validate(make_manifest(**columns))


def test_a_missing_label_column_is_named_together_with_those_that_exist() -> None:
    manifest = make_manifest()
    manifest.tasks["age"] = Task("age", ("old",), "binary")
    with pytest.raises(PacxError, match=r"no column 'old'.*'edema'"):
        validate(manifest)


def test_patients_may_cross_splits_when_told_so() -> None:
    manifest = make_manifest(patient_id=["a", "a", "a", "c"])
    with pytest.raises(PacxError):
        validate(manifest)
    validate(manifest, allow_patient_overlap=True)


def test_an_empty_table_is_refused() -> None:
    manifest = make_manifest()
    manifest.table = manifest.table.iloc[:0]
    with pytest.raises(PacxError, match="no rows"):
        validate(manifest)


@pytest.mark.parametrize(
    ("labs", "says"),
    [
        (pd.DataFrame({"crp": [1.0]}, index=["zz"]), "images that it does not have: 'zz'"),
        (pd.DataFrame({"crp": [-np.inf]}, index=["a1"]), "'crp'.*infinite"),
        (pd.DataFrame({"crp": [1.0, 2.0]}, index=["a1", "a1"]), "several rows"),
    ],
)
def test_bad_labs_are_refused_with_a_reason(labs: pd.DataFrame, says: str) -> None:
    manifest = make_manifest()
    manifest.labs = labs
    with pytest.raises(PacxError, match=says):
        validate(manifest)


def test_class_numbers_must_be_whole_and_not_negative() -> None:
    manifest = make_manifest(edema=[0.0, 2.0, np.nan, 1.0])
    manifest.tasks = {"grade": Task("grade", ("edema",), "multiclass")}
    validate(manifest)
    manifest.table["edema"] = [0.0, 1.5, np.nan, 1.0]
    with pytest.raises(PacxError, match=r"1\.5.*whole class numbers"):
        validate(manifest)


def test_a_binary_task_has_one_label_and_survives_json() -> None:
    with pytest.raises(PacxError, match="exactly one"):
        Task("two", ("a", "b"), "binary")
    task = Task("grade", ("grade",), "multiclass", group="finding", classes=("mild", "severe"))
    assert Task.from_dict(task.to_dict()) == task


def test_splits_keep_patients_whole_and_their_shares_exact() -> None:
    table = cohort()
    split = split_patients(table, fractions=(0.7, 0.1, 0.2), seed=3)
    assert (split.groupby(table["patient_id"]).nunique() == 1).all()
    assert split.value_counts().to_dict() == {"train": 420, "val": 60, "test": 120}


def test_splits_do_not_depend_on_row_order_and_are_pinned_across_machines() -> None:
    table = cohort()
    shuffled = table.sample(frac=1.0, random_state=1)
    expected = dict(zip(table["patient_id"], split_patients(table), strict=True))
    assert dict(zip(shuffled["patient_id"], split_patients(shuffled), strict=True)) == expected
    by_hash = sorted(expected, key=lambda name: hashlib.sha256(f"0:{name}".encode()).hexdigest())
    assert [expected[name] for name in by_hash] == ["train"] * 140 + ["val"] * 20 + ["test"] * 40
    assert dict(zip(table["patient_id"], split_patients(table, seed=1), strict=True)) != expected


def test_stratified_splits_spread_a_rare_label_evenly() -> None:
    table = cohort(num_patients=300, prevalence=0.1)
    split = split_patients(table, stratify="sick")
    share = table.groupby(split.to_numpy())["sick"].mean()
    one_patient_of_val = 1 / 30
    assert abs(share - table["sick"].mean()).max() < one_patient_of_val


def test_three_patients_fill_three_splits() -> None:
    table = pd.DataFrame({"patient_id": ["x", "y", "z"]})
    assert sorted(split_patients(table)) == ["test", "train", "val"]


def test_fractions_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(PacxError, match="sum to 1"):
        split_patients(cohort(), fractions=(0.7, 0.1, 0.1))


def test_small_label_subsets_lie_inside_larger_ones_and_hold_whole_patients() -> None:
    table = cohort(num_patients=300)
    rows = np.arange(len(table))[30:]
    one, ten, all_ = (subset_rows(table, rows, fraction=f, seed=5, label="sick") for f in (0.01, 0.1, 1.0))
    assert set(one) < set(ten) < set(all_) == set(rows)
    assert len(ten) == pytest.approx(0.1 * len(rows), abs=3)
    for part in (one, ten):
        patients = set(table["patient_id"].iloc[part])
        assert set(np.flatnonzero(table["patient_id"].isin(patients))) & set(rows) == set(part)
        assert set(table["sick"].iloc[part]) == {0.0, 1.0}
    assert table["sick"].iloc[ten].mean() == pytest.approx(table["sick"].iloc[rows].mean(), abs=0.04)


def test_the_smallest_subset_still_has_one_patient_of_each_class() -> None:
    table = cohort(num_patients=100, images=2, prevalence=0.02)
    part = subset_rows(table, np.arange(len(table)), fraction=0.001, seed=0, label="sick")
    assert sorted(table["sick"].iloc[part]) == [0.0, 0.0, 1.0, 1.0]


def test_rows_with_unknown_labels_are_in_no_subset() -> None:
    table = cohort()
    table.loc[::2, "sick"] = np.nan
    part = subset_rows(table, np.arange(len(table)), fraction=1.0, seed=0, label="sick")
    assert part.tolist() == list(range(1, len(table), 2))


def test_another_seed_gives_another_subset_and_a_silly_fraction_an_error() -> None:
    table = cohort()
    rows = np.arange(len(table))
    a, b = (subset_rows(table, rows, fraction=0.1, seed=s, label="sick") for s in (0, 1))
    assert set(a) != set(b)
    with pytest.raises(PacxError, match=r"share in \(0, 1\]"):
        subset_rows(table, rows, fraction=10, seed=0, label="sick")


def test_the_split_hash_sees_a_moved_patient_but_not_the_row_order() -> None:
    table = make_manifest().table
    assert split_hash(table) == split_hash(table.iloc[::-1])
    moved = table.assign(split=["train", "train", "test", "test"])
    assert split_hash(moved) != split_hash(table)
