"""Classification at a threshold: what is right and wrong among the rows called positive and negative.

    precision    TP / (TP + FP)         sensitivity (recall)  TP / (TP + FN)      specificity  TN / (TN + FP)
    F1           2 TP / (2 TP + FP + FN)                      balanced accuracy   (sensitivity + specificity) / 2

As in scikit-learn and torchmetrics, a precision without any row called positive is 0. Unlike there, everything is NaN
if the rows hold one class only: such a column cannot show that two classes are told apart, and is left out of means.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pacx.statistics.bootstrap import Array, Resamples
from pacx.statistics.ordering import checked, one_draw

__all__ = ["RATES", "Rates", "multiclass_draws", "rates", "rates_draws"]


class Rates(NamedTuple):
    """Measures of a classification; of each draw, (draws,)."""

    f1: Array
    precision: Array
    sensitivity: Array
    specificity: Array
    accuracy: Array
    balanced_accuracy: Array


RATES = Rates._fields


def rates(target: ArrayLike, score: ArrayLike, *, threshold: float) -> dict[str, float]:
    """Measure a classification at a threshold.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        score: (N,) higher = more positive.
        threshold: a row is called positive if its score is at least this.

    Returns:
        f1, precision, sensitivity, specificity, accuracy, balanced_accuracy, each in [0, 1]; NaN if a class is absent
        or the threshold is NaN.
    """
    found = rates_draws(target, score, one_draw(np.size(target)), threshold=threshold)
    return {name: float(value[0]) for name, value in found._asdict().items()}


def rates_draws(target: ArrayLike, score: ArrayLike, resamples: Resamples, *, threshold: float) -> Rates:
    """The same for every bootstrap draw; the threshold stays."""
    y, s = checked(target, score)
    called = s >= threshold
    cells = np.stack([called & (y == 1), called & (y == 0), ~called & (y == 1), ~called & (y == 0)], axis=1)
    tp, fp, fn, tn = resamples.sums(cells).T
    defined = (tp + fn > 0) & (fp + tn > 0) & ~np.isnan(threshold)
    sensitivity, specificity = _share(tp, tp + fn, defined), _share(tn, tn + fp, defined)
    return Rates(
        f1=_share(2 * tp, 2 * tp + fp + fn, defined),
        precision=_share(tp, tp + fp, defined),
        sensitivity=sensitivity,
        specificity=specificity,
        accuracy=_share(tp + tn, tp + fp + fn + tn, defined),
        balanced_accuracy=(sensitivity + specificity) / 2,
    )


def multiclass_draws(target: ArrayLike, score: ArrayLike, resamples: Resamples) -> tuple[Array, Array]:
    """Accuracy and macro F1 of the class with the highest score, for every bootstrap draw.

    Args:
        target: (N, K) 1 for the true class, 0 for the others. A row of zeros is of a class that has no score; it cannot
            be right, and such rows together are one more class with an F1 of 0.
        score: (N, K) comparable between classes; the first of equals is taken.
        resamples: draws over the N rows.

    Returns:
        accuracy (draws,), and F1 averaged over the classes that the draw holds (draws,); NaN for one class.
    """
    y, s = np.asarray(target, dtype=np.float64), np.asarray(score, dtype=np.float64)
    called = np.eye(y.shape[1])[np.argmax(s, axis=1)]
    hits, flagged, true = (resamples.sums(cells) for cells in (called * y, called, y))
    f1 = np.divide(2 * hits, flagged + true, out=np.zeros_like(hits), where=flagged + true > 0)
    rows, present = resamples.sums(np.ones(len(y))), true > 0
    classes = present.sum(axis=1) + (rows > true.sum(axis=1))
    several = classes > 1
    macro = np.divide((f1 * present).sum(axis=1), classes, out=np.full(len(classes), np.nan), where=several)
    return _share(hits.sum(axis=1), rows, several), macro


def _share(part: Array, whole: Array, defined: Array) -> Array:
    """Divide; 0 of 0 is 0 (nothing called positive), NaN where a measure is undefined."""
    share: Array = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return np.where(defined, share, np.nan)
