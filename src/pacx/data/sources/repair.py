"""Mend published splits in which a patient is in several parts, with the least change."""

from __future__ import annotations

import logging

import pandas as pd

__all__ = ["keep_patients_together"]

log = logging.getLogger("pacx")

_PROTECTED = ("test", "val", "train")


def keep_patients_together(table: pd.DataFrame, *, name: str, what: str = "images of patients") -> pd.Series:
    """Give all images of a patient the most protected split among theirs: test before val before train.

    So the test split keeps all its images, and nobody whom it tests is trained on. How many images move is logged.

    Args:
        table: has patient_id and split.
        name: the data set, for the log.
        what: what moves, for the log.
    """
    rank = table["split"].map({split: number for number, split in enumerate(_PROTECTED)})
    best = rank.groupby(table["patient_id"].to_numpy()).transform("min")
    moved = int((best != rank).sum())
    if moved:
        log.warning("%s: %d %s were moved out of a split that the same patient tests or validates", name, moved, what)
    return best.map(dict(enumerate(_PROTECTED))).rename("split")
