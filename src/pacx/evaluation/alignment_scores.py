"""Judge what a ridge regression reads off frozen features of a teacher's embedding; see `pacx.evaluation.alignment`.

Two protocols give the same kind of numbers from the same rows:

|                  | honest                                          | paper                                    |
|------------------|-------------------------------------------------|------------------------------------------|
| penalty          | chosen without test rows                        | 10                                       |
| fitted on        | rows of patients not distilled on               | all training rows                        |
| centre           | mean embedding of the fitted rows               | mean embedding of the test rows          |
| R2 against       | that mean                                       | the test mean (scikit-learn's `r2_score`) |
| random pairs     | all other rows, exactly                         | one permutation, seed 0                  |
| retrieval by     | centred cosine                                  | raw cosine                               |

Known differences from the published script: its training loader drops an incomplete last batch (16 of 10,000 rows),
ours keeps every row; ties in retrieval are shared (`pacx.statistics.retrieval_hits`), not decided by the order of the
rows; intervals are added.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pacx.data.bank import Bank
from pacx.data.store import Store
from pacx.errors import PacxError
from pacx.evaluation.ridge import Ridge, fit_ridge, fit_ridge_by_groups, fit_ridge_with
from pacx.statistics import bootstrap_mean, retrieval, retrieval_hits, unit_rows

__all__ = ["FEWEST", "KS", "FitOn", "Protocol", "measure_alignment", "rows_to_fit"]

KS = (1, 5, 10)
PUBLISHED_PENALTY = 10.0

FEWEST = 30
"""Rows that must remain to fit on when some are left out; with fewer in the first place, `pacx align` warns."""

Protocol = Literal["honest", "paper"]
FitOn = Literal["train", "val"]

Array = NDArray[np.float64]


class _Pairs(NamedTuple):
    features: NDArray[np.float32]
    """(n, D)"""
    teacher: NDArray[np.float32]
    """(n, M)"""
    rows: NDArray[np.int64]
    """(n,) store rows"""


class _Judged(NamedTuple):
    """Predictions for the test rows, and where the protocol puts the centre."""

    predicted: Array
    """(n, M)"""
    target: Array
    """(n, M)"""
    centre: Array
    """(M,)"""

    @property
    def centred(self) -> tuple[Array, Array]:
        return self.predicted - self.centre, self.target - self.centre


def measure_alignment(
    features: NDArray[np.float32],
    bank: Bank,
    store: Store,
    *,
    protocol: Protocol = "honest",
    fit_on: FitOn = "train",
    distilled: NDArray[np.bool_] | None = None,
    leave_out_distilled: bool = True,
    draws: int = 1000,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Fit the read-out of one teacher and judge it on the test rows.

    Args:
        features: (N, D), row i belongs to store row i; rows without an image are not used.
        bank: the teacher.
        store: tells the splits and patients.
        protocol: see the module.
        fit_on: honest: the split that the ridge is fitted on. On train, the validation rows choose the penalty; on val,
            or without validation rows, cross-validation over patients does.
        distilled: (N,) whether the encoder was distilled on the row's patient; nobody if not given.
        leave_out_distilled: honest: do not fit on such rows.
        draws: number of bootstrap draws.

    Returns:
        The numbers: r2, r2_pooled, cosine, cosine_centred (Intervals), random_pair_cosine,
        random_pair_cosine_centred, retrieval {image_to_teacher, teacher_to_image: as `pacx.statistics.retrieval`},
        alpha, n_train (rows fitted on), n_val (rows that chose the penalty), n_test, n_distilled (rows fitted on whose
        patients the encoder was distilled on), n_left_out (rows not fitted on for that reason), num_duplicates (test
        rows whose embedding another one has too). And one row per test image: teacher, image_id, patient_id, cosine,
        cosine_centred, r1, r5, r10 (image to teacher).

    Raises:
        PacxError: too few rows have an image and this teacher, or remain when those of distilled patients are left out.
    """
    known = np.zeros(len(store), dtype=bool) if distilled is None else distilled
    left_out = known if protocol == "honest" and leave_out_distilled else np.zeros_like(known)
    fitted = _pairs(features, bank, rows_to_fit(bank, store, fit_on=fit_on, left_out=left_out))
    chooses = protocol == "honest" and fit_on == "train"
    chosen_on = _pairs(features, bank, _rows(bank, store, "val")[: None if chooses else 0])
    ridge, test = _fit(fitted, chosen_on, store, protocol=protocol), _pairs(features, bank, _rows(bank, store, "test"))
    target = test.teacher.astype(np.float64)
    centre = target.mean(axis=0) if protocol == "paper" else ridge.target_mean
    judged = _Judged(ridge.centred(test.features) + ridge.target_mean, target, centre)
    table = _per_image(bank, store, test, judged, protocol=protocol)
    return {
        **_numbers(judged, table, protocol=protocol, draws=draws),
        "alpha": ridge.penalty,
        "n_train": len(fitted.rows),
        "n_val": len(chosen_on.rows),
        "n_test": len(test.rows),
        "n_distilled": int(known[fitted.rows].sum()),
        "n_left_out": int(left_out[_rows(bank, store, fit_on)].sum()),
        "num_duplicates": len(target) - len(np.unique(target, axis=0)),
    }, table


