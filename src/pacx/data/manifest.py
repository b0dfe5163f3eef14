"""The tidy table that every data set becomes: one row per image, one column per label.

* A label is 1, 0 or NaN. NaN means "unknown" and stays NaN; nothing here turns it into 0.
* A patient belongs to one split only. `validate` refuses anything else, because a shared patient lets a probe
  recognise the person in place of the disease.
* Splits and label subsets are drawn in `pacx.data.splits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pacx.data.splits import SPLITS, split_hash, split_patients, subset_rows
from pacx.errors import PacxError

__all__ = [
    "PRESENCE",
    "RESERVED",
    "SPLITS",
    "Manifest",
    "Task",
    "crossing_patients",
    "split_hash",
    "split_patients",
    "subset_rows",
    "validate",
]

RESERVED = ("image_id", "path", "patient_id", "study_id", "view", "age", "sex", "split", "mask_path", "ecg_path")
"""Columns with a fixed meaning; every other column is a label or a note of the source. Those of files hold paths, or
rows of an array (`FILE.npy::17`, see `pacx.data.array_rows`)."""

PRESENCE = ("has_image", "has_mask", "has_ecg", "has_labs")
"""Columns that a store adds: what is there for each row."""

_REQUIRED = ("image_id", "patient_id", "split")

TaskKind = Literal["binary", "multilabel", "multiclass"]


@dataclass(frozen=True)
class Task:
    """What can be predicted from a store."""

    name: str
    labels: tuple[str, ...]
    """label columns: one 0/1/NaN column (binary), several (multilabel), or one column of 0..K-1 or NaN (multiclass)"""
    kind: TaskKind
    group: str = ""
    """what the task stands for in a report, e.g. "physiology", "finding", "control" """
    about: str = ""
    """how the label was made, in one sentence"""
    classes: tuple[str, ...] = ()
    """names of the classes 0..K-1 of a multiclass task"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "classes", tuple(self.classes))
        if not self.labels:
            raise PacxError(f"Task {self.name!r} has no label column. Name at least one.")
        if self.kind != "multilabel" and len(self.labels) != 1:
            raise PacxError(
                f"Task {self.name!r} is {self.kind} and names {len(self.labels)} label columns. "
                "A binary or multiclass task has exactly one; several columns make a multilabel task."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads back, as JSON types."""
        return {**asdict(self), "labels": list(self.labels), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Task:
        """Build a task from `to_dict`'s output."""
        return cls(**content)


@dataclass
class Manifest:
    """A data set before its pixels are read."""

    name: str
    table: pd.DataFrame
    """one row per image: `RESERVED` columns (image_id, patient_id and split are required), then label columns"""
    tasks: dict[str, Task] = field(default_factory=dict)
    labs: pd.DataFrame | None = None
    """index image_id, one float column per lab in raw units, NaN = not measured"""
    lab_units: dict[str, str] = field(default_factory=dict)
    lab_report: dict[str, Any] = field(default_factory=dict)
    """what became of the laboratory values that were read: see `pacx.data.labs.report`"""
    license: str = ""
    citation: str = ""
    about: str = ""
    split_about: str = ""
    """where the split is from, in words: official, by patient, ..."""
    patients_of: str = ""
    """whose patient ids these are: data sets of one namespace share patients; "" if nobody says"""
    root: Path = Path()
    """what relative paths in the table start from"""
    mask_name: str = "mask"
    """what the files of mask_path outline"""
    image_reading: dict[str, Any] = field(default_factory=dict)
    """keyword arguments of `pacx.data.images.read_cxr` that hold for all images, e.g. what an array's numbers are"""
    ecg_reading: dict[str, Any] = field(default_factory=dict)
    """keyword arguments of `pacx.data.ecg.read_ecg` that hold for all ECGs, e.g. leads and rate of arrays"""


def validate(manifest: Manifest, *, allow_patient_overlap: bool = False) -> None:
    """Refuse a manifest that would give wrong results later.

    Args:
        manifest: what a source made.
        allow_patient_overlap: accept patients that are in more than one split.

    Raises:
        PacxError: a required or label column is missing, an image_id is missing or twice there, a split name is
            unknown, a patient crosses splits, a label is not a number, outside its values or infinite, a lab value is
            infinite or belongs to no image.
    """
    _check_rows(manifest)
    if not allow_patient_overlap:
        _check_patients(manifest)
    for task in manifest.tasks.values():
        for label in task.labels:
            if label in (*RESERVED, *PRESENCE):
                raise PacxError(
                    f"The label {label!r} of {manifest.name!r} has a reserved name. Give the column another one."
                )
            _check_label(manifest, task, label)
    if manifest.labs is not None:
        _check_labs(manifest, manifest.labs)


def crossing_patients(table: pd.DataFrame) -> int:
    """Count the patients that are in more than one split: each of them leaks."""
    return int((table.groupby("patient_id", observed=True)["split"].nunique() > 1).sum())


def _check_rows(manifest: Manifest) -> None:
    table = manifest.table
    needed = [*_REQUIRED, *(label for task in manifest.tasks.values() for label in task.labels)]
    missing = [column for column in dict.fromkeys(needed) if column not in table.columns]
    if missing:
        raise PacxError(
            f"The table of {manifest.name!r} has no column {_some(missing)}. It has: {_some(list(table.columns), 30)}. "
            "Name the columns that hold these things."
        )
    if len(table) == 0:
        raise PacxError(
            f"The data set {manifest.name!r} has no rows. Check that the root folder or table is the right one."
        )
    for column in ("image_id", "patient_id"):
        empty = int(table[column].isna().sum())
        if empty:
            raise PacxError(f"{empty} of {len(table)} rows of {manifest.name!r} have no {column}. Each row needs one.")
    twice = table.loc[table["image_id"].duplicated(), "image_id"].unique().tolist()
    if twice:
        raise PacxError(
            f"{len(twice)} image ids of {manifest.name!r} are there more than once: {_some(twice)}. "
            "Each image may have one row only; remove the copies or give them ids of their own."
        )
    unknown = [name for name in table["split"].unique().tolist() if name not in SPLITS]
    if unknown:
        raise PacxError(
            f"The split column of {manifest.name!r} holds {_some(unknown)}. "
            f"Allowed are {', '.join(SPLITS)}; rename the values or leave the split column out to draw a new split."
        )


def _check_patients(manifest: Manifest) -> None:
    num_splits = manifest.table.groupby("patient_id", observed=True)["split"].nunique()
    shared = num_splits[num_splits > 1].index.tolist()
    if shared:
        raise PacxError(
            f"{len(shared)} patients of {manifest.name!r} are in more than one split: {_some(shared)}. "
            "Scores on such a split are too good. Split by patient, or pass --allow_patient_overlap true to go on."
        )


def _check_label(manifest: Manifest, task: Task, label: str) -> None:
    values = manifest.table[label]
    try:
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise PacxError(
            f"The label column {label!r} of {manifest.name!r} is not numeric "
            f"(e.g. {_some(values.dropna().unique().tolist(), 3)}). Labels are 0, 1 or empty, or class numbers 0..K-1."
        ) from error
    known = numbers[~np.isnan(numbers)]
    if task.kind == "multiclass":
        wrong = known[(known < 0) | (known != np.floor(known)) | np.isinf(known)]
        allowed = "whole class numbers from 0, or empty for unknown"
    else:
        wrong = known[(known != 0) & (known != 1)]
        allowed = "0, 1, or empty for unknown"
    if len(wrong):
        raise PacxError(
            f"The label column {label!r} of {manifest.name!r} holds {_some(np.unique(wrong).tolist())}. "
            f"Allowed in a {task.kind} task: {allowed}. Map other values before preparing."
        )


def _check_labs(manifest: Manifest, labs: pd.DataFrame) -> None:
    strangers = labs.index.difference(pd.Index(manifest.table["image_id"])).tolist()
    if strangers:
        raise PacxError(
            f"The labs of {manifest.name!r} name {len(strangers)} images that it does not have: {_some(strangers)}."
        )
    if labs.index.has_duplicates:
        raise PacxError(f"The labs of {manifest.name!r} have several rows for one image. Keep one row per image.")
    infinite = [str(column) for column in labs.columns if np.isinf(labs[column].to_numpy(dtype=np.float64)).any()]
    if infinite:
        raise PacxError(
            f"The labs {_some(infinite)} of {manifest.name!r} hold infinite values. "
            "Replace values beyond a detection limit by the limit, or leave them empty."
        )


def _some(items: Sequence[object], limit: int = 5) -> str:
    shown = ", ".join(repr(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
