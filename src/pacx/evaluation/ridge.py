"""Ridge regression onto many targets, with its penalty chosen on held-out rows.

    W(a) = argmin |Y - X W|^2 + a |W|^2 = V diag(1 / (eigenvalue + a)) V' X'Y,   X'X = V diag(eigenvalue) V'

One eigendecomposition serves all penalties. X and Y are centred on the fitted rows first, which is what an
unpenalised intercept amounts to; X is also scaled to unit variance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PENALTIES", "Ridge", "fit_ridge", "fit_ridge_by_groups", "fit_ridge_with"]

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


class _Spectrum(NamedTuple):
    """What serves all penalties: the eigendecomposition of standardised features, and the targets along its axes."""

    mean: Array
    scale: Array
    target_mean: Array
    eigenvalues: Array
    axes: Array
    along: Array

    def errors(self, x: ArrayLike, y: ArrayLike, penalties: ArrayLike) -> Array:
        """Sum the squared errors on other rows, (penalties,)."""
        rows = (np.asarray(x, dtype=np.float64) - self.mean) * self.scale @ self.axes
        wanted = np.asarray(y, dtype=np.float64) - self.target_mean
        tried = np.asarray(penalties, dtype=np.float64)
        return np.array([np.sum((wanted - rows @ (self.along / (self.eigenvalues + a)[:, None])) ** 2) for a in tried])


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
    spectrum = _spectrum(x, y)
    penalty = float(len(spectrum.mean))
    if held_out is not None and len(np.asarray(held_out[1])):
        penalty = _best(spectrum.errors(*held_out, penalties), penalties)
    return _ridge(spectrum, penalty)


def fit_ridge_with(x: ArrayLike, y: ArrayLike, *, penalty: float) -> Ridge:
    """Fit a ridge regression with a given penalty, on standardised features and summed squared errors."""
    return _ridge(_spectrum(x, y), penalty)


def fit_ridge_by_groups(
    x: ArrayLike, y: ArrayLike, *, groups: ArrayLike, folds: int = 5, seed: int = 0, penalties: ArrayLike = PENALTIES
) -> Ridge:
    """Fit a ridge regression whose penalty is chosen on the fitted rows themselves, by cross-validation over groups.

    For data sets too small to spare rows for validation. Whole groups (patients) are left out at a time: rows of one
    patient resemble each other and would make every small penalty look good.

    Args:
        x: (n, D) features.
        y: (n, M) targets.
        groups: (n,) group of each row.
        folds: how many parts the groups are dealt into; as many as there are groups if these are fewer.
        seed: deals the groups out.
        penalties: what is tried. With a single group there is nothing to choose by and the penalty is D.
    """
    features, targets = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    parts = min(folds, len(names))
    part = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))[codes] % max(parts, 1)
    spectrum = _spectrum(features, targets)
    if parts < 2:
        return _ridge(spectrum, float(features.shape[1]))
    tried = np.asarray(penalties, dtype=np.float64)
    errors = np.zeros(len(tried))
    for number in range(parts):
        out = part == number
        errors += _spectrum(features[~out], targets[~out]).errors(features[out], targets[out], tried)
    return _ridge(spectrum, _best(errors, tried))


def _spectrum(x: ArrayLike, y: ArrayLike) -> _Spectrum:
    features, targets = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    mean, sd = features.mean(axis=0), features.std(axis=0)
    # A feature that is constant up to float32 rounding carries nothing; scaling would blow the rounding up.
    scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 1e-6 * np.maximum(np.abs(mean), 1.0))
    target_mean = targets.mean(axis=0)
    standardised = (features - mean) * scale
    eigenvalues, axes = np.linalg.eigh(standardised.T @ standardised)
    along = axes.T @ (standardised.T @ (targets - target_mean))
    return _Spectrum(mean, scale, target_mean, np.maximum(eigenvalues, 0.0), axes, along)


def _best(errors: Array, penalties: ArrayLike) -> float:
    return float(np.asarray(penalties, dtype=np.float64)[int(np.argmin(errors))])


def _ridge(spectrum: _Spectrum, penalty: float) -> Ridge:
    weight = spectrum.axes @ (spectrum.along / (spectrum.eigenvalues + penalty)[:, None])
    return Ridge(weight, spectrum.mean, spectrum.scale, spectrum.target_mean, penalty)