def rows_to_fit(bank: Bank, store: Store, *, fit_on: FitOn, left_out: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the store rows that a read-out is fitted on.

    Args:
        bank: the teacher.
        store: tells the splits.
        fit_on: which split.
        left_out: (N,) rows not to fit on.

    Raises:
        PacxError: too few remain.
    """
    rows = _rows(bank, store, fit_on)
    kept = rows[~left_out[rows]]
    num_out = len(rows) - len(kept)
    if len(kept) < (FEWEST if num_out else 2):
        raise PacxError(_refusal(bank, store, fit_on=fit_on, left_out=left_out))
    return kept


def _fit(fitted: _Pairs, chosen_on: _Pairs, store: Store, *, protocol: Protocol) -> Ridge:
    if protocol == "paper":
        return fit_ridge_with(fitted.features, fitted.teacher, penalty=PUBLISHED_PENALTY)
    if len(chosen_on.rows):
        return fit_ridge(fitted.features, fitted.teacher, held_out=(chosen_on.features, chosen_on.teacher))
    patient = store.manifest["patient_id"].to_numpy(dtype=str)[fitted.rows]
    return fit_ridge_by_groups(fitted.features, fitted.teacher, groups=patient)


def _numbers(judged: _Judged, table: pd.DataFrame, *, protocol: Protocol, draws: int) -> dict[str, Any]:
    predicted, target = judged.centred
    patient = table["patient_id"].to_numpy()
    r2, r2_pooled = _explained(predicted, target, constant_counts=protocol == "paper")
    chance = _one_permutation if protocol == "paper" else _random_pair_cosine
    query, gallery = (judged.predicted, judged.target) if protocol == "paper" else (predicted, target)
    return {
        "r2": r2,
        "r2_pooled": r2_pooled,
        "cosine": bootstrap_mean(table["cosine"], patient, draws=draws),
        "cosine_centred": bootstrap_mean(table["cosine_centred"], patient, draws=draws),
        "random_pair_cosine": chance(judged.predicted, judged.target),
        "random_pair_cosine_centred": chance(predicted, target),
        "retrieval": {
            "image_to_teacher": retrieval(query, gallery, patient=patient, ks=KS, draws=draws),
            "teacher_to_image": retrieval(gallery, query, patient=patient, ks=KS, draws=draws),
        },
    }


def _per_image(bank: Bank, store: Store, test: _Pairs, judged: _Judged, *, protocol: Protocol) -> pd.DataFrame:
    """Judge every test image by itself."""
    raw, centred = (judged.predicted, judged.target), judged.centred
    hits, _ = retrieval_hits(*(raw if protocol == "paper" else centred), ks=KS)
    rows = store.manifest.iloc[test.rows]
    return pd.DataFrame(
        {
            "teacher": bank.name,
            "image_id": rows["image_id"].astype(str).to_numpy(),
            "patient_id": rows["patient_id"].astype(str).to_numpy(),
            "cosine": _row_cosine(*raw),
            "cosine_centred": _row_cosine(*centred),
            **{f"r{k}": hits[:, i] for i, k in enumerate(KS)},
        }
    )


def _explained(predicted: Array, wanted: Array, *, constant_counts: bool) -> tuple[float, float]:
    """Return R2 per dimension averaged, and pooled, against predicting the centre.

    Dimensions that do not vary are left out, or count 0 (1 if hit exactly) as in scikit-learn.
    """
    error, spread = np.sum((wanted - predicted) ** 2, axis=0), np.sum(wanted**2, axis=0)
    varying = spread > 0
    if not varying.any():
        return float("nan"), float("nan")
    by_dimension = np.where(error > 0, 0.0, 1.0)
    by_dimension[varying] = 1 - error[varying] / spread[varying]
    counted = by_dimension if constant_counts else by_dimension[varying]
    return float(np.mean(counted)), float(1 - error.sum() / spread.sum())


def _rows(bank: Bank, store: Store, split: str) -> NDArray[np.int64]:
    """Return the rows of a split with image and teacher."""
    rows = store.rows(split, needs=("image",))
    return rows[bank.present[rows]]


def _refusal(bank: Bank, store: Store, *, fit_on: FitOn, left_out: NDArray[np.bool_]) -> str:
    out = left_out[_rows(bank, store, fit_on)]
    num_out, num_left = int(out.sum()), int(np.sum(~out))
    if not num_out:
        return f"Teacher bank '{bank.name}' covers {num_left} images in {fit_on}; a read-out needs at least two there."
    num_val = int(np.sum(~left_out[_rows(bank, store, "val")]))
    hint = f"give --fit_on val ({num_val} rows), or " if fit_on == "train" and num_val >= FEWEST else ""
    return (
        f"Of the {num_left + num_out} {fit_on} images with an embedding of teacher '{bank.name}', {num_out} are of "
        f"patients that the encoder was distilled on; {num_left} are left to fit on, at least {FEWEST} are needed. A "
        "ridge fitted on memorised rows would say little of new ones: "
        f"{hint}pass --leave_out_distilled false to fit on them all the same, which the result then says."
    )


def _pairs(features: NDArray[np.float32], bank: Bank, rows: NDArray[np.int64]) -> _Pairs:
    return _Pairs(features[rows], bank.embeddings[rows], rows)


def _row_cosine(a: Array, b: Array) -> Array:
    return np.asarray(np.sum(unit_rows(a) * unit_rows(b), axis=1))


def _random_pair_cosine(a: Array, b: Array) -> float:
    """Mean cosine of a_i with b_j over all i != j: all pairs are one product of two sums."""
    unit_a, unit_b = unit_rows(a), unit_rows(b)
    n = len(unit_a)
    return float((unit_a.sum(axis=0) @ unit_b.sum(axis=0) - np.sum(unit_a * unit_b)) / (n * (n - 1)))


def _one_permutation(a: Array, b: Array) -> float:
    """Mean cosine after one permutation of the rows, as published; some rows may stay in place."""
    return float(_row_cosine(a, b[np.random.RandomState(0).permutation(len(b))]).mean())
