"""What is measured of one column of scores: ranking, classification at three thresholds, calibration.

A measure goes by its metric and by the rule that sets the threshold (`RULES`). Every array holds the value on the data
first, then the bootstrap draws, so that means over labels and seeds are taken of both at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from pacx.statistics import (
    RATES,
    Resamples,
    brier_draws,
    calibration_error,
    calibration_error_draws,
    f1_threshold,
    multiclass_draws,
    rates_draws,
    specificity_threshold,
)
from pacx.statistics.operating import sensitivity_of_block
from pacx.statistics.ordering import draw_by_draw, order
from pacx.statistics.precision_recall import average_precision_of_block
from pacx.statistics.ranking import auroc_of_block

__all__ = ["KEYS", "RULES", "Cuts", "Key", "choose_cuts", "measure_classes", "measure_column", "with_the_data"]

Array = NDArray[np.float64]
Key = tuple[str, str]
"""metric and rule"""

RULES = {
    "": "needs no threshold",
    "half": "called positive at a probability of .5 or more, as published",
    "val_f1": "at the threshold that has the largest F1 on the validation rows; of several the highest",
    "val_specificity": "at the lowest threshold with the given specificity on the validation rows",
    "test_roc": "at the given specificity, read off the ROC curve of the test rows themselves",
    "argmax": "the class with the highest score",
    "delong": "needs no threshold; interval by DeLong, where every patient has one image",
}
_RANKED: tuple[Key, ...] = (("auroc", ""), ("average_precision", ""), ("sensitivity", "test_roc"))
_CALIBRATED: tuple[Key, ...] = (("brier", ""), ("calibration_error", ""))
_AT_CUTS: dict[str, tuple[str, ...]] = {
    "half": RATES, "val_f1": RATES, "val_specificity": ("sensitivity", "specificity", "precision")
}  # fmt: skip
KEYS = (*_RANKED, *((metric, rule) for rule, metrics in _AT_CUTS.items() for metric in metrics), *_CALIBRATED)
"""everything that `measure_column` measures"""


class Cuts(NamedTuple):
    """Thresholds on log-odds, by rule; NaN where the validation rows leave them undefined."""

    half: float
    val_f1: float
    val_specificity: float


def choose_cuts(target: Array, score: Array, *, specificity: float) -> Cuts:
    """Choose thresholds on validation rows (N,); without rows of both classes, or with NaN scores, there are none."""
    known = np.isfinite(target) & np.isfinite(score)
    y, s = target[known], score[known]
    return Cuts(0.0, f1_threshold(y, s), specificity_threshold(y, s, specificity=specificity))


def with_the_data(resamples: Resamples) -> Resamples:
    """Put the data themselves before the draws, as a draw in which each patient comes once."""
    once = np.ones((1, resamples.weights.shape[1]))
    return Resamples(resamples.codes, np.concatenate([once, resamples.weights]))


def measure_column(
    target: Array, score: Array, resamples: Resamples, cuts: Cuts, *, specificity: float
) -> dict[Key, Array]:
    """Measure one column.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        score: (N,) log-odds.
        resamples: `with_the_data`.
        cuts: thresholds from validation rows.
        specificity: at which the sensitivity is read off the ROC curve.

    Returns:
        (1 + draws,) for each metric and rule.
    """
    of_block = (auroc_of_block, average_precision_of_block, sensitivity_of_block(specificity))
    found: dict[Key, Array] = dict(zip(_RANKED, draw_by_draw(order(target, score), resamples, *of_block), strict=True))
    for rule, metrics in _AT_CUTS.items():
        rates = rates_draws(target, score, resamples, threshold=getattr(cuts, rule))
        found |= {(metric, rule): getattr(rates, metric) for metric in metrics}
    return found | dict(zip(_CALIBRATED, _calibration(target, expit(score), resamples), strict=True))


def _calibration(target: Array, probability: Array, resamples: Resamples) -> tuple[Array, Array]:
    """Brier score and calibration error; the draws of the latter are shifted to the data's, which is no draw."""
    drawn = Resamples(resamples.codes, resamples.weights[1:])
    error = calibration_error(target, probability)
    draws = calibration_error_draws(target, probability, drawn)
    return brier_draws(target, probability, resamples), np.append(error, draws)


def measure_classes(target: Array, score: Array, resamples: Resamples) -> dict[Key, Array]:
    """Measure columns (N, K) that are the classes of one label, each (1 + draws,)."""
    known: NDArray[np.bool_] = np.asarray(np.isfinite(target).all(axis=1))
    accuracy, f1 = multiclass_draws(target[known], score[known], resamples.of(known))
    return {("accuracy", "argmax"): accuracy, ("f1", "argmax"): f1}
