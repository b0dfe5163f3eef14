"""Spearman's rank correlation, for the rows as they are or for all bootstrap draws at once.

    rho = Pearson's correlation of mid-ranks,   rank of x = (weight below x) + (weight at x + 1) / 2

A bootstrap draw gives each row a whole-number weight (how often its patient was drawn); a row of weight w stands for w
equal rows. The weighted mid-ranks above are then the mid-ranks of the drawn sample, ties from repetition included. All
draws share the sorting.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pacx.statistics.bootstrap import Array, Resamples

__all__ = ["spearman", "spearman_draws"]

FEWEST = 3
"""rows below which a rank correlation is left undefined"""

_BLOCK = 4_000_000
"""numbers (32 MB as float64) that one block of draws may hold"""


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Rank correlation of two columns (N,); rows where either is not finite are left out.

    Returns:
        a number in [-1, 1]; NaN for fewer than three rows or a constant column.
    """
    rows = len(np.asarray(x))
    return float(spearman_draws(x, y, Resamples(np.arange(rows), np.ones((1, rows))))[0])


def spearman_draws(x: ArrayLike, y: ArrayLike, resamples: Resamples) -> Array:
    """Rank correlation of every bootstrap draw, (draws,); NaN where a draw leaves it undefined.

    Args:
        x: (N,) one column.
        y: (N,) the other.
        resamples: draws over the N rows.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    draws = len(resamples.weights)
    if known.sum() < FEWEST:
        return np.full(draws, np.nan)
    a, b, codes = a[known], b[known], resamples.codes[known]
    block = max(1, _BLOCK // len(a))
    parts = [_correlation(a, b, resamples.weights[start : start + block][:, codes]) for start in range(0, draws, block)]
    return np.concatenate(parts) if parts else np.empty(0)


def _correlation(a: Array, b: Array, weight: Array) -> Array:
    """Correlate under each weighting (draws, N)."""
    total = weight.sum(axis=1)
    centre = (total + 1) / 2  # the mean of mid-ranks, whatever the ties
    x, y = (_ranks(column, weight) - centre[:, None] for column in (a, b))
    both, of_x, of_y = (np.sum(weight * term, axis=1) for term in (x * y, x * x, y * y))
    scale = np.sqrt(of_x * of_y)
    found: Array = np.divide(both, scale, out=np.full(len(both), np.nan), where=(scale > 0) & (total >= FEWEST))
    return found


def _ranks(column: Array, weight: Array) -> Array:
    """Weighted mid-ranks (draws, N); rows of weight 0 get a rank that counts nowhere."""
    group: NDArray[np.int64]
    _, group = np.unique(column, return_inverse=True)
    order = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    at = np.add.reduceat(weight[:, order], first, axis=1)
    middle: Array = np.cumsum(at, axis=1) - at + (at + 1) / 2
    return middle[:, group]
