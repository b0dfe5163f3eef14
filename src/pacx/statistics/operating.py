"""Operating points: thresholds chosen on validation rows, and sensitivity read off the ROC curve.

A row is called positive if its score is at least the threshold. Thresholds are scores that occur, so that none lies in
a gap that the next cohort may fill otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from pacx.errors import PacxError
from pacx.statistics.bootstrap import Array, Resamples
from pacx.statistics.ordering import Block, Ordering, checked, draw_by_draw, one_draw, order

__all__ = [
    "f1_threshold",
    "sensitivity_at_specificity",
    "sensitivity_at_specificity_draws",
    "sensitivity_of_block",
    "specificity_threshold",
]

_SLACK = 1e-9
"""share of the negatives by which a specificity may fall short: (1 - .9) x 10 is not 1 in binary"""


def f1_threshold(target: ArrayLike, score: ArrayLike) -> float:
    """Find the threshold with the largest F1 = 2 TP / (2 TP + FP + FN).

    Of several with the same F1 the highest one, which calls the fewest rows positive.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        score: (N,) higher = more positive.

    Returns:
        one of the scores; NaN if a class is absent.
    """
    y, s = _known(target, score)
    if not _both_classes(y):
        return float("nan")
    falling = np.argsort(-s, kind="stable")
    last = np.flatnonzero(np.append(np.diff(s[falling]) != 0, True))
    hits = np.cumsum(y[falling])[last]
    f1 = 2 * hits / (last + 1 + y.sum())
    return float(s[falling][last[np.argmax(f1)]])  # argmax takes the first, thus the highest, of equals


def specificity_threshold(target: ArrayLike, score: ArrayLike, *, specificity: float = 0.9) -> float:
    """Find the lowest threshold at which at least this share of the negatives scores below.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        score: (N,) higher = more positive.
        specificity: share of the negatives to be called negative, in [0, 1].

    Returns:
        one of the scores, infinity if none is high enough; NaN if a class is absent.
    """
    _check_specificity(specificity)
    y, s = _known(target, score)
    if not _both_classes(y):
        return float("nan")
    negatives = np.sort(s[y == 0])
    candidates = np.append(np.unique(s), np.inf)
    below = np.searchsorted(negatives, candidates, side="left")
    return float(candidates[np.argmax(below >= (specificity - _SLACK) * len(negatives))])


def sensitivity_at_specificity(
    target: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None, *, specificity: float = 0.9
) -> float:
    """Largest sensitivity among the points of the ROC curve with at least this specificity.

    The threshold is chosen on the very rows that are judged, so this flatters a little; a threshold from validation
    rows (`specificity_threshold`) does not.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        score: (N,) higher = more positive.
        weight: (N,) non-negative row weights; all 1 if not given.
        specificity: in [0, 1].

    Returns:
        a number in [0, 1]; NaN if a class is absent.
    """
    single = one_draw(np.size(target), weight)
    return float(sensitivity_at_specificity_draws(target, score, single, specificity=specificity)[0])


def sensitivity_at_specificity_draws(
    target: ArrayLike, score: ArrayLike, resamples: Resamples, *, specificity: float = 0.9
) -> Array:
    """The same for every bootstrap draw, each with a threshold of its own, (draws,)."""
    return draw_by_draw(order(target, score), resamples, sensitivity_of_block(specificity))[0]


def sensitivity_of_block(specificity: float) -> Callable[[Ordering, Block], Array]:
    """Make the measure of a block of draws: sensitivity at this specificity, (B,)."""
    _check_specificity(specificity)

    def sensitivity(ordering: Ordering, block: Block) -> Array:
        positives, negatives = block.positives, block.negatives
        allowed = block.below >= (specificity - _SLACK) * negatives[:, None]
        hits = np.where(allowed, block.positive_from_above(ordering), 0.0).max(axis=1)
        defined = (positives > 0) & (negatives > 0)
        found: Array = np.divide(hits, positives, out=np.full(len(hits), np.nan), where=defined)
        return found

    return sensitivity


def _known(target: ArrayLike, score: ArrayLike) -> tuple[Array, Array]:
    y, s = checked(target, score)
    known = ~np.isnan(y)
    return y[known], s[known]


def _both_classes(y: Array) -> bool:
    return bool((y == 1).any() and (y == 0).any())


def _check_specificity(specificity: float) -> None:
    if not 0 <= specificity <= 1:
        raise PacxError(f"A specificity lies in [0, 1]; found {specificity}.")
