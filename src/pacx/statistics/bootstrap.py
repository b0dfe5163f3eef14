"""Patient-level bootstrap: draws, intervals, paired differences, means."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pacx.errors import PacxError

__all__ = [
    "Array",
    "Difference",
    "Interval",
    "Resamples",
    "bootstrap_mean",
    "difference_of",
    "interval_of",
    "mean_draws",
    "mean_of_defined",
    "paired_mean_difference",
    "resample_patients",
]

Array = NDArray[np.float64]


class Interval(NamedTuple):
    """A statistic and its confidence interval; NaN where undefined."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """A paired difference, its confidence interval and its two-sided bootstrap p-value; NaN where undefined."""

    value: float
    low: float
    high: float
    p_value: float


class Resamples(NamedTuple):
    """Patient-level bootstrap draws over a fixed list of rows."""

    codes: NDArray[np.int64]
    """(N,) which column of `weights` each row's patient has"""
    weights: Array
    """(draws, patients) how often each patient was drawn; not to be written to"""

    def of(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Resamples:
        """Keep the draws for some of the rows: the same patients with the same counts."""
        return Resamples(self.codes[rows], self.weights)

    def sums(self, values: ArrayLike) -> Array:
        """Sum values (N,) or (N, K) over the rows of every draw, (draws,) or (draws, K)."""
        x = np.asarray(values, dtype=np.float64)
        patients, table = self.weights.shape[1], x[:, None] if x.ndim == 1 else x
        columns = [np.bincount(self.codes, weights=column, minlength=patients) for column in table.T]
        total: Array = self.weights @ np.stack(columns, axis=1)
        return total.reshape(-1, *x.shape[1:])


def resample_patients(
    patient: ArrayLike, *, draws: int = 1000, seed: int = 0, stratify: ArrayLike | None = None
) -> Resamples:
    """Draw patients with replacement.

    The draws depend on the set of patients and the seed alone, not on the order of the rows.

    Args:
        patient: (N,) patient of each row, any sortable type.
        draws: number of bootstrap draws.
        seed: seed of the draws.
        stratify: (N,) numbers by which patients are kept apart; a patient belongs to the largest number among its
            rows, NaN left out. With a label, those are the patients with a positive image and those without, and
            every draw holds as many of either as the cohort: for rare findings, of which a plain draw may hold none.
    """
    names, found = np.unique(np.asarray(patient), return_inverse=True)
    codes = found.astype(np.int64).reshape(-1)
    if stratify is None:
        return Resamples(codes, _counts(len(names), draws, seed))
    rng = np.random.Generator(np.random.PCG64(seed))
    counts = np.zeros((draws, len(names)))
    strata = _strata(codes, stratify, patients=len(names))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    return Resamples(codes, counts)


@lru_cache(maxsize=1)  # drawing takes ten times as long as scoring; question follows question on the same patients
def _counts(patients: int, draws: int, seed: int) -> Array:
    """Draw how often each patient is in each draw, (draws, patients), read-only."""
    counts = np.zeros((draws, patients))
    if patients:
        rng = np.random.Generator(np.random.PCG64(seed))
        counts[:] = rng.multinomial(patients, np.full(patients, 1 / patients), size=draws)
    counts.flags.writeable = False
    return counts


def _strata(codes: NDArray[np.int64], stratify: ArrayLike, *, patients: int) -> Array:
    """Return the stratum of each patient, (patients,)."""
    values = np.asarray(stratify, dtype=np.float64).reshape(-1)
    if len(values) != len(codes):
        raise PacxError(f"`stratify` has {len(values)} values for {len(codes)} rows; every row needs one.")
    largest = np.full(patients, -np.inf)  # stays where a patient has no known value: a stratum of its own
    np.maximum.at(largest, codes, np.where(np.isnan(values), -np.inf, values))
    return largest


def interval_of(value: float, draws: ArrayLike, *, level: float = 0.95) -> Interval:
    """Put the percentile interval of bootstrap draws around a statistic."""
    defined = np.asarray(draws, dtype=np.float64)
    defined = defined[np.isfinite(defined)]
    if not np.isfinite(value) or not defined.size:
        return Interval(float(value), np.nan, np.nan)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def difference_of(value: float, draws: ArrayLike, *, level: float = 0.95) -> Difference:
    """Put interval and p-value on a paired difference, given the differences of all draws.

    The p-value is twice the smaller share of draws on either side of zero, each share with one draw added so that
    it is never 0 (Davison and Hinkley 1997, section 4.4): it is below 1 - level when the interval excludes zero.
    """
    value, low, high = interval_of(value, draws, level=level)
    defined = np.asarray(draws, dtype=np.float64)
    defined = defined[np.isfinite(defined)]
    if not np.isfinite(low):
        return Difference(value, low, high, np.nan)
    smaller = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return Difference(value, low, high, float(min(1.0, 2 * (smaller + 1) / (defined.size + 1))))


def mean_draws(values: ArrayLike, resamples: Resamples) -> Array:
    """Mean of every bootstrap draw over rows, (draws,); NaN values are left out."""
    x = np.asarray(values, dtype=np.float64)
    known = np.isfinite(x)
    kept = resamples.of(known)
    total, drawn = kept.sums(x[known]), kept.sums(np.ones(int(known.sum())))
    result: Array = np.divide(total, drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)
    return result


def bootstrap_mean(
    values: ArrayLike, patient: ArrayLike, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean over rows with its patient-level bootstrap interval; non-finite values are left out."""
    x = np.asarray(values, dtype=np.float64)
    known = np.isfinite(x)
    resamples = resample_patients(patient, draws=draws, seed=seed)
    return interval_of(float(x[known].mean()) if known.any() else np.nan, mean_draws(x, resamples), level=level)


def paired_mean_difference(
    values_a: ArrayLike,
    values_b: ArrayLike,
    patient: ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Mean of `values_a - values_b` over the rows where both are known, with interval and p-value."""
    gap = np.asarray(values_a, dtype=np.float64) - np.asarray(values_b, dtype=np.float64)
    known = np.isfinite(gap)
    resamples = resample_patients(patient, draws=draws, seed=seed)
    return difference_of(float(gap[known].mean()) if known.any() else np.nan, mean_draws(gap, resamples), level=level)


def mean_of_defined(columns: Array) -> Array:
    """Mean over the first axis, NaN left out; NaN where nothing is defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(columns, axis=0))
