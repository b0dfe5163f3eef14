"""Splits of public data sets: those that were published, mended where a patient crosses them, and those drawn here.

The published implementation's splits are by image, with scikit-learn's generator, seed 42. They are here to reproduce
published numbers; where a patient has several images they leak, and `pacx prepare` says how many patients do.
"""

from __future__ import annotations

import logging

import pandas as pd

from pacx.data.sources import Options
from pacx.data.splits import split_patients
from pacx.errors import MissingExtraError

__all__ = ["keep_patients_together", "reference_split", "with_official_test"]

log = logging.getLogger("pacx")

_SEED = 42
_PROTECTED = ("test", "val", "train")


def reference_split(
    table: pd.DataFrame, *, test: float, val: float, stratify: pd.Series | None = None, seed: int = _SEED
) -> pd.Series:
    """Split as scikit-learn's `train_test_split` does, applied twice.

    Args:
        table: rows in the order of the published tables; the order decides.
        test: share of all rows that test; 0 leaves the test split to somebody else.
        val: share of the rest that validates.
        stratify: class of each row, spread evenly; None for a plain random split.
        seed: of the generator.

    Returns:
        train, val or test per row, with the table's index.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        raise MissingExtraError("`pacx prepare --split reference` (package scikit-learn)", extra="train") from error
    split = pd.Series("train", index=table.index, name="split")
    rest = table.index
    for name, share in (("test", test), ("val", val)):
        if share > 0:
            classes = None if stratify is None else stratify.loc[rest]
            rest, chosen = train_test_split(rest, test_size=share, random_state=seed, stratify=classes)
            split.loc[chosen] = name
    return split


def with_official_test(table: pd.DataFrame, *, val: float, options: Options, stratify: str | None = None) -> pd.Series:
    """Keep an official test split, and draw who of the others validates: by patient, or by image as published.

    Args:
        table: has patient_id and a split of test and others.
        val: share of the others that validates.
        options: `split` and `seed`.
        stratify: label column that is spread evenly when drawn by patient.

    Returns:
        train, val or test per row, with the table's index.
    """
    split = table["split"].copy()
    others = table[split != "test"]
    if options.split == "reference":
        split[others.index] = reference_split(others, test=0.0, val=val)
    else:
        shares = (1 - val, val, 0.0)
        split[others.index] = split_patients(others, fractions=shares, seed=options.seed, stratify=stratify)
    return split


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
