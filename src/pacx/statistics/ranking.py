"""AUROC, for one weighting of the rows or for all bootstrap draws at once.

    AUROC = sum over i, j of w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / sum over i, j of w_i w_j

Positives i, negatives j; a draw gives each row the count of its patient as its weight w. What the draws share is in
`pacx.statistics.ordering`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pacx.statistics.bootstrap import (
    Array,
    Difference,
    Interval,
    Resamples,
    difference_of,
    interval_of,
    mean_of_defined,
    resample_patients,
)
from pacx.statistics.ordering import Block, Ordering, draw_by_draw, one_draw, order

__all__ = [
    "auroc",
    "auroc_draws",
    "auroc_of_block",
    "bootstrap_auroc",
    "bootstrap_macro_auroc",
    "macro_auroc",
    "macro_auroc_draws",
    "paired_auroc_difference",
    "paired_macro_auroc_difference",
]


def auroc(target: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting one half.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        score: (N,) any real scores, higher = more positive.
        weight: (N,) non-negative row weights; all 1 if not given.

    Returns:
        a number in [0, 1]; NaN if a class is absent or has no weight.

    Raises:
        PacxError: a label other than 0, 1, NaN, or a NaN score on a labelled row.
    """
    return float(auroc_draws(target, score, one_draw(np.size(target), weight))[0])


def auroc_draws(target: ArrayLike, score: ArrayLike, resamples: Resamples) -> Array:
    """AUROC of every bootstrap draw, (draws,); NaN where a draw holds one class only."""
    return draw_by_draw(order(target, score), resamples, auroc_of_block)[0]


def auroc_of_block(ordering: Ordering, block: Block) -> Array:
    """AUROC of each draw of a block, (B,)."""
    del ordering  # all measures of a block are called alike
    pairs = block.positives * block.negatives
    won = 0.5 * np.einsum("bp,bp->b", block.positive, block.below + block.not_above)
    found: Array = np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return found


def bootstrap_auroc(
    target: ArrayLike, score: ArrayLike, patient: ArrayLike, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """AUROC with its patient-level bootstrap interval.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        score: (N,) higher = more positive.
        patient: (N,) patient of each row.
        draws: number of bootstrap draws.
        seed: seed of the draws.
        level: coverage of the interval.
    """
    resamples = resample_patients(patient, draws=draws, seed=seed)
    return interval_of(auroc(target, score), auroc_draws(target, score, resamples), level=level)


def paired_auroc_difference(
    target: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike,
    patient: ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """AUROC of `score_a` minus AUROC of `score_b` on the same rows, with the same patients in each draw."""
    resamples = resample_patients(patient, draws=draws, seed=seed)
    value = auroc(target, score_a) - auroc(target, score_b)
    drawn = auroc_draws(target, score_a, resamples) - auroc_draws(target, score_b, resamples)
    return difference_of(value, drawn, level=level)


def macro_auroc(target: ArrayLike, score: ArrayLike) -> float:
    """Mean AUROC over the columns in which it is defined; target and score are (N, L)."""
    y, s = np.asarray(target, dtype=np.float64), np.asarray(score, dtype=np.float64)
    return float(mean_of_defined(np.array([[auroc(y[:, i], s[:, i])] for i in range(y.shape[1])]))[0])


def macro_auroc_draws(target: ArrayLike, score: ArrayLike, resamples: Resamples) -> Array:
    """Macro AUROC of every draw, (draws,): the mean over the columns that are defined in that draw."""
    y, s = np.asarray(target, dtype=np.float64), np.asarray(score, dtype=np.float64)
    return mean_of_defined(np.stack([auroc_draws(y[:, i], s[:, i], resamples) for i in range(y.shape[1])]))


def bootstrap_macro_auroc(
    target: ArrayLike, score: ArrayLike, patient: ArrayLike, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Macro AUROC over the columns of (N, L) targets, with its patient-level bootstrap interval."""
    resamples = resample_patients(patient, draws=draws, seed=seed)
    return interval_of(macro_auroc(target, score), macro_auroc_draws(target, score, resamples), level=level)


def paired_macro_auroc_difference(
    target: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike,
    patient: ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Macro AUROC of `score_a` minus that of `score_b`, both (N, L), with the same patients in each draw."""
    resamples = resample_patients(patient, draws=draws, seed=seed)
    value = macro_auroc(target, score_a) - macro_auroc(target, score_b)
    drawn = macro_auroc_draws(target, score_a, resamples) - macro_auroc_draws(target, score_b, resamples)
    return difference_of(value, drawn, level=level)
