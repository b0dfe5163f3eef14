"""Calibration: does a predicted probability of 30 % come true three times in ten?

    Brier score      mean of (p - y)^2                                                     (Brier 1950)
    calibration      ECE = sum over bins b of n_b / n |mean of y in b - mean of p in b|    (Naeini et al. 2015)

* **Bins hold equal numbers of rows**, not equal ranges of p: with rare findings nearly all p lie in the lowest range.
  Bounds are the quantiles of p over the rows; rows with equal p share a bin.
* **The ECE is biased upwards**: even of a perfect model, the share of positives in a bin of n rows is off by about
  sqrt(p (1 - p) / n). A bootstrap draw adds the same noise once more. The draws are therefore shifted so that their
  mean is the ECE of the data (and cut at 0): their spread serves for an interval, the value keeps its bias.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pacx.errors import PacxError
from pacx.statistics.bootstrap import Array, Resamples, mean_draws
from pacx.statistics.ordering import checked, one_draw

__all__ = [
    "NUM_BINS",
    "CalibrationBin",
    "brier",
    "brier_draws",
    "calibration_curve",
    "calibration_error",
    "calibration_error_draws",
]

NUM_BINS = 10


class CalibrationBin(NamedTuple):
    """A point of the calibration curve."""

    predicted: float
    """mean probability"""
    observed: float
    """share of positives"""
    num: int


def brier(target: ArrayLike, probability: ArrayLike) -> float:
    """Mean squared error of probabilities, 0 = perfect; NaN if a class is absent.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        probability: (N,) in [0, 1].
    """
    return float(brier_draws(target, probability, one_draw(np.size(target)))[0])


def brier_draws(target: ArrayLike, probability: ArrayLike, resamples: Resamples) -> Array:
    """Brier score of every bootstrap draw, (draws,)."""
    y, p, kept = _known(target, probability, resamples)
    return _defined(mean_draws((p - y) ** 2, kept), y, kept)


def calibration_curve(target: ArrayLike, probability: ArrayLike, *, bins: int = NUM_BINS) -> list[CalibrationBin]:
    """Mean probability and share of positives in bins of equal numbers of rows, by ascending probability.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        probability: (N,) in [0, 1].
        bins: how many; fewer where rows have equal probabilities.
    """
    y, p, _ = _known(target, probability, one_draw(np.size(target)))
    where = _bin(p, bins)
    return [
        CalibrationBin(float(p[where == b].mean()), float(y[where == b].mean()), int((where == b).sum()))
        for b in np.unique(where)
    ]


def calibration_error(target: ArrayLike, probability: ArrayLike, *, bins: int = NUM_BINS) -> float:
    """Expected calibration error over bins of equal numbers of rows, in [0, 1]; NaN if a class is absent.

    Args:
        target: (N,) 0, 1 or NaN (row left out).
        probability: (N,) in [0, 1].
        bins: how many.
    """
    y, p, single = _known(target, probability, one_draw(np.size(target)))
    return float(_raw_error(y, p, single, bins=bins)[0])


def calibration_error_draws(
    target: ArrayLike, probability: ArrayLike, resamples: Resamples, *, bins: int = NUM_BINS
) -> Array:
    """Calibration error of every bootstrap draw in the data's bins, shifted to the data's own, (draws,)."""
    y, p, kept = _known(target, probability, resamples)
    found = _raw_error(y, p, kept, bins=bins)
    known = np.isfinite(found)
    if not known.any():
        return found
    of_data = _raw_error(y, p, one_draw(len(y)), bins=bins)
    return np.asarray(np.maximum(found - found[known].mean() + of_data, 0.0))


def _raw_error(y: Array, p: Array, resamples: Resamples, *, bins: int) -> Array:
    inside = np.eye(bins)[_bin(p, bins)]
    gap = np.abs(resamples.sums(inside * (y - p)[:, None])).sum(axis=1)
    rows = resamples.sums(np.ones(len(y)))
    share: Array = np.divide(gap, rows, out=np.full(len(rows), np.nan), where=rows > 0)
    return _defined(share, y, resamples)


def _bin(p: Array, bins: int) -> NDArray[np.int64]:
    if bins < 1:
        raise PacxError(f"A calibration curve needs at least one bin; found {bins}.")
    if not len(p):
        return np.zeros(0, dtype=np.int64)
    bounds = np.quantile(p, np.arange(1, bins) / bins)
    return np.searchsorted(bounds, p, side="right").astype(np.int64)


def _known(target: ArrayLike, probability: ArrayLike, resamples: Resamples) -> tuple[Array, Array, Resamples]:
    y, p = checked(target, probability)
    known = ~np.isnan(y)
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise PacxError(
            f"Probabilities lie in [0, 1]; found {p[known].min():g} to {p[known].max():g}. Log-odds x become "
            "probabilities by 1 / (1 + exp(-x))."
        )
    return y[known], p[known], resamples.of(known)


def _defined(found: Array, y: Array, resamples: Resamples) -> Array:
    """NaN where a draw holds one class only."""
    both = (resamples.sums(y == 1) > 0) & (resamples.sums(y == 0) > 0)
    return np.where(both, found, np.nan)
