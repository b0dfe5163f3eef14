"""Training subsets: nested by patient, or by image as published; both the same on every machine."""

import hashlib
import itertools

import numpy as np
import pandas as pd
import pytest

from pacx.data.splits import reference_rows, subset_rows
from pacx.errors import PacxError

LABELS = ("common", "rare", "rarest")


def cohort(num_rows: int = 400) -> pd.DataFrame:
    """Two images per patient; the labels follow from the row number, so that no generator is needed."""
    row = np.arange(num_rows)
    table = pd.DataFrame(
        {
            "image_id": [f"i{number:04d}" for number in row],
            "patient_id": [f"p{number // 2:04d}" for number in row],
            "common": (row % 3 == 0).astype(float),
            "rare": (row % 20 == 7).astype(float),
            "rarest": (row % 200 == 11).astype(float),
            "class": (row % 5).astype(float),
        }
    )
    table.loc[5::10, "common"] = np.nan
    return table


def fingerprint(rows: np.ndarray) -> str:
    return hashlib.sha256(",".join(map(str, rows)).encode()).hexdigest()[:12]


@pytest.mark.parametrize(
    ("fraction", "seed", "expected"),
    [(0.01, 0, "12e9592fdb45"), (0.1, 0, "6ada5cc66276"), (0.1, 1, "6ab82dd0dae9")],
)
def test_subsets_by_patient_are_these_on_every_machine(fraction, seed, expected):
    rows = np.arange(400)
    assert fingerprint(subset_rows(cohort(), rows, fraction=fraction, seed=seed, label="common")) == expected


@pytest.mark.parametrize(("fraction", "seed", "expected"), [(0.01, 0, "2005398fa97e"), (0.1, 42, "9af51b4350b8")])
def test_published_subsets_are_these_on_every_machine(fraction, seed, expected):
    rows = np.arange(400)
    assert fingerprint(reference_rows(cohort(), rows, fraction=fraction, seed=seed, labels=LABELS)) == expected


def test_subsets_do_not_depend_on_the_order_of_the_table():
    table = cohort()
    shuffled = table.sample(frac=1.0, random_state=0).reset_index(drop=True)
    for draw in (
        lambda t: subset_rows(t, np.arange(400), fraction=0.1, seed=3, label=LABELS),
        lambda t: reference_rows(t, np.arange(400), fraction=0.1, seed=3, labels=LABELS),
    ):
        ids = [sorted(t["image_id"].iloc[draw(t)]) for t in (table, shuffled)]
        assert ids[0] == ids[1]


def test_subsets_of_several_labels_are_nested_by_patient_and_hold_the_rarest_label():
    table, rows = cohort(), np.arange(400)
    parts = [subset_rows(table, rows, fraction=f, seed=0, label=LABELS) for f in (0.01, 0.1, 0.5, 1.0)]
    assert [set(a) <= set(b) for a, b in itertools.pairwise(parts)] == [True] * 3
    for part in parts:
        assert set(table.index[table["patient_id"].isin(table["patient_id"].iloc[part])]) == set(part)
        assert (table[list(LABELS)].iloc[part] == 1).any().all()
    assert len(parts[1]) == pytest.approx(40, abs=3) and len(parts[3]) == 400


def test_the_published_size_is_the_share_rounded_down_and_at_least_one_more_than_the_labels():
    rows = np.arange(399)
    sizes = [len(reference_rows(cohort(), rows, fraction=f, seed=0, labels=LABELS)) for f in (0.001, 0.05, 0.1, 1.0)]
    assert sizes == [4, 19, 39, 399]


def test_the_published_subset_holds_a_positive_of_each_label_but_of_classes_only_number_1():
    table, rows = cohort(), np.arange(400)
    classes = set()
    for seed in range(30):
        part = reference_rows(table, rows, fraction=0.01, seed=seed, labels=LABELS)
        assert (table[list(LABELS)].iloc[part] == 1).any().all()
        drawn = set(table["class"].iloc[reference_rows(table, rows, fraction=0.005, seed=seed, labels=["class"])])
        assert 1.0 in drawn and len(drawn) <= 2
        classes |= drawn
    assert classes == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_the_published_subset_is_uniform_apart_from_the_sure_positives():
    table, rows = cohort(), np.arange(400)
    counts = np.zeros(400)
    for seed in range(200):
        counts[reference_rows(table, rows, fraction=0.1, seed=seed, labels=["rarest"])] += 1
    positive = table["rarest"].to_numpy() == 1  # two of them: one is sure, the other has the chance of all others
    assert counts[positive] / 200 == pytest.approx(0.5 + 0.5 * 39 / 399, abs=0.12)
    assert counts[~positive].mean() / 200 == pytest.approx(39 / 399, abs=0.01)
    patients = table["patient_id"].iloc[reference_rows(table, rows, fraction=0.5, seed=0, labels=["rarest"])]
    assert patients.value_counts().eq(1).any()  # by image: a patient may be in with one of two


def test_rows_without_any_known_label_are_in_no_published_subset_and_silly_fractions_are_refused():
    table, rows = cohort(), np.arange(400)
    assert len(reference_rows(table, rows, fraction=1.0, seed=0, labels=["common"])) == 360
    assert len(reference_rows(table, rows, fraction=1.0, seed=0, labels=LABELS)) == 400
    with pytest.raises(PacxError, match=r"share in \(0, 1\]"):
        reference_rows(table, rows, fraction=0.0, seed=0, labels=LABELS)
