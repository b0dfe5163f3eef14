"""Who trains and who tests: splits and label subsets by patient, the same on every machine.

They come from SHA-256 of the patient id, not from a random generator: they do not depend on the machine, the library
versions or the order of the rows, and a 1 % subset lies inside the 10 % subset. `reference_rows` draws as the published
implementation does, image by image, and is there to be compared with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from pacx.errors import PacxError

__all__ = ["SPLITS", "fold_patients", "reference_rows", "split_hash", "split_patients", "subset_rows", "uniform"]

SPLITS = ("train", "val", "test")


def split_patients(
    table: pd.DataFrame,
    *,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    stratify: str | None = None,
) -> pd.Series:
    """Draw a train/val/test split by patient, the same on every machine.

    Args:
        table: has `patient_id` and, if asked, the `stratify` column.
        fractions: shares of patients in train, val and test; they sum to 1.
        seed: another seed gives another split.
        stratify: a label column; the patients' highest label is spread evenly over the splits.

    Returns:
        One of `SPLITS` per row, with the table's index. Every split with a share above 0 gets a patient if there are
        enough patients.

    Raises:
        PacxError: the fractions are not three shares that sum to 1.
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.shape != (3,) or (shares < 0).any() or not np.isclose(shares.sum(), 1.0):
        raise PacxError(f"Split fractions {tuple(fractions)} are not three shares (train, val, test) that sum to 1.")
    label = None if stratify is None else table[stratify].astype(np.float64)
    patients = _patient_order(table["patient_id"], label, seed=seed)
    counts = _split_counts(len(patients), shares)
    names = np.repeat(SPLITS, counts)
    return table["patient_id"].astype(str).map(dict(zip(patients, names, strict=True))).rename("split")


def fold_patients(
    table: pd.DataFrame, *, folds: int, fold: int, fractions: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0
) -> pd.Series:
    """Make one fold of a cross-validation by patient: fold `fold` of `folds` tests, the others train and validate.

    In which fold a patient tests depends on the seed and the patient's id alone. So stores of the same patients agree,
    whoever else is in them: what was pre-trained on fold 0 of one store has seen no test patient of fold 0 of another.
    The folds are therefore equal in expectation only.

    Args:
        table: has `patient_id`.
        folds: how many, at least 2.
        fold: which of them tests, counted from 0.
        fractions: shares of train, val and test; the first two divide among themselves who does not test.
        seed: another seed deals the patients out anew.

    Returns:
        One of `SPLITS` per row, with the table's index.

    Raises:
        PacxError: no such fold, or fractions that leave nobody to train on.
    """
    if folds < 2 or not 0 <= fold < folds:
        raise PacxError(f"There is no fold {fold} of {folds}: --folds is at least 2, --fold from 0 to one less.")
    train, val = (*fractions, 0.0, 0.0)[:2]
    if len(fractions) != 3 or not train > 0 or not val >= 0:
        raise PacxError(
            f"Split fractions {tuple(fractions)} are not three shares with somebody to train on. Give e.g. 0.7 0.1 0.2."
        )
    patients = table["patient_id"].astype(str)
    split = {name: _fold_split(name, folds, fold, val_share=val / (train + val), seed=seed) for name in set(patients)}
    return patients.map(split).rename("split")


def _fold_split(patient: str, folds: int, fold: int, *, val_share: float, seed: int) -> str:
    if uniform(f"fold:{seed}:{patient}") * folds // 1 == fold:
        return "test"
    return "val" if uniform(f"val:{seed}:{patient}") < val_share else "train"


