"""Average precision (AUPRC), for one weighting of the rows or for all bootstrap draws at once.

    AP = sum over positives i of w_i TP_i / (TP_i + FP_i) / sum of w_i

TP_i and FP_i: the weight of the positives and of the negatives that score at least as high as positive i. That is the
area under the precision-recall curve as a sum of steps, ties forming one step, as scikit-learn has it. Chance level is
the share of positives, so average precisions of cohorts with other shares cannot be compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pacx.statistics.bootstrap import Array, Resamples
from pacx.statistics.ordering import Block, Ordering, draw_by_draw, one_draw, order

__all__ = ["average_precision", "average_precision_draws", "average_precision_of_block"]


def average_precision(target: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the precision-recall curve as a sum of steps.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        score: (N,) any real scores, higher = more positive.
        weight: (N,) non-negative row weights; all 1 if not given.

    Returns:
        a number in (0, 1]; NaN if a class is absent or has no weight.

    Raises:
        PacxError: a label other than 0, 1, NaN, or a NaN score on a labelled row.
    """
    return float(average_precision_draws(target, score, one_draw(np.size(target), weight))[0])


def average_precision_draws(target: ArrayLike, score: ArrayLike, resamples: Resamples) -> Array:
    """Average precision of every bootstrap draw, (draws,); NaN where a draw holds one class only."""
    return draw_by_draw(order(target, score), resamples, average_precision_of_block)[0]


def average_precision_of_block(ordering: Ordering, block: Block) -> Array:
    """Average precision of each draw of a block, (B,)."""
    hits, false = block.positive_from_above(ordering), block.negatives[:, None] - block.below
    flagged = hits + false
    precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
    positives = block.positives
    gained = np.einsum("bp,bp->b", block.positive, precision)
    defined = (positives > 0) & (block.negatives > 0)
    found: Array = np.divide(gained, positives, out=np.full(len(gained), np.nan), where=defined)
    return found
