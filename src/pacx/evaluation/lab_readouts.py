"""Reading laboratory values off a frozen encoder, one lab at a time, without looking at a test row.

* **The target** is the percentile of a value among the training values of the same store. So a lab needs no panel and
  no teacher that knows it, every lab counts alike, and both read-outs are asked the same question.
* **ridge**: a linear map from features to that percentile. Its penalty is the best on the validation values, or, where
  these are fewer than `ENOUGH_TO_CHOOSE`, by cross-validation over the training patients.
* **heads**: what a labs teacher decodes from the embedding that a kept head predicts. Percentiles of another
  population, and shrunken; a line per lab brings them to this one's. It is fitted on the validation values, on which
  the head was not trained, or on the training values where those are too few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.labs import LabReference
from pacx.data.manifest import SPLITS
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.ridge import fit_ridge, fit_ridge_by_groups

__all__ = [
    "ENOUGH_TO_CHOOSE",
    "FEWEST_TRAINING",
    "KnownLab",
    "ReadOff",
    "by_line",
    "by_ridge",
    "known_labs",
    "tabulate",
]

ENOUGH_TO_CHOOSE = 30
"""validation values from which on they choose a penalty or calibrate"""
FEWEST_TRAINING = 10
"""training values below which a lab is not read at all"""

Array = NDArray[np.float64]


class KnownLab(NamedTuple):
    """What is known of one lab among the rows with an image; by split."""

    name: str
    rows: dict[str, NDArray[np.int64]]
    """(n,) store rows that have a value"""
    value: dict[str, Array]
    """(n,) raw"""
    truth: dict[str, Array]
    """(n,) percentiles among the training values, [0, 1]"""

    @property
    def baseline(self) -> float:
        """The mean percentile in training."""
        return float(self.truth["train"].mean())

    def judges(self, least: int = ENOUGH_TO_CHOOSE) -> bool:
        """Say whether there are validation values enough to choose by."""
        return len(self.rows["val"]) >= least


class ReadOff(NamedTuple):
    """One lab read off the test rows."""

    score: Array
    """(n,) as it was read, any unit"""
    predicted: Array
    """(n,) percentiles, [0, 1]"""
    facts: dict[str, Any]
    """how it was fitted, and notes"""


def known_labs(store: Store, names: Sequence[str] | None = None) -> tuple[list[KnownLab], dict[str, str]]:
    """Gather the labs that can be read, and say why the others cannot.

    Args:
        store: a store with images and labs.
        names: labs to read; all if not given.

    Returns:
        The labs with at least `FEWEST_TRAINING` training values and any test value; the reason for each other one.

    Raises:
        PacxError: the store has no labs, or none of a given name.
    """
    if store.labs is None or not store.has("image"):
        lacking = "labs" if store.labs is None else "images"
        raise PacxError(
            f"The store {store.name!r} ({store.path}) lacks {lacking}. Physiology is read off X-rays of patients whose "
            "laboratory values are known."
        )
    columns = [str(column) for column in store.labs.columns]
    unknown = [name for name in names or [] if name not in columns]
    if unknown:
        raise PacxError(f"The store {store.name!r} has no lab {', '.join(unknown)}. It has: {', '.join(columns)}.")
    found, left_out = [], {}
    for name in columns if names is None else dict.fromkeys(names):
        values = store.labs[name].to_numpy(dtype=np.float64, na_value=np.nan)
        rows = {split: store.rows(split, needs=("image",)) for split in SPLITS}
        rows = {split: own[np.isfinite(values[own])] for split, own in rows.items()}
        if len(rows["train"]) < FEWEST_TRAINING or not len(rows["test"]):
            left_out[name] = f"{len(rows['train'])} training and {len(rows['test'])} test values with an X-ray"
            continue
        reference = LabReference.fit(pd.DataFrame({name: values[rows["train"]]}))
        truth = {
            split: reference.transform(pd.DataFrame({name: values[own]}))[0][:, 0].astype(np.float64)
            for split, own in rows.items()
        }
        found.append(KnownLab(name, rows, {split: values[own] for split, own in rows.items()}, truth))
    return found, left_out


def by_ridge(lab: KnownLab, features: NDArray[np.float32], *, patient: NDArray[np.str_]) -> ReadOff:
    """Read a lab off features by a ridge regression.

    Args:
        lab: what is known.
        features: (N, D), row i belongs to store row i.
        patient: (N,) patient of each store row.
    """
    train = features[lab.rows["train"]]
    target = {split: truth[:, None] for split, truth in lab.truth.items()}
    if lab.judges():
        ridge = fit_ridge(train, target["train"], held_out=(features[lab.rows["val"]], target["val"]))
    else:
        ridge = fit_ridge_by_groups(train, target["train"], groups=patient[lab.rows["train"]])
    score = ridge.centred(features[lab.rows["test"]])[:, 0] + ridge.target_mean[0]
    chosen_on = "validation values" if lab.judges() else "left-out training patients"
    return ReadOff(score, np.clip(score, 0, 1), {"penalty": ridge.penalty, "chosen_on": chosen_on, "notes": []})


def by_line(lab: KnownLab, decoded: NDArray[np.float32]) -> ReadOff:
    """Read a lab off decoded percentiles, calibrated by a line.

    A line that falls would turn the order round: then the decoded order stays, and the percentile is the mean.

    Args:
        lab: what is known.
        decoded: (N,) percentile of this lab on the teacher's scale, row i belongs to store row i.
    """
    split = "val" if lab.judges() else "train"
    x, y = decoded[lab.rows[split]].astype(np.float64), lab.truth[split]
    varies = np.ptp(x) > 0
    slope = float(np.polyfit(x, y, 1)[0]) if varies else 0.0
    used = max(slope, 0.0)
    intercept = float(y.mean() - used * x.mean())
    score = decoded[lab.rows["test"]].astype(np.float64)
    notes = []
    if not varies:
        notes.append(f"the heads say the same of all {split} rows")
    elif slope < 0:
        notes.append(f"the heads order the {split} rows the wrong way round (slope {slope:.2f}); their order is kept")
    facts = {"slope": slope, "intercept": intercept, "calibrated_on": split, "notes": notes}
    return ReadOff(score, np.clip(intercept + used * score, 0, 1), facts)


def tabulate(store: Store, lab: KnownLab, read: ReadOff, *, read_out: str) -> pd.DataFrame:
    """Lay out one lab's test rows as `pacx.evaluation.lab_scores` wants them."""
    rows = store.manifest.iloc[lab.rows["test"]]
    return pd.DataFrame(
        {
            "image_id": rows["image_id"].astype(str).to_numpy(),
            "patient_id": rows["patient_id"].astype(str).to_numpy(),
            "lab": lab.name,
            "value": lab.value["test"],
            "truth": lab.truth["test"],
            "score": read.score,
            "predicted": read.predicted,
            "baseline": lab.baseline,
            "read_out": read_out,
        }
    )