def uniform(text: str) -> float:
    """Turn a text into a number, the same on every machine; those of many texts are spread evenly over [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def subset_rows(
    table: pd.DataFrame, rows: npt.ArrayLike, *, fraction: float, seed: int, label: str | Sequence[str]
) -> npt.NDArray[np.int64]:
    """Choose a share of the labelled rows, by whole patients, so that smaller shares lie inside larger ones.

    Patients are put in one fixed order for a seed and label: first one patient of each class, then the rest with the
    classes evenly interleaved. A share is a prefix of that order: the shortest one that holds `fraction` of the rows
    and at least one patient of each class. With several labels, a patient's class is the rarest label that it is
    positive for, if any.

    Args:
        table: a store's manifest.
        rows: row positions to choose from, usually the training rows.
        fraction: share of the rows with a known label, in (0, 1].
        seed: another seed gives another order.
        label: the column or columns that decide; rows where all of them are NaN are left out, at every fraction.

    Returns:
        Ascending row positions, int64.

    Raises:
        PacxError: the fraction is not in (0, 1].
    """
    _check_fraction(fraction)
    names = [label] if isinstance(label, str) else list(label)
    chosen, labels = _labelled(table, rows, names)
    if fraction == 1.0 or len(chosen) == 0:
        return np.sort(chosen)
    patient = table["patient_id"].iloc[chosen].astype(str).reset_index(drop=True)
    value = pd.Series(labels[:, 0] if len(names) == 1 else _rarest_positive(labels))
    order = _patient_order(patient, value, seed=seed)
    place = np.asarray(patient.map({name: position for position, name in enumerate(order)}), dtype=np.int64)
    rows_up_to = np.cumsum(np.bincount(place, minlength=len(order)))
    num_patients = int(np.searchsorted(rows_up_to, fraction * len(chosen) - 1e-9)) + 1
    num_classes = len(value.groupby(patient.to_numpy()).max().unique())
    kept: npt.NDArray[np.int64] = np.sort(chosen[place < max(num_patients, num_classes)])
    return kept


def reference_rows(
    table: pd.DataFrame, rows: npt.ArrayLike, *, fraction: float, seed: int, labels: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Choose a share of the labelled rows as the published implementation does: by image, not by patient.

    n = int(N x fraction), at least the number of labels and one more. First a random row for each label among those
    where it is 1, then others until there are n, all alike. So the subset is not stratified, of a multiclass column
    only class 1 is sure to be there, and one patient may be in and out. Where theirs takes a random generator, this
    takes SHA-256 of the image id: the same distribution, on every machine.

    Args:
        table: a store's manifest.
        rows: row positions to choose from, usually the training rows.
        fraction: share of the rows with a known label, in (0, 1].
        seed: another seed gives other rows.
        labels: the task's columns; rows where all of them are NaN are left out.

    Returns:
        Ascending row positions, int64.

    Raises:
        PacxError: the fraction is not in (0, 1].
    """
    _check_fraction(fraction)
    chosen, values = _labelled(table, rows, labels)
    size = max(int(len(chosen) * fraction), len(labels) + 1)
    if size >= len(chosen):
        return np.sort(chosen)
    names = table["image_id"].astype(str).to_numpy()[chosen]
    kept = np.zeros(len(chosen), dtype=bool)
    for column, label in enumerate(labels):
        positive = np.flatnonzero(values[:, column] == 1)
        if len(positive):
            kept[min(positive, key=lambda row: uniform(f"positive:{seed}:{label}:{names[row]}"))] = True
    order = np.argsort([uniform(f"image:{seed}:{name}") for name in names], kind="stable")
    kept[order[~kept[order]][: size - kept.sum()]] = True
    return np.sort(chosen[kept])


def split_hash(table: pd.DataFrame) -> str:
    """Fingerprint who is in which split: SHA-256 over the sorted (patient_id, split) pairs."""
    pairs = sorted(set(zip(table["patient_id"].astype(str), table["split"].astype(str), strict=True)))
    return hashlib.sha256("\n".join(f"{patient}\t{split}" for patient, split in pairs).encode()).hexdigest()


def _check_fraction(fraction: float) -> None:
    if not 0.0 < fraction <= 1.0:
        raise PacxError(f"A label fraction of {fraction} makes no sense; give a share in (0, 1], e.g. 0.1 for 10 %.")


def _labelled(
    table: pd.DataFrame, rows: npt.ArrayLike, labels: Sequence[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the rows with a known label, and their labels (n, L)."""
    chosen = np.asarray(rows, dtype=np.int64)
    values: npt.NDArray[np.float64] = table[list(labels)].to_numpy(dtype=np.float64)[chosen]
    known = ~np.isnan(values).all(axis=1)
    return chosen[known], values[known]


def _rarest_positive(labels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Number the labels (n, L) by how rare they are, the rarest highest; return each row's highest, 0 without any."""
    positive = labels == 1
    rarity = np.empty(labels.shape[1])
    rarity[np.argsort(-positive.sum(axis=0), kind="stable")] = np.arange(1, labels.shape[1] + 1)
    return np.asarray((positive * rarity).max(axis=1))


def _patient_order(patient_id: pd.Series, label: pd.Series | None, *, seed: int) -> list[str]:
    """Order the patients by hash; with a label, interleave its strata evenly and put one of each stratum first.

    The r-th of n patients of a stratum gets the place (r + 1/2) / n, so every prefix of the order holds about the
    same share of each stratum; the first patient of a stratum is moved to place 0.
    """
    patients = patient_id.astype(str)
    value = pd.Series(0.0, index=patients.index) if label is None else label
    stratum = value.groupby(patients.to_numpy()).max()
    frame = pd.DataFrame({"stratum": stratum.fillna(-1.0)})
    frame["key"] = [hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in frame.index]
    frame = frame.sort_values("key")
    groups = frame.groupby("stratum")["key"]
    rank, size = groups.cumcount(), groups.transform("size")
    frame["place"] = np.where(rank == 0, 0.0, (rank + 0.5) / size)
    return [str(name) for name in frame.sort_values(["place", "key"]).index]


def _split_counts(num_patients: int, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    counts = np.diff(np.rint(np.cumsum(shares) * num_patients), prepend=0).astype(np.int64)
    wanted = shares > 0
    while num_patients >= wanted.sum() and (counts[wanted] == 0).any():
        counts[np.flatnonzero(wanted & (counts == 0))[0]] += 1
        counts[np.argmax(counts)] -= 1
    return counts
