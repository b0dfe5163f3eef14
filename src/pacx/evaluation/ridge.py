"""Ridge regression onto many targets, with its penalty chosen on held-out rows.

    W(a) = argmin |Y - X W|^2 + a |W|^2 = V diag(1 / (eigenvalue + a)) V' X'Y,   X'X = V diag(eigenvalue) V'

One eigendecomposition serves all penalties. X and Y are centred on the fitted rows first, which is what an
unpenalised intercept amounts to; X is also scaled to unit variance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PENALTIES", "Ridge", "fit_ridge"]

Array = NDArray[np.float64]

PENALTIES = np.logspace(-1, 7, 17)
"""Penalties that are tried; the largest ones amount to predicting the mean, whatever the number of rows."""


class Ridge(NamedTuple):
    """A fitted linear map from features to centred targets."""

    weight: Array
    """(D, M)"""
    feature_mean: Array
    """(D,)"""
    feature_scale: Array
    """(D,) one over the standard deviation; 0 for a constant feature"""
    target_mean: Array
    """(M,) mean of the fitted targets"""
    penalty: float

    def centred(self, x: ArrayLike) -> Array:
        """Predict targets minus `target_mean`, (n, M)."""
        rows = (np.asarray(x, dtype=np.float64) - self.feature_mean) * self.feature_scale
        return np.asarray(rows @ self.weight)


def fit_ridge(
    x: ArrayLike,
    y: ArrayLike,
    *,
    held_out: tuple[ArrayLike, ArrayLike] | None = None,
    penalties: ArrayLike = PENALTIES,
) -> Ridge:
    """Fit a ridge regression with the penalty that predicts held-out rows best (squared error over all targets).

    Args:
        x: (n, D) features.
        y: (n, M) targets.
        held_out: features and targets of the rows that choose the penalty. Without rows there is nothing to choose by
            and the penalty is D, worth one row per feature.
        penalties: what is tried, on standardised features and summed squared errors.
    """
    features, targets = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    mean, sd = features.mean(axis=0), features.std(axis=0)
    # A feature that is constant up to float32 rounding carries nothing; scaling would blow the rounding up.
    scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 1e-6 * np.maximum(np.abs(mean), 1.0))
    target_mean = targets.mean(axis=0)
    standardised = (features - mean) * scale
    eigenvalues, axes = np.linalg.eigh(standardised.T @ standardised)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    along = axes.T @ (standardised.T @ (targets - target_mean))
    penalty = float(features.shape[1])
    if held_out is not None and len(np.asarray(held_out[1])):
        rows = (np.asarray(held_out[0], dtype=np.float64) - mean) * scale @ axes
        wanted = np.asarray(held_out[1], dtype=np.float64) - target_mean
        tried = np.asarray(penalties, dtype=np.float64)
        errors = [np.sum((wanted - rows @ (along / (eigenvalues + a)[:, None])) ** 2) for a in tried]
        penalty = float(tried[int(np.argmin(errors))])
    return Ridge(axes @ (along / (eigenvalues + penalty)[:, None]), mean, scale, target_mean, penalty)
