"""Who teaches what to which rows: the plan of a distillation, holes and controls included."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pacx.data.bank import Bank
from pacx.data.manifest import SPLITS
from pacx.data.splits import uniform
from pacx.data.store import Store
from pacx.errors import PacxError

__all__ = ["Lessons", "by_teacher", "paired_rows", "plan_lessons"]


@dataclass(frozen=True)
class Lessons:
    """What the teachers say, and to whom."""

    banks: Mapping[str, Bank]
    """by teacher, as the student is taught: thinned, shuffled"""
    rows: Mapping[str, NDArray[np.int64]]
    """by split, the store rows with an image and a teacher"""
    patient: NDArray[np.int64]
    """(N,) a number for the patient of each store row"""

    @property
    def num_complete(self) -> int:
        """Count the training rows that every teacher knows."""
        rows = self.rows["train"]
        return int(np.stack([bank.present[rows] for bank in self.banks.values()]).all(axis=0).sum())

    def embeddings(self, name: str, split: str) -> NDArray[np.float32]:
        """Return what one teacher says of the rows of a split that it knows, (n, D)."""
        bank, rows = self.banks[name], self.rows[split]
        return np.asarray(bank.embeddings[rows[bank.present[rows]]])

    def can_contrast(self, name: str, *, patient_aware: bool) -> bool:
        """Say whether any two training rows of a teacher may be told apart: of two patients, or any if not aware."""
        rows = self.taught_rows(name)
        return len(np.unique(self.patient[rows]) if patient_aware else rows) > 1

    def taught_rows(self, name: str) -> NDArray[np.int64]:
        """Return the training rows that one teacher knows."""
        rows = self.rows["train"]
        return rows[self.banks[name].present[rows]]


def plan_lessons(
    store: Store,
    banks: Mapping[str, Bank],
    *,
    complete_only: bool = False,
    keep: Sequence[str] | None = None,
    num_pairs: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
) -> Lessons:
    """Choose the rows, after the teachers have forgotten what they are to forget; then shuffle if asked.

    Args:
        store: the store that the banks belong to.
        banks: by teacher.
        complete_only: leave out rows that a teacher does not know.
        keep: shares of patients to keep, as in `ecg=0.5`.
        num_pairs: how many training rows to keep, whole patients at a time; all if not given.
        shuffle: deal each teacher's embeddings out anew within each split.
        seed: of both.

    Raises:
        PacxError: a share that makes no sense, or of a teacher that is not there; more pairs than there are;
            a teacher without a training row.
    """
    split, patient = store.manifest["split"].to_numpy(dtype=str), store.manifest["patient_id"].to_numpy(dtype=str)
    shares = by_teacher(keep, banks, option="keep")
    taught = {
        name: bank.thinned(shares.get(name, 1.0), split=split, patient=patient, seed=seed)
        for name, bank in banks.items()
    }
    rows = {part: paired_rows(store, taught, part, complete_only=complete_only) for part in SPLITS}
    if num_pairs is not None:
        rows["train"] = _some_patients(rows["train"], patient, num_pairs, seed=seed)
    if shuffle:
        taught = {name: bank.shuffled(split, patient=patient, seed=seed) for name, bank in taught.items()}
    lessons = Lessons(taught, rows, np.unique(patient, return_inverse=True)[1].astype(np.int64))
    _refuse_silent(lessons, complete_only=complete_only)
    return lessons


def _refuse_silent(lessons: Lessons, *, complete_only: bool) -> None:
    """Refuse teachers who would teach nobody; their heads would stay as they were drawn."""
    if complete_only and not len(lessons.rows["train"]):
        raise PacxError(
            "There is no row to train on: no image of the training split is known to all of "
            f"{', '.join(lessons.banks)}. Leave --complete_only out, or leave out a teacher."
        )
    silent = [repr(name) for name in lessons.banks if not len(lessons.taught_rows(name))]
    if silent:
        raise PacxError(
            f"Teacher {' and '.join(silent)} has no row to train on: its bank knows none of the training rows that "
            "--keep, --num_pairs and --complete_only leave. Leave this bank out, or leave more rows."
        )


def _some_patients(rows: NDArray[np.int64], patient: NDArray[np.str_], num: int, *, seed: int) -> NDArray[np.int64]:
    """Keep the rows of the first patients of an order that seed and ids alone decide: fewer lie within more."""
    if not 1 <= num <= len(rows):
        raise PacxError(f"num_pairs is {num}; the training split has {len(rows)} rows to choose from, and 1 is needed.")
    order = sorted(set(patient[rows]), key=lambda name: uniform(f"pairs:{seed}:{name}"))
    place = {name: number for number, name in enumerate(order)}
    of_row = np.array([place[name] for name in patient[rows]])
    last = np.searchsorted(np.cumsum(np.bincount(of_row)), num)
    return rows[of_row <= last]


def by_teacher(given: Sequence[str] | None, banks: Mapping[str, Bank], *, option: str) -> dict[str, float]:
    """Read numbers for teachers, as in `ecg=0.5`.

    Raises:
        PacxError: not NAME=NUMBER, a number that is infinite or below 0, no such teacher, or nothing but zeros for all.
    """
    numbers: dict[str, float] = {}
    for text in given or []:
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name not in banks or not 0 <= value < math.inf:
            raise PacxError(
                f"--{option} {text}: give TEACHER=NUMBER, a number of at least 0, for teachers among "
                f"{', '.join(banks)}, as in {next(iter(banks))}=0.5."
            )
        numbers[name] = value
    if not any(numbers.get(name, 1.0) for name in banks):
        raise PacxError(f"--{option} is 0 for every teacher; nothing would be learned. Give one of them more.")
    return numbers


def paired_rows(store: Store, banks: Mapping[str, Bank], split: str, *, complete_only: bool) -> NDArray[np.int64]:
    """Return the rows of a split with an image and one teacher at least, or all teachers."""
    rows = store.rows(split, needs=("image",))
    present = np.stack([bank.present[rows] for bank in banks.values()])
    return rows[present.all(axis=0) if complete_only else present.any(axis=0)]
